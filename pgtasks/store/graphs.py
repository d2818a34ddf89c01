"""Verbs on whole canvases: read the tasks that edges connect, rerun what failed, copy a part.

The statements, with what they rely on, are in `graphs.sql`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from pgtasks.message import Message
from pgtasks.store.sql import Query, Row, count, id_set, load

_SQL = load("graphs")


class GraphNode(NamedTuple):
    """One task of a canvas, with its state."""

    id: UUID
    task_id: str | None
    name: str
    queue: str
    group_id: str | None
    trigger: str | None
    options: bytes | None
    result_state: str | None
    is_claimed: bool
    pending: int | None
    due: datetime | None
    preds: list[UUID]
    #: Of each predecessor, its place among the inputs.
    positions: list[int]

    @property
    def public_id(self) -> str:
        """The id as its user knows it."""
        return self.task_id or str(self.id)

    @property
    def state(self) -> str:
        """In the words of the view `pgtasks.tasks`."""
        if self.result_state is not None:
            return self.result_state
        if self.is_claimed:
            return "STARTED"
        if self.due is not None:
            return "SCHEDULED"
        return "WAITING" if self.pending else "READY"


def graph(task_id: UUID) -> Query[list[GraphNode]]:
    """Every task connected with one, directly or not; none when the id is unknown."""
    return Query(_SQL["graph"], {"id": task_id}, _nodes)


def _nodes(found: Sequence[Row]) -> list[GraphNode]:
    return [GraphNode._make(row) for row in found]


def predecessors(task_id: UUID) -> Query[list[tuple[UUID, int]]]:
    """What a running task waited for, with the places among its inputs."""
    return Query(_SQL["predecessors"], {"id": task_id}, _pairs)


def _pairs(found: Sequence[Row]) -> list[tuple[UUID, int]]:
    return [(pred, position) for pred, position in found]


def redrive(canvas: Iterable[UUID], ids: Iterable[UUID], followers: Iterable[UUID] = ()) -> Query[int]:
    """Run some failed tasks of a canvas again, once all of it has ended, and what follows them; gives how many."""
    values = {"canvas": list(canvas), "ids": list(ids), "followers": list(followers)}
    return Query(_SQL["redrive"], values, count)


def lock_bodies(task_id: UUID) -> Query[int]:
    """Lock what waits for a running task, for `tasks.join_chord` to come next in the transaction; gives how many."""
    return Query(_SQL["lock_bodies"], {"id": task_id}, count)


def restore(
    messages: Sequence[Message], relinked: Iterable[UUID], edges: Sequence[tuple[UUID, UUID, int]], cut: Iterable[UUID]
) -> Query[int]:
    """Undo what made the messages of some tasks anew, for a `redrive` that comes next in the transaction.

    `edges` are (successor, predecessor, position), all that the tasks `relinked` have from now on; the tasks
    `cut` are no part of the canvas any more.
    """
    values = {name: [getattr(message, attribute) for message in messages] for name, attribute in _RESTORED.items()}
    succs, preds, positions = ([*column] for column in (zip(*edges, strict=True) if edges else ((), (), ())))
    links = {"succs": succs, "preds": preds, "positions": positions}
    return Query(_SQL["restore"], {**values, **links, "relinked": list(relinked), "cut": list(cut)}, count)


_RESTORED = {
    "ids": "id", "names": "name", "queues": "queue", "priorities": "priority", "payloads": "payload",
    "content_types": "content_type", "content_encodings": "content_encoding", "options": "options", "inputs": "inputs",
    "triggers": "trigger",
}  # fmt: skip


def lock_inputs(ids: Iterable[UUID]) -> Query[set[UUID]]:
    """Keep tasks that have succeeded from running again until the transaction ends; gives which have."""
    return Query(_SQL["lock_inputs"], {"ids": list(ids)}, id_set)


class Undoable(NamedTuple):
    """A task to undo, by its place among the predecessors of the task that asks, and what it returned."""

    position: int
    content_type: str | None
    content_encoding: str | None
    value: bytes | None


def undoable(task_id: UUID, undos: int, ends: Sequence[int]) -> Query[list[Undoable] | None]:
    """What a canvas must undo, in this order; None when it has not failed.

    The first `undos` predecessors of the task that asks have undos; `ends` says which ones are ends of the canvas.
    """
    return Query(_SQL["undoable"], {"id": task_id, "undos": undos, "ends": list(ends)}, _undoable)


def _undoable(found: Sequence[Row]) -> list[Undoable] | None:
    if not found[0][0]:
        return None
    return [Undoable._make(row[1:]) for row in found if row[1] is not None]


def messages(ids: Iterable[UUID]) -> Query[list[Message]]:
    """The messages of some tasks, without what is not carried over to a copy."""
    return Query(_SQL["messages"], {"ids": list(ids)}, _messages)


_MESSAGE_COLUMNS = (
    *("id", "name", "payload", "content_type", "content_encoding", "queue", "priority", "due"),
    *("root", "parent", "group_id", "options", "max_deliveries", "inputs", "trigger"),
)


def _messages(found: Sequence[Row]) -> list[Message]:
    return [Message(**dict(zip(_MESSAGE_COLUMNS, row, strict=True))) for row in found]


class Successor(NamedTuple):
    """A task that waits, directly or not, for another one."""

    id: UUID
    pred: UUID
    task_id: str | None
    name: str
    inputs: str | None
    trigger: str | None
    content_type: str | None
    content_encoding: str | None
    payload: bytes
    options: bytes | None
    depth: int


def successors(task_id: UUID) -> Query[list[Successor]]:
    """Every task that waits for this one, directly or not, the nearest first."""
    return Query(_SQL["successors"], {"id": task_id}, _successors)


def _successors(found: Sequence[Row]) -> list[Successor]:
    return [Successor._make(row) for row in found]
