"""From a planned canvas to rows: a call per node, and the edges between them, in one statement."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from typing import Any
from uuid import UUID

from pgtasks import signals
from pgtasks.app import flows
from pgtasks.app.call import Call, compose
from pgtasks.app.protocol import announce
from pgtasks.app.publish import acarrier, aput, carrier, put, relatives
from pgtasks.canvas.plan import Plan
from pgtasks.message import Message

__all__ = ("aenqueue_plan", "compose_plan", "enqueue_plan")


def enqueue_plan(app: Any, plan: Plan, connection: Any = None) -> None:
    """Write all tasks of a canvas and the edges between them in one statement."""
    calls, messages = compose_plan(app, plan)
    if flows.is_repeatable(messages):
        flows.send_unique_canvas(app, messages, plan.edges, carrier(app, connection))
    else:
        put(app, messages, plan.edges, connection, is_repeated=plan.is_repeated)
    for call, message in zip(calls, messages, strict=True):
        announce(app, call, message)


async def aenqueue_plan(app: Any, plan: Plan, connection: Any = None) -> None:
    """`enqueue_plan` for coroutines."""
    calls, messages = compose_plan(app, plan)
    if flows.is_repeatable(messages):
        await flows.asend_unique_canvas(app, messages, plan.edges, await acarrier(app, connection))
    else:
        await aput(app, messages, plan.edges, connection, is_repeated=plan.is_repeated)
    for call, message in zip(calls, messages, strict=True):
        announce(app, call, message)


def compose_plan(app: Any, plan: Plan) -> tuple[list[Call], list[Message]]:
    """Make the messages of a canvas, in the order of its nodes."""
    calls = [_call_of(node, plan.names) for node in plan.nodes]
    if signals.before_task_publish.receivers:
        for call in calls:
            call.context = copy_context()
    return calls, [compose(app, call, app.tasks.get(call.name)) for call in calls]


def _call_of(node: Any, names: Mapping[UUID, str]) -> Call:
    extra = relatives(names.get(node.root), node.root, names.get(node.parent), node.parent) if names else {}
    if node.role != "first":
        extra["role"] = node.role
    if node.shape is not None:
        extra["shape"] = node.shape
    if node.entry is not None:
        extra["entry"] = str(node.entry)
    if node.begins is not None:
        *ids, place = node.begins
        extra["begins"] = place if ids == [node.group_id, node.task_id] else node.begins
    return Call(
        node.id,
        node.task_id,
        node.name,
        node.args,
        node.kwargs,
        dict(node.options),
        dict(node.embed),
        node.root if node.root != node.id else None,
        node.parent,
        node.group_id,
        node.inputs if node.waits_for else None,
        extra,
    )
