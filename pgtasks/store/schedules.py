"""Verbs on periodic tasks: the state that schedulers share, and taking turns.

    register -> recall ... advance -> (the task is enqueued in the same transaction)

The statements, with what they rely on, are in `schedules.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from pgtasks.store.sql import Query, Row, column, load, nothing, rows

_SQL = load("schedules")


class Memory(NamedTuple):
    """The shared state of one periodic task."""

    name: str
    last_run_at: datetime
    #: None where nobody has computed it.
    next_run_at: datetime | None
    runs: int
    is_paused: bool


class Described(NamedTuple):
    """A periodic task as the code of an app has it, in words; `moment` is when it counts from at first."""

    name: str
    task: str
    schedule: str
    moment: datetime


class Turn(NamedTuple):
    """One due time of a periodic task, for the scheduler that takes it."""

    app: str
    name: str
    #: last_run_at as it was when the turn was found to be due, and as it shall be.
    seen: datetime
    moment: datetime
    next: datetime | None
    #: The id that the task has.
    task: UUID
    overlap: str
    is_missed: bool


def register(app: str, entries: Sequence[Described]) -> Query[list[Memory]]:
    """Make sure that the periodic tasks of an app have rows; gives what is known of each."""
    values = {
        "app": app,
        "names": [entry.name for entry in entries],
        "tasks": [entry.task for entry in entries],
        "schedules": [entry.schedule for entry in entries],
        "moments": [entry.moment for entry in entries],
    }
    return Query(_SQL["register"], values, _memories)


def recall(app: str) -> Query[list[Memory]]:
    """What is known of the periodic tasks of an app."""
    return Query(_SQL["recall"], {"app": app}, _memories)


def expect(app: str, moments: Sequence[tuple[str, datetime, datetime]]) -> Query[None]:
    """Write down when periodic tasks are due next: by name, what was seen of them, and when."""
    names, seen, nexts = ([moment[place] for moment in moments] for place in range(3))
    return Query(_SQL["expect"], {"app": app, "names": names, "seen": seen, "nexts": nexts}, nothing)


def _memories(found: Sequence[Row]) -> list[Memory]:
    return [Memory._make(row) for row in found]


def advance(turn: Turn) -> Query[str | None]:
    """Take a turn: gives 'send', 'pass' or 'wait', or None when somebody else has taken it."""
    return Query(_SQL["advance"], turn._asdict(), _verdict)


def _verdict(found: Sequence[Row]) -> str | None:
    return found[0][0] if found else None


def pause(app: str, names: Sequence[str]) -> Query[list[str]]:
    """Pause periodic tasks; gives those of the names that exist."""
    return Query(_SQL["pause"], {"app": app, "names": list(names)}, column)


def resume(app: str, names: Sequence[str]) -> Query[list[str]]:
    """Resume periodic tasks, from now on; gives those of the names that exist."""
    return Query(_SQL["resume"], {"app": app, "names": list(names)}, column)


def listing(app: str) -> Query[Sequence[Row]]:
    """The periodic tasks of an app, as rows of the view `pgtasks.schedules`."""
    return Query(_SQL["listing"], {"app": app}, rows)
