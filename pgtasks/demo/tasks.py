"""The tasks of the demo: a program written against Celery's API, and the same count without any queue.

A file is whatever can be opened: one that cannot be read, or is not text, has no words.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from pgtasks import Celery, chord, group

app = Celery("pgtasks.demo", task_ignore_result=False)

_WORD = re.compile(r"[^\W\d_]{2,}")
_LOOK_AT_BYTES = 8192
#: Files whose counts one `add_up` adds.
BATCH = 50


@app.task
def count_words(path: str) -> dict[str, int]:
    """Count the words of one file."""
    return words_of(path)


@app.task
def add_up(counts: list[dict[str, int]]) -> dict[str, int]:
    """Add the counts of several files."""
    return total_of(counts)


@app.task
def summarise(counts: list[dict[str, int]]) -> dict[str, Any]:
    """Say what came of it all."""
    return summary_of(total_of(counts))


def word_count(paths: list[str]) -> Any:
    """A chord of chords: one task per file, one for each batch of files, one for the answer."""
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    return chord([chord(group(count_words.s(path) for path in batch), add_up.s()) for batch in batches], summarise.s())


# -- the same in one process


def words_of(path: str) -> Counter[str]:
    """Count the words of a file, line by line, so that its size does not matter."""
    words: Counter[str] = Counter()
    try:
        with open(path, "rb") as file:
            if b"\0" in file.peek(_LOOK_AT_BYTES)[:_LOOK_AT_BYTES]:
                return words
            for line in file:
                words.update(_WORD.findall(line.decode("utf-8", "replace").lower()))
    except OSError:
        pass
    return words


def total_of(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Add counts."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total


def summary_of(total: dict[str, int]) -> dict[str, Any]:
    """Reduce a count to what fits on a screen, and a digest by which two counts can be compared."""
    ranked = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return {
        "words": sum(total.values()),
        "distinct": len(total),
        "top": [list(item) for item in ranked[:6]],
        "digest": sha256(json.dumps(ranked).encode()).hexdigest(),
    }
