"""Verbs of `pgtasks doctor`: facts about an installation; the statements are in `doctor.sql`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pgtasks.store.sql import Query, Row, column, load, rows

_SQL = load("doctor")

#: How many rows a statement looks at before it says "so many or more".
LIMIT = 10_000

#: Tables that are unlogged by intent: notes that a restart makes void.
MAY_BE_LOST = frozenset({"idle", "waiter", "letter", "reply", "listener", "event", "mailbox", "mail"})


class Table(NamedTuple):
    """One of our tables, by the statistics."""

    name: str
    live: int
    dead: int
    size: int
    is_unvacuumed: bool
    is_unlogged: bool


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
    #: Connections that are not kept for superusers.
    usable_connections: int


class Standing(NamedTuple):
    """How it stands with the work; counts of tasks end at `LIMIT`."""

    alive: int
    slots: int
    ready: int
    #: For how many seconds the oldest of those that were counted is ready.
    oldest_s: float | None
    scheduled: int
    claimed: int


class Way(NamedTuple):
    """How this session reaches the server."""

    is_local: bool
    is_encrypted: bool
    #: Seconds since 1970, by the server's clock.
    clock_s: float


def server() -> Query[dict[str, str]]:
    """Settings and states of the server, as text, by name."""
    return Query(_SQL["server"], {}, _as_dict)


def _as_dict(found: Sequence[Row]) -> dict[str, Any]:
    return dict(found)


def way() -> Query[Way]:
    """How this session reaches the server, and what time it is there."""
    return Query(_SQL["way"], {}, lambda found: Way._make(found[0]))


def standing() -> Query[Standing]:
    """Who works, and how much waits."""
    return Query(_SQL["standing"], {"limit": LIMIT}, lambda found: Standing._make(found[0]))


def data_directory() -> Query[str | None]:
    """Where the server keeps its data; None for a role that may not know."""
    return Query(_SQL["data_directory"], {}, lambda found: found[0][0] if found else None)


def idle_slots() -> Query[Sequence[Row]]:
    """Replication slots that nobody reads: name, bytes of WAL that are kept for it."""
    return Query(_SQL["idle_slots"], {}, rows)


def archiving() -> Query[Sequence[Row]]:
    """The file of WAL that could not be archived, and how often that has failed; none where all is well."""
    return Query(_SQL["archiving"], {}, rows)


def defaults() -> Query[Sequence[Row]]:
    """What new sessions of this role begin with: name, value as the server keeps it, by whom."""
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
