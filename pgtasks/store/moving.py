"""Verbs of the bridge between Postgres and the brokers of Celery; the statements are in `bridge.sql`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from pgtasks.store.sql import Query, Row, id_set, load, nothing

_SQL = load("moving")


class Aside(NamedTuple):
    """A message of another broker that was set aside; `message` is the whole of it."""

    id: UUID
    at: datetime | None
    priority: int
    source: str
    queue: str
    reason: str
    message: bytes


class Due(NamedTuple):
    """A result that the old result store is owed."""

    id: UUID
    task_id: str | None
    state: str
    content_type: str | None
    content_encoding: str | None
    value: bytes | None
    traceback: bytes | None
    done_at: datetime
    group_id: str | None
    parent: UUID | None
    hidden: bool


class Departing(NamedTuple):
    """A task that is on its way to another broker."""

    id: UUID
    task_id: str | None
    name: str
    queue: str
    priority: int
    due: datetime | None
    expires: datetime | None
    retries: int
    root: UUID | None
    parent: UUID | None
    group_id: str | None
    content_type: str | None
    content_encoding: str | None
    options: bytes | None
    payload: bytes

    @property
    def public_id(self) -> str:
        """The id as its user spells it."""
        return self.task_id or str(self.id)


def durably() -> Query[None]:
    """Have the commit of this transaction wait for the disk, where commits do not."""
    return Query(_SQL["durably"], {}, nothing)


def set_aside(messages: Sequence[Aside]) -> Query[None]:
    """Keep messages that cannot be read; one that is there already is left as it is."""
    values = {
        "ids": [each.id for each in messages],
        "priorities": [each.priority for each in messages],
        "sources": [each.source for each in messages],
        "queues": [each.queue for each in messages],
        "reasons": [each.reason for each in messages],
        "messages": [each.message for each in messages],
    }
    return Query(_SQL["set_aside"], values, nothing)


def aside(limit: int) -> Query[list[Aside]]:
    """What was set aside, the oldest first."""
    return Query(_SQL["aside"], {"limit": limit}, lambda found: [Aside._make(row) for row in found])


def drop_aside(ids: Iterable[UUID]) -> Query[None]:
    """Forget messages that were set aside."""
    return Query(_SQL["drop_aside"], {"ids": list(ids)}, nothing)


def owe(ids: Iterable[UUID]) -> Query[None]:
    """Remember that the results of some tasks go to the old result store as well."""
    return Query(_SQL["owe"], {"ids": list(ids)}, nothing)


def due_results(limit: int) -> Query[list[Due]]:
    """Results that are owed and there."""
    return Query(_SQL["due_results"], {"limit": limit}, lambda found: [Due._make(row) for row in found])


def paid(ids: Iterable[UUID]) -> Query[None]:
    """Note that the old store has some results."""
    return Query(_SQL["paid"], {"ids": list(ids)}, nothing)


def here(ids: Iterable[UUID]) -> Query[set[UUID]]:
    """Which of some tasks are in this database."""
    return Query(_SQL["here"], {"ids": list(ids)}, id_set)


def depart(queues: Sequence[str], staying: Sequence[str], limit: int) -> Query[list[Departing]]:
    """Take away up to `limit` tasks that are ready and as many that are scheduled; publish them, then commit."""
    values = {"queues": list(queues), "staying": list(staying), "limit": limit}
    return Query(_SQL["depart"], values, _departing)


def _departing(found: Sequence[Row]) -> list[Departing]:
    return [Departing._make(row) for row in found]


def staying(queues: Sequence[str], names: Sequence[str]) -> Query[dict[str, int]]:
    """How many waiting tasks another broker could not run, by the reason; `waiting` are those that it could."""
    return Query(_SQL["staying"], {"queues": list(queues), "staying": list(names)}, _by_reason)


def _by_reason(found: Sequence[Row]) -> dict[str, int]:
    return dict(found)
