"""The verb for monitoring systems; the statement is in `health.sql`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pgtasks.store.sql import Query, Row, load

_SQL = load("health")


class Figure(NamedTuple):
    """One figure: of what, of which queue, worker or table, and how much."""

    metric: str
    label: str
    value: float


def figures() -> Query[list[Figure]]:
    """What a dashboard wants to know."""
    return Query(_SQL["figures"], {}, _figures)


def _figures(found: Sequence[Row]) -> list[Figure]:
    return [Figure._make(row) for row in found]
