"""Verbs on saved groups: what `GroupResult.save` keeps, until it is deleted.

The statements are in `groups.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgtasks.store.sql import Query, Row, load, nothing

_SQL = load("groups")


def save(group_id: str, members: bytes) -> Query[None]:
    """Remember the members of a group result."""
    return Query(_SQL["save_group"], {"id": group_id, "members": members}, nothing)


def restore(group_id: str) -> Query[bytes | None]:
    """Read the members of a saved group result, or None."""
    return Query(_SQL["restore_group"], {"id": group_id}, _first)


def _first(found: Sequence[Row]) -> Any:
    return found[0][0] if found else None


def delete(group_id: str) -> Query[None]:
    """Forget a saved group result."""
    return Query(_SQL["delete_group"], {"id": group_id}, nothing)
