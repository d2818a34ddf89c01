"""Undoing a canvas that fails: the task that watches it, and the tasks that undo.

    charge ── reserve ── ship         ship fails: what had succeeded is undone, the last success first
       └─────────┴────────┴─ celery.undo ── release ── refund

`celery.undo` is a task of the canvas. From the start it waits until all tasks with undos, and all ends, have ended in
any state. The undos it sends have ids derived from its own, so that sending them again adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID, uuid5

from pgtasks.canvas.ids import fresh_key
from pgtasks.canvas.nodes import Edge, Node
from pgtasks.canvas.planner import FIRST, After, Planner
from pgtasks.canvas.signature import maybe_signature
from pgtasks.message import SLOT_MASK, slot_of

__all__ = ("UNDO", "undo_node", "undo_nodes")

#: The name of the task that sends the undos.
UNDO = "celery.undo"

_TIME_AND_VERSION = ~((1 << 76) - 1)
_RANDOM = ((1 << 76) - 1) & ~(0x3 << 62)


def undo_node(planner: Planner, ends: Iterable[UUID]) -> Node | None:
    """The task that undoes a planned canvas, should one of its ends fail; None when there can be nothing to undo."""
    nodes, undos = planner.nodes, planner.undos
    ends = [end for end in ends if end in nodes]
    if not undos or not ends or len(nodes) == 1:
        return None
    waits_for = tuple(dict.fromkeys([*undos, *ends]))
    at = {pred: position for position, pred in enumerate(waits_for)}
    last = nodes[ends[-1]]
    key = fresh_key()
    return Node(
        id=key,
        task_id=str(key),
        name=UNDO,
        args=(list(undos.values()), [at[end] for end in ends]),
        kwargs={},
        options={
            "queue": _queue_of(planner.app, last),
            "priority": last.options.get("priority"),
            "trigger": "all_done",
        },
        waits_for=waits_for,
        role="step",
        root=last.root,
        parent=next(iter(nodes.values())).parent,
    )


def _queue_of(app: Any, node: Node) -> str:
    task = app.tasks.get(node.name)
    _, destination = app.amqp.route(dict(node.options), node.name, node.args, node.kwargs, task)
    queue: str = destination.queues[0]
    return queue


def undo_nodes(app: Any, sender: UUID, undos: Sequence[tuple[int, Any, Any]]) -> tuple[tuple[Node, ...], list[Edge]]:
    """The tasks that undo, one after the other, and the edges between them.

    `sender` is the key of the task that sends them; `undos` are the numbers of undone tasks, their undos and what
    they had returned, in the order of undoing. One that fails does not keep the next from running.
    """
    planner, after = Planner(app), FIRST
    for number, undo, value in undos:
        signature = maybe_signature(undo, app=app, clone=True)
        options = {"task_id": str(_derived(sender, number)), "trigger": "all_done"}
        part = planner.add(signature, (value,), {}, options, after)
        if part is not None and part.ends[0] in planner.nodes:
            after = After(part.ends, role="step")
    nodes = tuple(planner.nodes.values())
    # The sender is not waited for: it is the reason, and has all but ended.
    edges = [Edge(sender, node.id, 0) for node in nodes[:1]]
    edges += [Edge(pred, node.id, position) for node in nodes for position, pred in enumerate(node.waits_for)]
    return nodes, edges


def _derived(sender: UUID, number: int) -> UUID:
    """An id that is the same whenever the same task sends its nth one; of its time, and in its slot."""
    random = uuid5(sender, str(number)).int & _RANDOM
    derived = (sender.int & _TIME_AND_VERSION) | (0x2 << 62) | random
    return UUID(int=(derived & ~SLOT_MASK) | slot_of(sender))
