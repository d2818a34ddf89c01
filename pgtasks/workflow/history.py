"""The recorded steps of a run, and its position among them.

A step is found by its name and its ordinal among the steps of that name; its place among all of them, `seq`, says whether
code and history still agree. Concurrent branches count separately, by a suffix of the name, so that a replay
finds their steps in whatever order they finished.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from pgtasks.store.workflows import Place, Recorded

__all__ = ("Drift", "History")

#: What `Branches.scope` puts behind a name.
_OF_BRANCH = re.compile(r"@\d+$")


class Drift(NamedTuple):
    """A place where the code does not match its history."""

    seq: int
    found: str
    recorded: str


class History:
    """The steps recorded so far, by name and ordinal, and the counters of the program."""

    def __init__(self) -> None:
        self.steps: dict[tuple[str, int], Recorded] = {}
        self._by_seq: dict[int, Recorded] = {}
        self._ordinals: defaultdict[str, int] = defaultdict(int)
        self._seq = 0
        self._shift = 0
        self._seen: set[tuple[str, int]] = set()
        #: The last place at which anything is remembered.
        self.last_seq = 0

    def load(self, rows: Iterable[Recorded]) -> None:
        """Take in what was recorded before."""
        for row in rows:
            self.steps[row.name, row.ordinal] = row
            self._by_seq[row.seq] = row
            self.last_seq = max(self.last_seq, row.seq)

    @property
    def is_replaying(self) -> bool:
        """Is anything recorded beyond the program's current place?"""
        return self._seq + self._shift < self.last_seq

    def place(self, name: str, *, is_once: bool = False) -> Place:
        """The next place of this name; `is_once`: there is only one of it, however often the program comes by."""
        if is_once and (known := self.steps.get((name, 0))) is not None and (name, 0) in self._seen:
            return Place(name, 0, known.seq)
        ordinal = 0 if is_once else self._ordinals[name]
        self._ordinals[name] += 1
        self._seq += 1
        self._seen.add((name, ordinal))
        return Place(name, ordinal, self._seq)

    def at(self, place: Place) -> Recorded | None:
        """What is remembered of a place."""
        return self.steps.get((place.name, place.ordinal))

    def drift(self, place: Place, known: Recorded | None) -> Drift | None:
        """Say where code and history part, once for each parting; places in branches are not compared."""
        if not self.last_seq or ("@" in place.name and _OF_BRANCH.search(place.name)):
            return None
        if known is not None:
            shift = known.seq - place.seq
            if shift == self._shift:
                return None
            there = self._by_seq.get(place.seq + self._shift)
            self._shift = shift
            return Drift(place.seq, place.name, _named(there))
        there = self._by_seq.get(place.seq + self._shift)
        if there is None:
            # The end of what is remembered, or a step whose worker died while others, begun after it, had ended.
            return None
        self._shift -= 1
        return Drift(place.seq, place.name, _named(there))

    def unvisited(self) -> list[Recorded]:
        """Recorded steps that the code did not reach."""
        return [row for key, row in self.steps.items() if key not in self._seen]


def _named(row: Recorded | None) -> str:
    return "nothing" if row is None else f"{row.name}#{row.ordinal}"
