"""Verbs on monitoring events: register listeners, publish to them, read what is kept for each.

    listen -> (anybody) publish -> hear ... unlisten

The statements, with what they rely on, are in `events.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from pgtasks.store.sql import Query, Row, count, load, nothing

_SQL = load("events")


class Batch(NamedTuple):
    """Some events, encoded together."""

    content_type: str | None
    content_encoding: str | None
    body: bytes


def listen(listener: UUID) -> Query[None]:
    """Register a listener; must be repeated every few seconds."""
    return Query(_SQL["listen"], {"listener": listener}, nothing)


def unlisten(listener: UUID) -> Query[None]:
    """Remove a listener."""
    return Query(_SQL["unlisten"], {"listener": listener}, nothing)


def publish(batch: Batch) -> Query[int]:
    """Keep events for everybody who listens; gives how many do."""
    return Query(_SQL["publish"], batch._asdict(), count)


def hear(listener: UUID, limit: int = 100) -> Query[list[Batch]]:
    """Take up to `limit` batches of events that have come for a listener."""
    return Query(_SQL["hear"], {"listener": listener, "limit": limit}, _batches)


def _batches(found: Sequence[Row]) -> list[Batch]:
    return [Batch._make(row) for row in found]


def sweep() -> Query[None]:
    """Remove listeners that are gone, and the events kept for them."""
    return Query(_SQL["sweep"], {}, nothing)
