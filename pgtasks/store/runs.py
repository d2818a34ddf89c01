"""Verbs on workflow runs for operators: find, look, history, redrive, fork, rewind.

The statements, with what they rely on, are in `runs.sql`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from pgtasks.store.sql import Query, Row, column, count, load

_SQL = load("runs")


class Found(NamedTuple):
    """One run of a list."""

    id: UUID
    task_id: str | None
    name: str
    queue: str
    state: str
    created_at: datetime
    at: datetime | None
    #: What a suspended run waits for.
    waits_for: list[str]

    @property
    def public_id(self) -> str:
        """The id as its user knows it."""
        return self.task_id or str(self.id)


class Sight(NamedTuple):
    """One run: its state, its progress and its arguments."""

    id: UUID
    task_id: str | None
    name: str
    queue: str
    created_at: datetime
    state: str
    done_at: datetime | None
    wakes_at: datetime | None
    delivery: int
    content_type: str | None
    content_encoding: str | None
    payload: bytes
    options: bytes | None
    now: datetime


class Line(NamedTuple):
    """One step of a history."""

    seq: int
    name: str
    ordinal: int
    kind: str
    state: str
    at: datetime
    due: datetime | None
    took_s: float | None
    attempts: int
    delivery: int
    source: str | None
    content_type: str | None
    content_encoding: str | None
    value: bytes | None


def find(
    names: Sequence[str], states: Sequence[str] | None = None, since: datetime | None = None, limit: int = 100
) -> Query[list[Found]]:
    """Find runs, the newest first."""
    values = {
        "names": list(names), "states": None if states is None else list(states), "since": since, "limit": limit
    }  # fmt: skip
    return Query(_SQL["find"], values, _found)


def _found(found: Sequence[Row]) -> list[Found]:
    return [Found._make(row) for row in found]


def look(run: UUID) -> Query[Sight | None]:
    """Read where one run stands; None when it is not known."""
    return Query(_SQL["look"], {"run": run}, _sight)


def _sight(found: Sequence[Row]) -> Sight | None:
    return Sight._make(found[0]) if found else None


def history(run: UUID) -> Query[list[Line]]:
    """Read the steps of a run, in order."""
    return Query(_SQL["history"], {"run": run}, _lines)


def _lines(found: Sequence[Row]) -> list[Line]:
    return [Line._make(row) for row in found]


def redrive(ids: Iterable[UUID], *, with_self: bool = True) -> Query[list[UUID]]:
    """Run failed runs again, and what they stumbled over; gives the ids of all that run."""
    return Query(_SQL["redrive"], {"ids": list(ids), "with_self": with_self}, column)


def fork(run: UUID, copy: UUID, seq: int) -> Query[int]:
    """Copy a run under a new id, to go on from a step; 1 if the run is known."""
    return Query(_SQL["fork"], {"run": run, "copy": copy, "seq": seq}, count)


def rewind(run: UUID, seq: int) -> Query[int]:
    """Have a run that is not under way go on from a step; 1 if it does."""
    return Query(_SQL["rewind"], {"run": run, "seq": seq}, count)
