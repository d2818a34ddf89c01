"""Verbs for live views; the statements are in `overview.sql`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from pgtasks.store.sql import Query, Row, load

_SQL = load("overview")


class Overview(NamedTuple):
    """A snapshot of queues, workers and tasks; the comments name the columns."""

    now: datetime
    ready: int
    scheduled: int
    #: How many tasks have ended in the last minute, and how many of them failed.
    ended: int
    failed: int
    #: queue, ready, scheduled, since when the oldest waits
    queues: list[tuple[Any, ...]]
    #: hostname, pool, slots, claimed, up, queues
    workers: list[tuple[Any, ...]]
    #: id, name, hostname, for how long
    running: list[tuple[Any, ...]]
    #: id, name, state, how long it took
    latest: list[tuple[Any, ...]]


class Stand(NamedTuple):
    """Where one task stands; the payload is text where it is JSON, and None otherwise."""

    name: str
    state: str
    queue: str
    priority: int
    due: datetime | None
    claimed_at: datetime | None
    done_at: datetime | None
    retries: int
    worker: str | None
    payload: str | None
    traceback: str | None


class Traffic(NamedTuple):
    """What a queue has, and who takes it."""

    queue: str
    ready: int
    scheduled: int
    claimed: int
    consumers: int


class Unended(NamedTuple):
    """A task that has not ended, as it was sent."""

    id: UUID
    public_id: str
    name: str
    queue: str
    priority: int
    due: datetime | None
    state: str
    group_id: str | None
    payload: bytes
    content_type: str | None
    content_encoding: str | None
    options: bytes | None


#: Where the duration is in a row of each list.
_DURATIONS = (3, 4, 3, 3)


def look(limit: int = 20) -> Query[Overview]:
    """Look at everything: up to `limit` queues, workers, tasks that run and tasks that ended last."""
    return Query(_SQL["look"], {"limit": limit}, _overview)


def stand(task_id: UUID) -> Query[Stand | None]:
    """Where a task stands; None when it is not known."""
    return Query(_SQL["stand"], {"id": task_id}, lambda found: Stand._make(found[0]) if found else None)


def unended() -> Query[list[Unended]]:
    """The tasks that have not ended, the oldest first."""
    return Query(_SQL["unended"], {}, lambda found: [Unended._make(row) for row in found])


def traffic(queues: Sequence[str]) -> Query[list[Traffic]]:
    """What some queues have, in their order."""
    return Query(_SQL["traffic"], {"queues": list(queues)}, lambda found: [Traffic._make(row) for row in found])


def _overview(found: Sequence[Row]) -> Overview:
    *figures, queues, workers, running, latest = found[0]
    lists = [
        [_with_duration(row, at) for row in rows or ()]
        for rows, at in zip((queues, workers, running, latest), _DURATIONS, strict=True)
    ]
    return Overview(*figures, *lists)


def _with_duration(row: list[Any], at: int) -> tuple[Any, ...]:
    seconds = row[at]
    return (*row[:at], None if seconds is None else timedelta(seconds=float(seconds)), *row[at + 1 :])
