"""Counting words, without any queue: what the tasks do, and what their answer is compared with.

A file is whatever can be opened: one that cannot be read, or is not text, has no words.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

_WORD = re.compile(r"[^\W\d_]{2,}")
_LOOK_AT_BYTES = 8192


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
