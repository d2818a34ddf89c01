"""Canvases made by a generator: a seed keeps its meaning, and pgtasks answers as Celery was recorded to answer."""

from __future__ import annotations

import json
import sys

from compat.generated.recipes import make, size, smaller
from compat.implementations import pgtasks
from compat.transcripts import Program, Transcript, run
from compat.verdicts import difference

PROGRAM = Program("canvas", "generated")


def test_a_seed_makes_the_same_program_every_time():
    assert [make(seed) for seed in range(50)] == [make(seed) for seed in range(50)]
    assert all(json.loads(json.dumps(made)) == made for made in map(make, range(50)))


def test_what_is_tried_to_shrink_a_program_is_smaller_than_it():
    made = next(made for made in map(make, range(100)) if size(made) > 60)

    tried = list(smaller(made))

    assert tried
    assert all(size(each) < size(made) for each in tried)


def test_generated_canvases_come_to_what_celery_was_recorded_to_make_of_them(empty_database_url):
    transcript = run(PROGRAM, pgtasks(sys.executable, empty_database_url))

    assert transcript.complete, transcript.error
    recorded = Transcript(PROGRAM.golden.read_text())
    assert transcript.text == recorded.text, difference(recorded, transcript)
