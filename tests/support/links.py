"""Edges of a canvas, for tests of the store."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from pgtasks.message import Message


class Link(NamedTuple):
    succ: UUID
    pred: UUID
    position: int = 0


def plan(*links: tuple[Message, Message]) -> list[Link]:
    """Edges (pred, succ), each successor's inputs in the order given."""
    positions: dict[UUID, int] = {}
    edges = []
    for pred, succ in links:
        position = positions.setdefault(succ.id, 0)
        positions[succ.id] += 1
        edges.append(Link(succ.id, pred.id, position))
    return edges
