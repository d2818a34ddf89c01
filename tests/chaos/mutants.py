"""Defects on purpose: a judge that has never found anything has shown nothing.

Each one takes a safety away that pgtasks has; chaos runs with it must be found guilty.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from pgtasks.message import new_id
from pgtasks.store import fleet, sql, tasks


def _edit(statements: Any, name: str, old: str, new: str) -> None:
    statement = statements[name]
    assert old in statement.sql, f"the statement {name} has changed; so must the mutant"
    statements[name] = sql._parse(name, statement.sql.replace(old, new))


def unfenced() -> None:
    """Whoever comes with a result has it stored, whoever holds the task."""
    fence = (
        "AND worker = %(worker)s\n    AND delivery = (%(deliveries)b::int[])[array_position(%(ids)b::uuid[], id)]"
    )
    for name in ("settle", "claim"):
        _edit(tasks._SQL, name, fence, "")


def forgetful() -> None:
    """Taking over from the dead loses what they held."""
    _edit(fleet._SQL, "reap", "FROM freed f JOIN pgtasks.message m ON m.id = f.id", "FROM freed f JOIN pgtasks.message m ON false")


def greedy() -> None:
    """Takes tasks over from workers that live."""
    _edit(fleet._SQL, "reap", "heartbeat_at < pgtasks.clock() - lease", "true")


def newid() -> None:
    """A producer that does not know whether its task is there sends another one; see `ids_to_try_again`."""


_MUTANTS: dict[str, Callable[[], None]] = {
    "unfenced": unfenced, "forgetful": forgetful, "greedy": greedy, "newid": newid
}  # fmt: skip


def apply(name: str | None) -> None:
    """Take on a defect."""
    if name:
        _MUTANTS[name]()


def ids_to_try_again(ids: list[str]) -> list[str]:
    """The ids for another try of what may be there already: the same, of course."""
    if os.environ.get("CHAOS_MUTANT") == "newid":
        return [str(new_id()) for _ in ids]
    return ids
