"""The task `celery.undo`: sends the undos of a failed canvas, once every task it waits for has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgtasks.app.planned import compose_plan
from pgtasks.app.protocol import announce
from pgtasks.canvas.nodes import Plan
from pgtasks.canvas.undoing import undo_nodes
from pgtasks.exceptions import Ignore
from pgtasks.message import id_of
from pgtasks.serialization import decode
from pgtasks.store import graphs, tasks

__all__ = ("send_undos",)


def send_undos(app: Any, task_id: str, undos: Sequence[Any], ends: Sequence[int]) -> list[str]:
    """Send what undoes the canvas that this task waited for; gives the ids, the first to run first.

    Done again, since the worker died, it sends nothing new. Raises `Ignore` where nothing had succeeded that could
    be undone: so a redrive of the canvas finds that this task is to run again too.
    """
    key = id_of(task_id)
    undoable = app.database.run(graphs.undoable(key, len(undos), ends))
    if undoable is None:
        return []
    if not undoable:
        raise Ignore("The canvas has failed, and there is nothing to undo.")
    undone = [(each.position, undos[each.position], _value(app, each)) for each in undoable]
    nodes, edges = undo_nodes(app, key, undone)
    calls, messages = compose_plan(app, Plan(nodes=nodes, result=None, trail=None, ends=()))
    app.database.run(tasks.enqueue(messages, edges))
    for call, message in zip(calls, messages, strict=True):
        announce(app, call, message)
    return [node.task_id for node in nodes]


def _value(app: Any, undoable: graphs.Undoable) -> Any:
    if undoable.value is None:
        return None
    return decode(undoable.value, undoable.content_type, undoable.content_encoding, app.backend.accept)
