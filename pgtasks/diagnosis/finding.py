"""One thing that is wrong with an installation, and how grave that is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from pgtasks.store.database import OwnConnection
from pgtasks.store.sql import Query

__all__ = ("GRAVITIES", "Finding", "Findings", "Gravity", "ask", "many", "megabytes", "short")

#: `broken` loses work or stops it, `risky` will one day, `note` is good to know.
Gravity = Literal["broken", "risky", "note"]
GRAVITIES: tuple[Gravity, ...] = ("broken", "risky", "note")


class Finding(NamedTuple):
    """What was found, with its value; why that matters; what to do."""

    gravity: Gravity
    name: str
    found: str
    why: str
    advice: str


Findings = Iterator[Finding]


def ask(conn: OwnConnection, query: Query[Any]) -> Any:
    return conn.run(query)


def many(count: int, limit: int) -> str:
    """A count that stopped at a limit."""
    return f"{count:,} or more" if count >= limit else f"{count:,}"


def megabytes(size: float) -> str:
    return f"{size / 1024**3:,.1f} GB" if size >= 1024**3 else f"{size / 1024**2:,.0f} MB"


def short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:160]}..."
