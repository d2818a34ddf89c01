"""How a canvas becomes durable: planned as tasks and edges before anything runs, written in one statement.

`plan` is pure: it copies the canvas, sends nothing and says what must be written. `send` and `asend` have it
written. The values they speak in are in `pgtasks.canvas.nodes`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pgtasks._state import current_run, get_current_worker_task
from pgtasks.canvas.ids import one_slot
from pgtasks.canvas.kinds import is_group
from pgtasks.canvas.nodes import Edge, Node, Plan, Role, Shape, shaped
from pgtasks.canvas.planner import FIRST, Planner
from pgtasks.canvas.undoing import undo_node

__all__ = ("Edge", "Node", "Plan", "Role", "Shape", "asend", "plan", "remembered", "send", "shaped")


def plan(sig: Any, args: Any = None, kwargs: Any = None, options: dict[str, Any] | None = None) -> Plan:
    """Say what must be written to run this signature, of any kind, with these arguments and options.

    Raises TypeError for a part that is no signature, and for arguments that a task does not take; ValueError
    for a chord without a body, for two tasks with one id, and for a canvas that contains itself.
    """
    planner = Planner(sig.app)
    with one_slot():
        try:
            # A group is copied member by member, for it may be a generator.
            own = sig if is_group(sig) else sig.clone()
            # A copy of a chain forgets that it is immutable, and must not take the arguments for all that.
            own.immutable = sig.immutable
            part = planner.add(own, tuple(args or ()), dict(kwargs or {}), dict(options or {}), FIRST, outermost=True)
        except RecursionError as exc:
            raise ValueError(
                f"The canvas {sig.task!r} is nested too deeply to be sent, or contains itself. "
                "Does a task link to itself, or to one that links back?"
            ) from exc
        undo = None if part is None else undo_node(planner, part.ends)
    if part is None:
        return Plan(nodes=(), result=None, trail=None, ends=())
    nodes = (*planner.nodes.values(), *([undo] if undo else ()))
    return Plan(nodes=nodes, result=part.result, trail=part.first, ends=part.ends, names=planner.names)


def send(sig: Any, args: Any, kwargs: Any, options: dict[str, Any], *, add_to_parent: bool | None = True) -> Any:
    """Plan a canvas, have it written and return its result object.

    The task that runs here, if any, remembers it as a child. `conn=`, or `using=` for a Django alias, is the
    transaction of the caller's in which the whole canvas is written.
    """
    run = _run_of(options)
    if run is not None:
        return run.publish(sig.task, lambda: send(sig, args, kwargs, options, add_to_parent=add_to_parent))
    planned, transaction = _planned(sig, args, kwargs, options)
    if planned.nodes:
        sig.app.enqueue_plan(planned, transaction)
        sig._sent_as = planned.result.id
    return remembered(planned.result, planned.trail, add_to_parent)


async def asend(sig: Any, args: Any, kwargs: Any, options: dict[str, Any], *, add_to_parent: bool | None = True) -> Any:
    """`send` for coroutines."""
    run = _run_of(options)
    if run is not None:
        return run.publish(sig.task, lambda: send(sig, args, kwargs, options, add_to_parent=add_to_parent))
    planned, transaction = _planned(sig, args, kwargs, options)
    if planned.nodes:
        await sig.app.aenqueue_plan(planned, transaction)
        sig._sent_as = planned.result.id
    return remembered(planned.result, planned.trail, add_to_parent)


def _run_of(options: dict[str, Any]) -> Any:
    """The workflow's run whose code sends a canvas, unless in a transaction of its own."""
    return None if options.get("conn") is not None or options.get("using") else current_run.get()


def _planned(sig: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> tuple[Plan, Any]:
    options = dict(options)
    conn, using = options.pop("conn", None), options.pop("using", None)
    planned = plan(sig, args, kwargs, options)
    if planned.nodes:
        # A frozen canvas has the same ids each time. That it is sent again on purpose only the object itself can tell:
        # ids that are in the database already may as well be those of a sending that failed, as far as anybody knew.
        planned = replace(planned, is_repeated=sig._sent_as == planned.result.id)
    return planned, using if conn is None else conn


def remembered(result: Any, trail: Any, add_to_parent: bool | None) -> Any:
    """Have the task that runs here, if any, remember `trail` as its child; returns the result."""
    parent = get_current_worker_task()
    if parent is not None and add_to_parent and trail is not None:
        parent.add_trail(trail)
    return result
