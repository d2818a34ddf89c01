"""Verbs of `pgtasks doctor`: facts about an installation; the statements are in `doctor.sql`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pgtasks.store.sql import Query, Row, column, load, rows

_SQL = load("doctor")

#: How many rows a statement looks at before it says "so many or more".
LIMIT = 10_000


class Table(NamedTuple):
    """One of our tables, by the statistics."""

    name: str
    live: int
    dead: int
    size: int
    is_unvacuumed: bool
    age: int
    options: str


class Horizon(NamedTuple):
    """One who keeps dead rows from being removed; `seconds` is None where nobody knows since when."""

    kind: str
    who: str
    seconds: float | None
    transactions: int | None


class Fleet(NamedTuple):
    """Workers."""

    alive: int
    dead: int
    slots: int
    versions: str


def server() -> Query[dict[str, str]]:
    """Settings and states of the server, as text, by name."""
    return Query(_SQL["server"], {}, _as_dict)


def _as_dict(found: Sequence[Row]) -> dict[str, Any]:
    return dict(found)


def defaults() -> Query[Sequence[Row]]:
    """What new sessions of this role begin with: name, value, by whom."""
    return Query(_SQL["defaults"], {}, rows)


def horizons() -> Query[list[Horizon]]:
    """Who keeps dead rows from being removed."""
    return Query(_SQL["horizons"], {}, lambda found: [Horizon._make(row) for row in found])


def tables() -> Query[list[Table]]:
    """Our tables."""
    return Query(_SQL["tables"], {}, lambda found: [Table._make(row) for row in found])


def invalid_indexes() -> Query[list[Any]]:
    """Names of indexes that nothing uses."""
    return Query(_SQL["invalid_indexes"], {}, column)


def stuck() -> Query[Sequence[Row]]:
    """Work that does not move: why, queue, how many, the oldest's seconds."""
    return Query(_SQL["stuck"], {"limit": LIMIT}, rows)


def orphans() -> Query[Sequence[Row]]:
    """Rows that no transition can leave behind: what, how many, an example."""
    return Query(_SQL["orphans"], {"limit": LIMIT}, rows)


def sleepers() -> Query[Sequence[Row]]:
    """Suspended runs that nothing will wake: how many, an example."""
    return Query(_SQL["sleepers"], {"limit": LIMIT}, rows)


def fleet() -> Query[Fleet]:
    """How many workers there are, and how many tasks they run at a time."""
    return Query(_SQL["fleet"], {}, lambda found: Fleet._make(found[0]))


def names() -> Query[dict[str, int]]:
    """Names of waiting tasks, and how many there are of each among those that were looked at."""
    return Query(_SQL["names"], {"limit": LIMIT}, _as_dict)


def late() -> Query[Sequence[Row]]:
    """Periodic tasks that are late: name, seconds."""
    return Query(_SQL["late"], {}, rows)


def rights() -> Query[dict[str, str | None]]:
    """What this role lacks, and what everybody may write to."""
    return Query(_SQL["rights"], {}, _as_dict)
