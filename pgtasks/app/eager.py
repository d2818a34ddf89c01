"""Eager execution: `task.apply`, and calls under `task_always_eager`.

The task runs in the caller's process, through the same stages as in a worker. A retry runs at once, and nothing is
stored unless `task_store_eager_result`. A call that stands for a published one takes its arguments through the
serializer first, so that tests see what a worker would see.
"""

from __future__ import annotations

from typing import Any

from pgtasks import _state, states
from pgtasks.app import trace
from pgtasks.app.context import Context
from pgtasks.app.linked import call_errbacks, publish_callbacks
from pgtasks.canvas.steps import callbacks_of, errbacks_of
from pgtasks.einfo import ExceptionInfo
from pgtasks.exceptions import Retry
from pgtasks.message import new_id
from pgtasks.result import EagerResult
from pgtasks.serialization import decode, encode
from pgtasks.utils.functional import maybe_list
from pgtasks.utils.nodenames import gethostname

__all__ = ("aapply", "apply", "through_serializer")


def through_serializer(app: Any, args: Any, kwargs: Any, serializer: str | None) -> tuple[Any, Any]:
    """The arguments as a worker would receive them."""
    encoded = encode((args, kwargs), serializer or app.conf.task_serializer)
    received: tuple[Any, Any] = decode(
        encoded.body, encoded.content_type, encoded.content_encoding, accept=[encoded.content_type]
    )
    return received


class _EagerEffects(trace.Effects):
    """Links are applied; states are stored only where the task wants eager results stored."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def succeeded(self, task: Any, request: Context, retval: Any, store: bool) -> None:
        publish_callbacks(self.app, request, retval)
        if store:
            task.backend.store_result(request.id, retval, states.SUCCESS, request=request)

    def retried(self, task: Any, request: Context, retry: Retry, einfo: ExceptionInfo, store: bool) -> None:
        if store:
            task.backend.store_result(request.id, retry.exc, states.RETRY, traceback=einfo.traceback, request=request)

    def failed(self, task: Any, request: Context, exc: BaseException, einfo: ExceptionInfo, store: bool) -> None:
        if store:
            task.backend.store_result(request.id, exc, states.FAILURE, traceback=einfo.traceback, request=request)
        call_errbacks(self.app, request, exc, einfo.traceback)


def apply(
    task: Any,
    args: Any = None,
    kwargs: Any = None,
    link: Any = None,
    link_error: Any = None,
    task_id: str | None = None,
    retries: int | None = None,
    throw: bool | None = None,
    logfile: Any = None,
    loglevel: Any = None,
    headers: Any = None,
    **options: Any,
) -> EagerResult[Any]:
    """Run the task here and now as a worker would, and return its `EagerResult`.

    `throw` raises the task's exception instead; `task_eager_propagates` is its default.
    """
    app = task._get_app()
    request = _request(task, task_id, retries, options, link, link_error, headers, logfile, loglevel)
    # The registered instance: apply may have been called on a class.
    task = app._tasks[task.name]
    throw = app.conf.task_eager_propagates if throw is None else throw
    tracer = trace.build_tracer(task.name, task, app=app, eager=True, propagate=throw)
    attempt = tracer(request["id"], args or (), kwargs or {}, {**request, "effects": _EagerEffects(app)})
    return _result(task, request, attempt)


async def aapply(
    task: Any,
    args: Any = None,
    kwargs: Any = None,
    link: Any = None,
    link_error: Any = None,
    task_id: str | None = None,
    retries: int | None = None,
    throw: bool | None = None,
    headers: Any = None,
    **options: Any,
) -> EagerResult[Any]:
    """`apply` for coroutines: a body that is a coroutine function runs on the caller's event loop."""
    if not task.is_coroutine:
        result: EagerResult[Any] = task.apply(
            args, kwargs, link, link_error, task_id, retries, throw, headers=headers, **options
        )
        return result
    app = task._get_app()
    request = _request(task, task_id, retries, options, link, link_error, headers)
    task = app._tasks[task.name]
    throw = app.conf.task_eager_propagates if throw is None else throw
    tracer = trace.build_tracer(task.name, task, app=app, eager=True, propagate=throw, awaits=True)
    attempt = await tracer(request["id"], args or (), kwargs or {}, {**request, "effects": _EagerEffects(app)})
    return _result(task, request, attempt)


def _request(
    task: Any,
    task_id: str | None,
    retries: int | None,
    options: dict[str, Any],
    link: Any,
    link_error: Any,
    headers: Any,
    logfile: Any = None,
    loglevel: Any = None,
) -> dict[str, Any]:
    task_id = task_id or str(new_id())
    parent = _state.get_current_task()
    inside = parent is not None and bool(parent.request)
    limits = [task.time_limit, task.soft_time_limit]
    request = {
        "id": task_id,
        "task": task.name,
        "parent_id": parent.request.id if inside else None,
        "root_id": (parent.request.root_id if inside else None) or task_id,
        "retries": retries or 0,
        "is_eager": True,
        "logfile": logfile,
        "loglevel": loglevel or 0,
        "hostname": gethostname(),
        "callbacks": callbacks_of(task.name, link, task._get_app()) or None,
        "errbacks": errbacks_of(task.name, link_error, task._get_app()) or None,
        "headers": headers,
        "timelimit": None if limits == [None, None] else limits,
        "ignore_result": options.get("ignore_result", task.ignore_result),
        "delivery_info": {
            "is_eager": True,
            "exchange": options.get("exchange"),
            "routing_key": options.get("routing_key"),
            "priority": options.get("priority"),
        },
    }
    if "stamped_headers" in options:
        stamped = maybe_list(options["stamped_headers"])
        request["stamped_headers"] = stamped
        request["stamps"] = {header: maybe_list(options.get(header, [])) for header in stamped}
    return request


def _result(task: Any, request: dict[str, Any], attempt: trace.Attempt) -> EagerResult[Any]:
    task_id, einfo = request["id"], attempt.einfo
    retval = attempt.retval if einfo is None else einfo.unwrap()
    # Also a retry that was returned, from `retry(throw=False)`.
    if isinstance(retval, Retry) and retval.sig is not None:
        again: EagerResult[Any] = retval.sig.apply(retries=request["retries"] + 1)
        return again
    if einfo is None:
        return EagerResult(task_id, retval, states.SUCCESS, name=task.name)
    return EagerResult(task_id, retval, attempt.state or states.FAILURE, traceback=einfo.traceback, name=task.name)
