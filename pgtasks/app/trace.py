"""Running a task once: the order of events, shared by workers and by eager calls.

    enter         current task and request are set
    announce      task_prerun, loader, STARTED
    body          before_start, then run (or the task's own __call__)
    returned      effects.succeeded, on_success, task_success, log          the order is a contract that
    raised        effects.failed,    on_failure, task_failure, log          hooks and signals rely on
                  effects.retried,   on_retry,   task_retry,   log          (celery/app/trace.py)
    after_return  unless the task asked to be retried, ignored or rejected
    leave         task_postrun, then the stacks and the loader are cleaned up

What an attempt does to the world outside the task - storing states, publishing what follows - is its
`Effects`. The caller hands them in with the request, since monitoring libraries wrap tracers and know their four
arguments. An error outside the task's body, as in a hook, is an *internal error*: it raises from an eager call
and makes a worker's attempt fail.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import warnings
from time import monotonic
from types import TracebackType
from typing import Any

from pgtasks import _state, signals, states
from pgtasks.app.context import Context, get_actual_ignore_result
from pgtasks.app.tracelog import (
    LOG_FAILURE,
    LOG_IGNORED,
    LOG_INTERNAL_ERROR,
    LOG_RECEIVED,
    LOG_REJECTED,
    LOG_RETRY,
    LOG_SUCCESS,
    get_log_policy,
    log_error,
    log_retry,
    log_success,
    logger,
    shown_name,
)
from pgtasks.einfo import ExceptionInfo
from pgtasks.exceptions import EncodeError, Ignore, InvalidTaskError, OperationalError, Reject, Retry
from pgtasks.utils.coroutines import run_coroutine
from pgtasks.utils.serialization import get_pickleable_etype, get_pickleable_exception

__all__ = (
    "LOG_FAILURE",
    "LOG_IGNORED",
    "LOG_INTERNAL_ERROR",
    "LOG_RECEIVED",
    "LOG_REJECTED",
    "LOG_RETRY",
    "LOG_SUCCESS",
    "Attempt",
    "Effects",
    "Tracer",
    "build_tracer",
    "get_log_policy",
    "log_error",
    "task_has_custom",
)

#: Outcomes after which the task is not over, or not its own business: no `after_return`.
IGNORE_STATES = frozenset({states.IGNORED, states.RETRY, states.REJECTED})


def task_has_custom(task: Any, attribute: str) -> bool:
    """Does the task's class override this method of `Task`?"""
    return bool(task.overrides(attribute))


class Effects:
    """What an attempt does to the world outside the task; nothing, in this base class.

    `store` says whether the task wants the state recorded for its callers (`ignore_result` and its
    exceptions). An exception that is not documented here makes an internal error of the attempt.
    """

    def started(self, task: Any, request: Context) -> None:
        """Record that the task runs; asked only of tasks with `track_started`."""

    def begun(self) -> None:
        """Note that the task's own code is about to run: from here on a time limit may raise its exception in it."""

    def succeeded(self, task: Any, request: Context, retval: Any, store: bool) -> None:
        """Release what follows and record the result.

        Raise `EncodeError` or `OperationalError` when that cannot be done: then the task has failed.
        """

    def retried(self, task: Any, request: Context, retry: Retry, einfo: ExceptionInfo, store: bool) -> None:
        """Record that the task will run again."""

    def failed(self, task: Any, request: Context, exc: BaseException, einfo: ExceptionInfo, store: bool) -> None:
        """Record the failure, fail what can never run now, and call the errbacks."""

    def cancelled(self, cancelled: BaseException) -> Exception | None:
        """Turn the cancellation of a coroutine into the error that caused it, as a time limit; None without a cause."""
        return None


_NO_EFFECTS = Effects()


class Attempt:
    """The outcome of running a task once.

    `retval` is what the body returned or the exception it raised, `einfo` describes the exception. The state
    is IGNORED or REJECTED when the task raised `Ignore` or `Reject`, and None when nothing was decided.
    """

    __slots__ = ("einfo", "retval", "runtime_s", "state")

    def __init__(self) -> None:
        self.state: str | None = None
        self.retval: Any = None
        self.einfo: ExceptionInfo | None = None
        self.runtime_s: float | None = None


class Tracer:
    """Runs one task, once per call, with what does not change between calls found out beforehand.

    A worker's tracer answers with an `Attempt` whatever happens, short of `MemoryError` and of exceptions
    like `SystemExit` that end processes. An eager tracer raises internal errors, and with `propagate` the
    task's own.
    """

    def __init__(self, task: Any, app: Any, *, eager: bool = False, propagate: bool = False) -> None:
        self.task = task
        self.eager = eager
        self.propagate = propagate
        # Calling run directly keeps one frame out of the user's tracebacks.
        self.fun = task if task.overrides("__call__") else task.run
        self.before_start = task.before_start if task.overrides("before_start") else None
        self.on_success = task.on_success if task.overrides("on_success") else None
        self.after_return = task.after_return if task.overrides("after_return") else None
        self.is_coroutine = task.is_coroutine
        self.loader = app.loader

    def __call__(
        self,
        task_id: str,
        args: Any,
        kwargs: Any,
        request: dict[str, Any] | None = None,
    ) -> Attempt:
        """Run the task. `request` has the attributes of the `Context` it will see, and may have `effects`."""
        run = _Run(self, task_id, args, kwargs, request)
        try:
            run.enter()
            try:
                run.announce()
                try:
                    run.effects.begun()
                    run.prepare()
                    retval = self.fun(*args, **kwargs)
                    if self.is_coroutine:
                        retval = run_coroutine(retval)
                except Exception as exc:
                    run.raised(exc)
                else:
                    run.returned(retval)
                run.finish()
            finally:
                run.leave()
        except Exception as exc:
            run.broke(exc)
        return run.attempt

    async def acall(
        self,
        task_id: str,
        args: Any,
        kwargs: Any,
        request: dict[str, Any] | None = None,
    ) -> Attempt:
        """Run a task whose body is a coroutine function; the same stages as above."""
        run = _Run(self, task_id, args, kwargs, request)
        try:
            run.enter()
            try:
                run.announce()
                try:
                    run.effects.begun()
                    run.prepare()
                    retval = await self.fun(*args, **kwargs)
                except asyncio.CancelledError as cancelled:
                    exc = run.effects.cancelled(cancelled)
                    if exc is None:
                        raise
                    run.raised(exc)
                except Exception as exc:
                    run.raised(exc)
                else:
                    run.returned(retval)
                run.finish()
            finally:
                run.leave()
        except Exception as exc:
            run.broke(exc)
        return run.attempt


def build_tracer(
    name: str,
    task: Any,
    *,
    app: Any,
    eager: bool = False,
    propagate: bool = False,
    awaits: bool = False,
    **_: Any,
) -> Any:
    """Make the callable that runs `task`, with the arguments of `Tracer.__call__`; a coroutine if it
    `awaits`.

    Both workers and eager calls find this function in this module when they need it, so that a monitoring
    library can put a wrapper in its place, as they do with Celery's.
    """
    tracer = Tracer(task, app, eager=eager, propagate=propagate)
    return tracer.acall if awaits else tracer


class _Run:
    """One attempt while it is under way; the methods are the stages in the module's docstring."""

    __slots__ = (
        "args",
        "attempt",
        "began_at",
        "effects",
        "entered",
        "given",
        "kwargs",
        "request",
        "store",
        "task",
        "task_id",
        "tracer",
    )

    def __init__(
        self,
        tracer: Tracer,
        task_id: str,
        args: Any,
        kwargs: Any,
        request: dict[str, Any] | None,
    ) -> None:
        self.began_at = monotonic()
        self.tracer = tracer
        self.task = tracer.task
        self.task_id = task_id
        self.args = args
        self.kwargs = kwargs
        self.attempt = Attempt()
        #: The request as the caller gave it, which is what receivers of task_internal_error get.
        self.given = {} if request is None else request
        self.effects: Effects = self.given.pop("effects", _NO_EFFECTS)
        self.request = Context(self.given, args=args, called_directly=False, kwargs=kwargs)
        self.store = not get_actual_ignore_result(self.task, self.request)
        self.entered = False

    # -- before

    def enter(self) -> None:
        if not hasattr(self.kwargs, "items"):
            raise InvalidTaskError("Task keyword arguments is not a mapping")
        _state.push_current_task(self.task)
        self.task.request_stack.push(self.request)
        self.entered = True

    def announce(self) -> None:
        task = self.task
        if signals.task_prerun.receivers:
            signals.task_prerun.send(sender=task, task_id=self.task_id, task=task, args=self.args, kwargs=self.kwargs)
        self.tracer.loader.on_task_init(self.task_id, task)
        if task.track_started and self.store and not self.tracer.eager:
            self.effects.started(task, self.request)

    def prepare(self) -> None:
        if self.tracer.before_start:
            self.tracer.before_start(self.task_id, self.args, self.kwargs)

    # -- outcomes

    def returned(self, retval: Any) -> None:
        tracer, task, attempt = self.tracer, self.task, self.attempt
        try:
            store = self.store and (not tracer.eager or bool(task.store_eager_result))
            self.effects.succeeded(task, self.request, retval, store)
        except (EncodeError, OperationalError) as exc:
            self._settle_error(exc, states.FAILURE)
            return
        attempt.state, attempt.retval = states.SUCCESS, retval
        attempt.runtime_s = runtime_s = monotonic() - self.began_at
        if tracer.on_success:
            try:
                tracer.on_success(retval, self.task_id, self.args, self.kwargs)
            except (Reject, MemoryError):
                raise
            except Exception as exc:
                self._hook_raised("on_success", exc)
        if signals.task_success.receivers:
            signals.task_success.send(sender=task, result=retval, runtime=runtime_s)
        if logger.isEnabledFor(logging.INFO):
            log_success(task, self.request, self.task_id, retval, runtime_s)

    def raised(self, exc: Exception) -> None:
        if isinstance(exc, Reject):
            self._log_and_keep(exc, states.REJECTED)
        elif isinstance(exc, Ignore):
            self._log_and_keep(exc, states.IGNORED)
        elif isinstance(exc, Retry):
            self._settle_error(exc, states.RETRY)
        else:
            self._settle_error(exc, states.FAILURE)

    def _log_and_keep(self, exc: Exception, state: str) -> None:
        attempt = self.attempt
        attempt.state, attempt.retval, attempt.einfo = state, exc, ExceptionInfo(internal=True)
        log_error(self.task, self.request, ExceptionInfo())
        traceback_clear(exc)

    def _settle_error(self, exc: Exception, state: str) -> None:
        if self.tracer.propagate:
            raise exc
        attempt = self.attempt
        settle = self._retry if state == states.RETRY else self._fail
        attempt.einfo = settle(exc)
        attempt.state, attempt.retval = state, exc
        traceback_clear(exc)

    def _wants_error_stored(self) -> bool:
        task = self.task
        if not self.store:
            return bool(task.store_errors_even_if_ignored)
        return not self.tracer.eager or bool(task.store_eager_result)

    def _retry(self, exc: Any) -> ExceptionInfo:
        task, request = self.task, self.request
        einfo = ExceptionInfo.of(exc)
        self.effects.retried(task, request, exc, einfo, self._wants_error_stored())
        task.on_retry(exc.exc, request.id, request.args, request.kwargs, einfo)
        signals.task_retry.send(sender=task, request=request, reason=exc, einfo=einfo)
        log_retry(task, request, exc)
        return einfo

    def _fail(self, raised: Exception) -> ExceptionInfo:
        task, request = self.task, self.request
        exc: BaseException = get_pickleable_exception(raised)
        if exc.__traceback__ is None:
            exc.__traceback__ = raised.__traceback__
        einfo = ExceptionInfo((get_pickleable_etype(type(raised)), exc, exc.__traceback__))
        self.effects.failed(task, request, exc, einfo, self._wants_error_stored())
        announce_failure(task, request, exc, einfo)
        traceback_clear(exc)
        return einfo

    # -- after

    def finish(self) -> None:
        attempt, tracer = self.attempt, self.tracer
        if tracer.after_return is None or attempt.state in IGNORE_STATES:
            return
        try:
            tracer.after_return(attempt.state, attempt.retval, self.task_id, self.args, self.kwargs, None)
        except (Reject, MemoryError):
            raise
        except Exception as exc:
            self._hook_raised("after_return", exc)

    def leave(self) -> None:
        if not self.entered:
            return
        task, attempt = self.task, self.attempt
        try:
            if signals.task_postrun.receivers:
                signals.task_postrun.send(
                    sender=task,
                    task_id=self.task_id,
                    task=task,
                    args=self.args,
                    kwargs=self.kwargs,
                    retval=attempt.retval,
                    state=attempt.state,
                )
        finally:
            _state.pop_current_task()
            task.request_stack.pop()
            if not self.tracer.eager:
                self._clean_up()

    def _clean_up(self) -> None:
        try:
            self.tracer.loader.on_process_cleanup()
        except MemoryError:
            raise
        except Exception as exc:
            logger.error("Process cleanup failed: %r", exc, exc_info=True)

    def _hook_raised(self, hook: str, exc: Exception) -> None:
        """A hook of a task that has succeeded raised: the outcome stands, so the worker only logs it."""
        if self.tracer.eager:
            raise exc
        name = shown_name(self.task, self.request)
        logger.exception("Task %s[%s] %s handler raised: %r", name, self.task_id, hook, exc)
        traceback_clear(exc)

    def broke(self, exc: Exception) -> None:
        """Something outside the task's body raised."""
        if isinstance(exc, MemoryError):
            raise exc
        attempt = self.attempt
        if isinstance(exc, Reject):
            if self.tracer.eager:
                raise exc
            attempt.state, attempt.retval, attempt.einfo = states.REJECTED, exc, ExceptionInfo.of(exc, True)
            return
        signal_internal_error(self.task, self.task_id, self.args, self.kwargs, self.given, exc)
        if self.tracer.eager:
            raise exc
        einfo = ExceptionInfo.of(exc, internal=True)
        warnings.warn(RuntimeWarning(f"Exception raised outside body: {exc!r}:\n{einfo.traceback}"), stacklevel=2)
        attempt.state, attempt.retval, attempt.einfo = states.FAILURE, exc, einfo
        try:
            self._fail(exc)
        except Exception as again:
            # The handlers of the failure fail as well. The attempt has failed, and that is what the caller is
            # told.
            signal_internal_error(self.task, self.task_id, self.args, self.kwargs, self.given, again)


def announce_failure(task: Any, request: Any, exc: BaseException, einfo: ExceptionInfo) -> None:
    """Tell the task, the signal's receivers and the log that a task has failed."""
    task.on_failure(exc, request.id, request.args, request.kwargs, einfo)
    signals.task_failure.send(
        sender=task,
        task_id=request.id,
        exception=exc,
        args=request.args,
        kwargs=request.kwargs,
        traceback=exc.__traceback__,
        einfo=einfo,
    )
    log_error(task, request, einfo)


def signal_internal_error(task: Any, task_id: str, args: Any, kwargs: Any, request: Any, exc: BaseException) -> None:
    """Send `task_internal_error`."""
    einfo = ExceptionInfo.of(exc)
    einfo.exception = get_pickleable_exception(exc)
    einfo.type = get_pickleable_etype(einfo.type)
    signals.task_internal_error.send(
        sender=task,
        task_id=task_id,
        args=args,
        kwargs=kwargs,
        request=request,
        exception=exc,
        traceback=exc.__traceback__,
        einfo=einfo,
    )


def traceback_clear(exc: BaseException | None = None) -> None:
    """Drop the local variables that a traceback keeps alive; frames still running keep theirs."""
    tb: TracebackType | None = exc.__traceback__ if exc is not None else sys.exc_info()[2]
    while tb is not None:
        try:
            tb.tb_frame.clear()
        except RuntimeError:
            pass
        tb = tb.tb_next


def started_meta(request: Context) -> dict[str, Any]:
    """What is stored with the state STARTED."""
    return {"pid": os.getpid(), "hostname": request.hostname}
