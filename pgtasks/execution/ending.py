"""Ending tasks that are not run: unreadable, unknown, revoked, expired, or given up after too many deaths.

Everything that belongs to a failure happens here too: what waits for the task fails, errbacks are called, signals are sent.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from typing import Any

from pgtasks import signals, states
from pgtasks.app.builtins import BUILT_IN
from pgtasks.app.context import Context, get_actual_ignore_result
from pgtasks.einfo import ExceptionInfo
from pgtasks.exceptions import (
    ChordError,
    ContentDisallowed,
    DecodeError,
    InvalidTaskError,
    Retry,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from pgtasks.execution.settling import Settling
from pgtasks.execution.site import Site
from pgtasks.message import NEVER_AGAIN, Claim, Outcome
from pgtasks.utils.log import get_logger

__all__ = ("condemn", "escape", "fail", "give_up", "refuse", "reject")

logger = get_logger("celery.worker.request")
reading_logger = get_logger("celery.worker.consumer.consumer")


def fail(
    site: Site,
    claim: Claim,
    task: Any,
    request: Mapping[str, Any],
    exc: BaseException,
    *,
    state: str = states.FAILURE,
    returns: bool = False,
    announce: Callable[[Context, ExceptionInfo], None] | None = None,
) -> Outcome:
    """Fail a task without running it: store the error, fail what waits for it, call its errbacks, tell the signals.

    `returns` says that it did run, and that `after_return` is owed.
    """
    context = Context(request, called_directly=False)
    einfo = ExceptionInfo((type(exc), exc, None))
    effects = Settling(site, claim)
    effects.is_limited = task.flow is not None
    stored = not get_actual_ignore_result(task, context) or bool(task.store_errors_even_if_ignored)
    effects.is_hidden = not stored
    # Nothing of the task's own is on the stack: there is no traceback to keep.
    effects.row = effects.error_row(exc, context, None)
    effects.spread(context, exc, None)
    if announce is None:
        task.push_request(**request)
        try:
            task.on_failure(exc, context.id, context.args, context.kwargs, einfo)
            if returns:
                task.after_return(state, exc, context.id, context.args, context.kwargs, None)
            _signal_failure(task, context, exc, einfo)
        except Exception:
            logger.exception("A handler of the failure of task %s[%s] raised.", claim.name, claim.public_id)
        finally:
            task.pop_request()
        logger.error("Task %s[%s] failed: %s", claim.name, claim.public_id, exc)
    else:
        announce(context, einfo)
    return effects.ended(state)


def _signal_failure(task: Any, context: Context, exc: BaseException, einfo: ExceptionInfo) -> None:
    signals.task_failure.send(
        sender=task,
        task_id=context.id,
        exception=exc,
        args=context.args,
        kwargs=context.kwargs,
        traceback=einfo.traceback,
        einfo=einfo,
    )


def reject(site: Site, claim: Claim, task: Any, request: Mapping[str, Any], rejection: BaseException) -> Outcome:
    """Fail a task that has rejected its message for good: as in Celery receivers are told, and its own hooks are not."""

    def announce(context: Context, einfo: ExceptionInfo) -> None:
        try:
            _signal_failure(task, context, rejection, einfo)
        except Exception:
            logger.exception("A handler of the failure of task %s[%s] raised.", claim.name, claim.public_id)

    return fail(site, claim, task, request, rejection, announce=announce)


def escape(site: Site, claim: Claim, task: Any, request: Mapping[str, Any], exc: BaseException) -> Outcome:
    """Fail a task whose code has raised what is not an `Exception`.

    `SystemExit` and `KeyboardInterrupt` mean the process: the task was lost with it. Where it says that it is to run
    again then, they are raised, and the worker finds it so. What has stopped the task from outside is raised as well: the pool
    that did it knows its fate.
    """
    if site.limits.fate is not None:
        raise exc
    if not isinstance(exc, SystemExit | KeyboardInterrupt):
        return fail(site, claim, task, request, exc)
    if task.retry_on_worker_lost or (task.acks_late and task.reject_on_worker_lost):
        raise exc
    how = "KeyboardInterrupt"
    if isinstance(exc, SystemExit):
        status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        site.limits.leave(status)
        how = f"exitcode {status}"
    return fail(site, claim, task, request, WorkerLostError(f"Worker exited prematurely: {how}."))


def give_up(site: Site, claim: Claim, reason: str) -> Outcome:
    """Fail a task, and what waits for it, without running any code of its own: not even its errbacks."""
    error = WorkerLostError(reason)
    effects = Settling(site, claim, is_quiet=True)
    effects.row = effects.error_row(error, None, None)
    effects.spread(Context(id=claim.public_id, called_directly=False), error, None)
    return effects.ended(states.FAILURE)


def refuse(
    site: Site,
    claim: Claim,
    error: BaseException,
    request: Mapping[str, Any] | None = None,
    *,
    unreadable: bool = False,
) -> Outcome:
    """Fail a message that no task here can run; its error says to its caller what was wrong."""
    if unreadable:
        reading_logger.critical(
            "Cannot read the message of task %s[%s] (%s, %d bytes): %r. It has failed with this error; check"
            " accept_content and who sends to queue %s.",
            claim.name,
            claim.public_id,
            claim.content_type or "json",
            len(claim.payload),
            error,
            claim.queue,
        )
        if not isinstance(error, ChordError | ContentDisallowed | DecodeError | InvalidTaskError):
            error = InvalidTaskError(f"The message of task {claim.name!r} cannot be read: {error!r}")
    else:
        reading_logger.error(
            "Received unregistered task of type %r.\nIt has failed (id %s). Is its module in imports= or autodiscovered by"
            " this worker? It knows: %s",
            claim.name,
            claim.public_id,
            ", ".join(sorted(n for n in site.app.tasks if not n.startswith(BUILT_IN))),
        )
        signals.task_unknown.send(sender=site, message=claim, exc=error, name=claim.name, id=claim.public_id)
    effects = Settling(site, claim)
    context = Context(request or {}, id=claim.public_id, called_directly=False)
    effects.row = effects.error_row(error, None, None)
    effects.spread(context, error, None)
    return effects.ended(states.FAILURE)


def condemn(site: Site, claim: Claim, task: Any, request: Mapping[str, Any]) -> Outcome:
    """End a task that must not be run, or that was stopped from outside; `claim.fate` says why."""
    fate, _, detail = claim.fate.partition(":")
    if fate in ("revoked", "expired", "terminated"):
        return _revoke(site, claim, task, request, fate, detail)
    if fate == "timeout":
        logger.error("Hard time limit (%ss) exceeded for %s[%s]", detail, claim.name, claim.public_id)
        # The limit as it was given, 1 or 1.0.
        return fail(site, claim, task, request, TimeLimitExceeded(json.loads(detail)), returns=True)
    if fate == "retry" and not _has_run_out(task, request):
        return _retry(site, claim, task, request, WorkerLostError(detail))
    return fail(site, claim, task, request, WorkerLostError(detail or _lost(claim)))


def _has_run_out(task: Any, request: Mapping[str, Any]) -> bool:
    return task.max_retries is not None and request["retries"] >= task.max_retries


def _retry(site: Site, claim: Claim, task: Any, request: Mapping[str, Any], error: WorkerLostError) -> Outcome:
    """Retry a task that was lost with its process, as if it had asked for a retry."""
    context = Context(request, called_directly=False)
    einfo = ExceptionInfo((type(error), error, None))
    delay_s = task.default_retry_delay
    reason = Retry(exc=error, when=delay_s)
    effects = Settling(site, claim)
    effects.is_limited = task.flow is not None
    stored = not get_actual_ignore_result(task, context) or bool(task.store_errors_even_if_ignored)
    effects.retried(task, context, reason, einfo, stored)
    task.push_request(**request)
    try:
        task.on_retry(error, context.id, context.args, context.kwargs, einfo)
        signals.task_retry.send(sender=task, request=context, reason=reason, einfo=einfo)
    except Exception:
        logger.exception("A handler of the retry of task %s[%s] raised.", claim.name, claim.public_id)
    finally:
        task.pop_request()
    logger.info("Task %s[%s] retry: %s", claim.name, claim.public_id, reason)
    return effects.once_more(delay_s=delay_s, retries=claim.retries + 1)


def _lost(claim: Claim) -> str:
    if claim.losses >= NEVER_AGAIN:
        return (
            "Its worker died while it may have been running, and acks_late=False says that it must not run twice."
            f" Job: {claim.public_id}."
        )
    return (
        f"Its worker or its process died {claim.losses} times while it may have been running, which is what"
        f" task_max_deliveries allows. Job: {claim.public_id}."
    )


def _revoke(site: Site, claim: Claim, task: Any, request: Mapping[str, Any], fate: str, detail: str) -> Outcome:
    is_terminated = fate == "terminated"
    number = getattr(signal, detail, None) if is_terminated else None

    def announce(context: Context, einfo: ExceptionInfo) -> None:
        logger.info("Discarding revoked task: %s[%s]", claim.name, claim.public_id)
        signals.task_revoked.send(
            sender=task, request=context, terminated=is_terminated, signum=number, expired=fate == "expired"
        )

    return fail(site, claim, task, request, TaskRevokedError(fate), state=states.REVOKED, announce=announce)
