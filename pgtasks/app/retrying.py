"""`task.retry`: reschedule the running task."""

from __future__ import annotations

import inspect
import sys
from typing import Any, NoReturn

from pgtasks.app.context import Context, get_actual_ignore_result
from pgtasks.exceptions import Reject, Retry

__all__ = ("retry", "signature_from_request")


def retry(
    task: Any,
    args: Any = None,
    kwargs: Any = None,
    exc: Any = None,
    throw: bool = True,
    eta: Any = None,
    countdown: float | None = None,
    max_retries: int | None = None,
    **options: Any,
) -> Retry:
    """Run the task again later, with the same id, and leave the body by raising `Retry`.

    `countdown` seconds from now or at `eta`; `default_retry_delay` otherwise. With `throw=False` the
    exception is returned instead of raised and the body goes on. After `max_retries` (of the task, when None)
    raises `exc`, or the exception being handled, or `MaxRetriesExceededError`. Called outside of a worker's
    or an eager execution, raises `exc` at once. Other options are those of `apply_async`.
    """
    request = task.request
    retries = request.retries + 1
    if max_retries is not None:
        # autoretry_for goes on counting by this limit.
        task.override_max_retries = max_retries
    limit = task.max_retries if max_retries is None else max_retries
    if request.called_directly:
        _raise_with_context(exc or Retry("Task can be retried", None))
    if not eta and countdown is None:
        countdown = task.default_retry_delay
    is_same = args is None and kwargs is None
    args, kwargs = _merge_arguments(task, request, args, kwargs)
    sig = signature_from_request(task, request, args, kwargs, countdown=countdown, eta=eta, retries=retries, **options)
    if limit is not None and retries > limit:
        _raise_exhausted(task, request, sig, exc)
    again = Retry(exc=exc, when=eta or countdown, is_eager=request.is_eager, sig=sig)
    if not request.is_eager:
        _resubmit(request, sig, is_same)
    if throw:
        raise again
    return again


def _resubmit(request: Context, sig: Any, is_same: bool) -> None:
    try:
        if request.resubmit is None:
            sig.apply_async()
        else:
            request.resubmit(sig, is_same)
    except Exception as exc:
        # The attempt must not count as failed when only its successor could not be sent.
        raise Reject(exc, requeue=False) from exc


def _raise_exhausted(task: Any, request: Context, sig: Any, exc: Any) -> NoReturn:
    if exc:
        _raise_with_context(exc)
    raise task.MaxRetriesExceededError(
        f"Can't retry {task.name}[{request.id}] args:{sig.args} kwargs:{sig.kwargs}",
        task_args=sig.args,
        task_kwargs=sig.kwargs,
    )


def _raise_with_context(exc: Any) -> NoReturn:
    """Raise `exc`, caused by the exception being handled, or that one again when it is the same."""
    handled = sys.exc_info()[1]
    if handled is None:
        raise exc
    if handled is exc:
        raise
    raise exc from handled


def signature_from_request(
    task: Any,
    request: Context | None = None,
    args: Any = None,
    kwargs: Any = None,
    queue: Any = None,
    **extra_options: Any,
) -> Any:
    """The signature that repeats the call of `request`, by default the current one, to the same queue."""
    request = task.request if request is None else request
    options = {
        **request.as_execution_options(),
        "ignore_result": get_actual_ignore_result(task, request),
        **extra_options,
    }
    delivery = request.delivery_info or {}
    if delivery.get("priority") is not None:
        options["priority"] = delivery["priority"]
    if queue:
        options["queue"] = queue
    elif delivery.get("exchange") == "" and delivery.get("routing_key"):
        # The default exchange of AMQP: the routing key is the queue.
        options["queue"] = delivery["routing_key"]
    else:
        options.update(delivery)
    return task.signature(
        request.args if args is None else args,
        request.kwargs if kwargs is None else kwargs,
        options,
        type=task,
        **extra_options,
    )


def _merge_arguments(task: Any, request: Context, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Drop the arguments of the call that the new ones give in the other form, positional or by keyword."""
    only_args = args is not None and kwargs is None and request.kwargs
    only_kwargs = kwargs is not None and args is None and request.args
    if not (only_args or only_kwargs):
        return args, kwargs
    try:
        signature = inspect.signature(task.run)
    except (TypeError, ValueError):
        return args, kwargs
    if only_args:
        return args, _without_positional(signature, len(args), request.kwargs)
    return _with_keywords(signature, request.args, kwargs)


def _without_positional(signature: inspect.Signature, given: int, kwargs: Any) -> dict[str, Any]:
    positional = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    taken = {p.name for p in positional[:given] if p.kind == p.POSITIONAL_OR_KEYWORD}
    return {name: value for name, value in kwargs.items() if name not in taken}


def _with_keywords(signature: inspect.Signature, args: Any, kwargs: Any) -> tuple[Any, Any]:
    try:
        bound = signature.bind_partial(*args)
    except TypeError:
        # The check of the call's arguments will say what is wrong with them.
        return None, kwargs
    rest = dict(kwargs)
    for name in kwargs:
        if name in bound.arguments and signature.parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            bound.arguments[name] = rest.pop(name)
    return bound.args, {**bound.kwargs, **rest}
