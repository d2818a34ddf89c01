"""Run the calls of a canvas through a project's own code: an overridden `Task.apply_async` or `app.send_task`.

A canvas is planned as a whole, without sending its tasks one by one. A project that overrides one of these methods, or
a monitoring library that patches it, still expects to see and change every call. So the call of such a task is made as
Celery would make it, and caught where it would be written:

    as_called -> task.apply_async (theirs) -> ours -> app.send_task -> publish -> catch
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

__all__ = ("Passed", "as_called", "catching", "sends_plainly", "under_way")


class Passed(NamedTuple):
    """A call as it is to be written; `options` are those of `apply_async`, ids and callbacks among them."""

    args: Any
    kwargs: Any
    options: dict[str, Any]


class _Catch:
    """Waits for the call of one task."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.passed: Passed | None = None


#: Set while a call is on its way.
under_way: ContextVar[_Catch | None] = ContextVar("pgtasks.canvas.under_way", default=None)


def as_called(
    app: Any, task: Any, name: str, args: Any, kwargs: Any, options: dict[str, Any], *, is_plain: bool | None = None
) -> Passed | None:
    """Complete a call as the task's `apply_async` would: checked, and with the task's options.

    None when code of the project's own is in the way and has decided not to send it. `task` is None for a name that
    is not registered here; `is_plain` is the answer of `sends_plainly` to a caller that has asked it already.
    """
    if not (sends_plainly(app, task) if is_plain is None else is_plain):
        send = partial(app.send_task, name) if task is None else task.apply_async
        return _pass_through(send, name, args, kwargs, options)
    if task is None:
        return Passed(args, kwargs, options)
    args, kwargs, shadow, options = task._prepare_call(args, kwargs, options.pop("shadow", None), options)
    return Passed(args, kwargs, options if shadow is None else {**options, "shadow": shadow})


def sends_plainly(app: Any, task: Any) -> bool:
    """Do calls of a task reach the database without passing through anybody's own code?"""
    return bool(app.sends_plainly and (task is None or task.sends_plainly))


def _pass_through(send: Callable[..., Any], name: str, args: Any, kwargs: Any, options: Any) -> Passed | None:
    catch = _Catch(name)
    token = under_way.set(catch)
    try:
        send(args, kwargs, **options)
    finally:
        under_way.reset(token)
    return catch.passed


def catching(name: str) -> Callable[[Passed], None] | None:
    """What takes the call of this task that is about to be written; None when it shall be written.

    Other tasks that are sent on the way are written as ever.
    """
    catch = under_way.get()
    if catch is None or catch.name != name or catch.passed is not None:
        return None

    def take(passed: Passed) -> None:
        catch.passed = passed

    return take
