"""Verbs for monitoring; the statements are in `health.sql`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pgtasks.store.sql import Query, Row, load, nothing

_SQL = load("health")


class Place(NamedTuple):
    """The identity of a database and its server: the same for every connection, whatever host or pooler is between."""

    database: int
    server_started_at: datetime


class Figure(NamedTuple):
    """One figure: of what, of which queue, worker or table, and how much."""

    metric: str
    label: str
    value: float


def place() -> Query[Place]:
    """Which database is this?"""
    return Query(_SQL["place"], {}, lambda found: Place._make(found[0]))


def set_clock(now: datetime | None) -> Query[None]:
    """Set the clock of a session; None sets it going again."""
    return Query(_SQL["set_clock"], {"now": now}, nothing)


def clock() -> Query[datetime]:
    """What time is it?"""
    return Query(_SQL["clock"], {}, lambda found: found[0][0])


def figures() -> Query[list[Figure]]:
    """What a dashboard wants to know."""
    return Query(_SQL["figures"], {}, _figures)


def _figures(found: Sequence[Row]) -> list[Figure]:
    return [Figure._make(row) for row in found]
