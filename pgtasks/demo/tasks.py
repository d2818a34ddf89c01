"""The tasks of the demo: a program written against Celery's API."""

from __future__ import annotations

from typing import Any

from pgtasks import Celery, chord, group
from pgtasks.demo.words import summary_of, total_of, words_of

app = Celery("pgtasks.demo", set_as_current=False)

#: Files whose counts one `add_up` adds.
BATCH = 50


# Not shared: whoever imports this for its own reasons gets no tasks in its own apps.
@app.task(shared=False)
def count_words(path: str) -> dict[str, int]:
    """Count the words of one file."""
    return words_of(path)


@app.task(shared=False)
def add_up(counts: list[dict[str, int]]) -> dict[str, int]:
    """Add the counts of several files."""
    return total_of(counts)


@app.task(shared=False)
def summarise(counts: list[dict[str, int]]) -> dict[str, Any]:
    """Summarise the counts."""
    return summary_of(total_of(counts))


def word_count(paths: list[str]) -> Any:
    """A chord of chords: one task per file, one for each batch of files, one for the answer."""
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    return chord([chord(group(count_words.s(path) for path in batch), add_up.s()) for batch in batches], summarise.s())
