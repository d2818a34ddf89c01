"""Callbacks and errbacks: what runs because a task succeeded or failed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any
from uuid import UUID

from pgtasks.canvas import chain, group, maybe_signature
from pgtasks.canvas.steps import in_groups
from pgtasks.exceptions import NotRegistered
from pgtasks.message import id_of
from pgtasks.utils.functional import arity_greater, noop
from pgtasks.utils.log import get_logger

__all__ = ("call_errbacks", "publish_callbacks", "waited_for")

logger = get_logger("celery.backends.base")


def publish_callbacks(app: Any, request: Any, retval: Any) -> None:
    """Apply the callbacks to the return value, then the next step of the chain."""
    options = _descent(app, request)
    callbacks = [maybe_signature(callback, app=app) for callback in request.callbacks or ()]
    for callback in in_groups(callbacks, app):
        callback.apply_async((retval,), **options)
    if request.chain:
        # The rest of a chain that Celery itself has sent, the last step first; from here on it is a canvas of rows.
        steps = [maybe_signature(step, app=app) for step in reversed(request.chain)]
        following = chain(*steps, app=app) if len(steps) > 1 else steps[0]
        following.apply_async((retval,), **options)


def waited_for(request: Any) -> set[UUID]:
    """The next steps of this chain whose results a chord's body waits for.

    That is so in a chord which Celery itself has sent, and which has a chain in its header: the last step counts there.
    """
    found = (step.get("options") or {} for step in request.chain or ())
    return {id_of(options["task_id"]) for options in found if options.get("chord") and options.get("task_id")}


def _descent(app: Any, request: Any) -> dict[str, Any]:
    inherits = app.conf.task_inherit_parent_priority
    priority = (request.delivery_info or {}).get("priority") if inherits else None
    return {"parent_id": request.id, "root_id": request.root_id or request.id, "priority": priority}


def call_errbacks(
    app: Any,
    request: Any,
    exc: BaseException,
    traceback: Any,
    sending: Callable[[], AbstractContextManager[Any]] = nullcontext,
    before_calls: Callable[[], Any] = noop,
) -> None:
    """Call the errbacks of a failed task.

    One that takes `(request, exc, traceback)` is called here and now, after `before_calls`; an error that it raises is
    logged and keeps no other one from being called. One that takes the id of the failed task, a bound task, and one
    that is not registered here are sent as tasks.
    """
    errbacks = [app.signature(errback) for errback in request.errbacks or ()]
    for errback in errbacks:
        if not errback._app:
            # Deserialised signatures know no app.
            errback._app = app
    to_call = [errback for errback in errbacks if _takes_the_exception(errback)]
    if to_call:
        before_calls()
    for errback in to_call:
        try:
            errback(request, exc, traceback)
        except Exception:
            logger.exception("Errback %r of task %s raised", errback.name, request.id)
    to_send = [errback for errback in errbacks if errback not in to_call]
    if not to_send:
        return
    options = {"parent_id": request.id, "root_id": request.root_id or request.id}
    sent = group(to_send, app=app)
    if app.conf.task_always_eager or (request.delivery_info or {}).get("is_eager", False):
        sent.apply((request.id,), **options)
    else:
        with sending():
            sent.apply_async((request.id,), **options)


def _takes_the_exception(errback: Any) -> bool:
    try:
        header = getattr(errback.type, "__header__", None)
    except NotRegistered:
        return False
    # A partial is the header of a bound task, whose own first argument would be counted.
    if header is None or isinstance(header, partial):
        return False
    if (errback.args or errback.kwargs) and not errback.immutable:
        # What the signature brings along is not left for the failure to fill. Binding it from the left is not what
        # the call does, but gives the same number.
        with suppress(TypeError, ValueError):
            return bool(arity_greater(partial(header, *errback.args, **errback.kwargs), 1))
    return bool(arity_greater(header, 1))
