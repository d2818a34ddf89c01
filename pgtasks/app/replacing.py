"""`task.replace` and `task.add_to_chord`: a running task that changes the canvas it is part of."""

from __future__ import annotations

from typing import Any

from pgtasks.canvas import _chain, signature
from pgtasks.canvas.kinds import is_chain, is_chord, is_group
from pgtasks.exceptions import Ignore, ImproperlyConfigured
from pgtasks.utils.functional import maybe_list

__all__ = ("add_to_chord", "on_replace", "replace")


def replace(task: Any, sig: Any) -> Any:
    """Go on as another task or canvas, which takes this one's id, callbacks and place in a chain, group or
    chord.

    Raises `Ignore`, so nothing after the call is executed; an eager call returns the result of `sig` instead.
    """
    request = task.request
    if "chord" in sig.options:
        raise ImproperlyConfigured("A signature replacing a task must not be part of a chord")
    if isinstance(sig, _chain) and not getattr(sig, "tasks", True):
        raise ImproperlyConfigured("Cannot replace with an empty chain")
    sig = _ending_in_a_task(task, sig)
    _move_links(request, sig)
    sig.freeze(request.id)
    nesting = request.get("replaced_task_nesting", 0) + 1
    sig.set(
        chord=request.chord,
        group_id=request.group,
        group_index=request.group_index,
        root_id=request.root_id,
        replaced_task_nesting=nesting,
    )
    if isinstance(sig, _chain):
        for step in maybe_list(sig.tasks) or []:
            step.set(replaced_task_nesting=nesting)
    # What followed in the chain keeps its ids: results handed out for it must stay true.
    for following in reversed(request.chain or []):
        step = signature(following, app=task.app)
        step.set(replaced_task_nesting=nesting)
        sig |= step
    return task.on_replace(sig)


def _ending_in_a_task(task: Any, sig: Any) -> Any:
    """Put a collecting task behind a group at the end: only a single task has an id and callbacks to take
    over.
    """
    if not _ends_in_a_group(sig):
        return sig
    collector = task.app.tasks["celery.accumulate"].s(index=0)
    if not is_chain(sig):
        return sig | collector
    sig.tasks = [*sig.tasks[:-1], sig.tasks[-1] | collector]
    return sig


def _ends_in_a_group(sig: Any) -> bool:
    if is_chain(sig):
        return bool(sig.tasks) and _ends_in_a_group(sig.tasks[-1])
    if is_chord(sig):
        return sig.body is not None and _ends_in_a_group(sig.body)
    return is_group(sig)


def _move_links(request: Any, sig: Any) -> None:
    for callback in maybe_list(request.callbacks) or []:
        sig.link(callback)
    for errback in maybe_list(request.errbacks) or []:
        sig.link_error(errback)
    if isinstance(sig, _chain) and "link" in sig.options:
        # On its last task they run in time even when more is appended to the chain below.
        sig.tasks[-1].options.setdefault("link", []).extend(maybe_list(sig.options.pop("link")))


def on_replace(task: Any, sig: Any) -> Any:
    """Run the replacement; overrides must return what this returns."""
    request = task.request
    if request.is_eager:
        return sig.apply().get()
    if request.become is None:
        sig.delay()
    else:
        request.become(sig)
    raise Ignore("Replaced by new task")


def add_to_chord(task: Any, sig: Any, lazy: bool = False) -> Any:
    """Add a task to the header of the chord this one is in; with `lazy` the caller sends it."""
    request = task.request
    if request.join is None and not request.chord:
        raise ValueError("Current task is not member of any chord")
    sig.set(group_id=request.group, group_index=request.group_index, root_id=request.root_id)
    sig.freeze()
    if request.join is not None:
        return request.join(sig, lazy)
    sig.set(chord=request.chord)
    return sig if lazy else sig.delay()
