"""What the comparison of two transcripts calls the same, a declared deviation, or a difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from compat import verdicts
from compat.transcripts import Program, Transcript, normalised

PROGRAM = Program("tasks", "retry")
CELERY = Transcript("one\ntwo\n")


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def declare(verdict: str, printed: str) -> None:
        monkeypatch.setattr(verdicts, "declarations", lambda: {str(PROGRAM): {"verdict": verdict, "reason": "why"}})
        monkeypatch.setattr(verdicts, "DEVIATIONS", tmp_path)
        verdicts.accepted_path(PROGRAM).parent.mkdir(parents=True)
        verdicts.accepted_path(PROGRAM).write_text(printed)

    monkeypatch.setattr(verdicts, "declarations", dict)
    return declare


@pytest.mark.usefixtures("declare")
def test_equal_transcripts_are_the_same_and_others_an_undeclared_difference():
    assert verdicts.judge(PROGRAM, CELERY, Transcript(CELERY.text)).word == "same"

    different = verdicts.judge(PROGRAM, CELERY, Transcript("one\n2\n"))

    assert different.word == "undeclared"
    assert "-two" in different.difference
    assert "+2" in different.difference


@pytest.mark.usefixtures("declare")
def test_a_program_that_crashed_after_printing_everything_is_not_the_same():
    assert verdicts.judge(PROGRAM, CELERY, Transcript(CELERY.text, error="Traceback")).word == "undeclared"


@pytest.mark.usefixtures("declare")
def test_nothing_is_the_same_that_celery_did_not_run():
    nothing = Transcript("", error="no transcript of real Celery is recorded")

    assert verdicts.judge(PROGRAM, nothing, Transcript("")).word == "undeclared"


def test_a_declared_deviation_is_accepted_only_with_the_transcript_it_was_declared_for(declare):
    declare("better", "one\n2\n")

    assert verdicts.judge(PROGRAM, CELERY, Transcript("one\n2\n")) == verdicts.Verdict("better", "why")
    assert verdicts.judge(PROGRAM, CELERY, Transcript("one\nthree\n")).word == "undeclared"


def test_a_deviation_that_is_none_any_more_must_be_taken_from_the_list(declare):
    declare("better", "one\n2\n")

    assert verdicts.judge(PROGRAM, CELERY, Transcript(CELERY.text)).word == "undeclared"


def test_ids_are_numbered_so_that_mixing_two_of_them_up_still_shows():
    first, second = "01a2068c-bc1e-75a5-a001-429becda532c", "bca22068-7580-4575-8575-49203d653a89"

    assert normalised(f"{first} {second} {first}", "/scratch") == "<id 1> <id 2> <id 1>"


def test_a_class_is_the_same_in_either_package():
    assert normalised("celery.exceptions.Retry", "/scratch") == normalised("pgtasks.exceptions.Retry", "/scratch")
