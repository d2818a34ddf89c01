"""Ending tasks that are not run: unreadable, unknown, revoked, expired, or given up after too many deaths.

Everything that belongs to a failure happens here too: what waits for the task fails, errbacks are called, signals are sent.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any

from pgtasks import signals, states
from pgtasks.app.context import Context, get_actual_ignore_result
from pgtasks.einfo import ExceptionInfo
from pgtasks.exceptions import (
    ChordError,
    ContentDisallowed,
    DecodeError,
    InvalidTaskError,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from pgtasks.execution.settling import Settling
from pgtasks.execution.site import Site
from pgtasks.message import NEVER_AGAIN, Claim, Outcome
from pgtasks.utils.log import get_logger

__all__ = ("condemn", "fail", "give_up", "refuse")

logger = get_logger("celery.worker")


def fail(
    site: Site,
    claim: Claim,
    task: Any,
    request: Mapping[str, Any],
    exc: BaseException,
    *,
    state: str = states.FAILURE,
    announce: Callable[[Context, ExceptionInfo], None] | None = None,
) -> Outcome:
    """Fail a task without running it: store the error, fail what waits for it, call its errbacks, tell the signals."""
    context = Context(request, called_directly=False)
    einfo = ExceptionInfo((type(exc), exc, None))
    effects = Settling(site, claim)
    stored = not get_actual_ignore_result(task, context) or bool(task.store_errors_even_if_ignored)
    effects.failed(task, context, exc, einfo, stored)
    if announce is None:
        task.push_request(**request)
        try:
            task.on_failure(exc, context.id, context.args, context.kwargs, einfo)
            signals.task_failure.send(
                sender=task,
                task_id=context.id,
                exception=exc,
                args=context.args,
                kwargs=context.kwargs,
                traceback=None,
                einfo=einfo,
            )
        except Exception:
            logger.exception("A handler of the failure of task %s[%s] raised.", claim.name, claim.public_id)
        finally:
            task.pop_request()
        logger.error("Task %s[%s] failed: %s", claim.name, claim.public_id, exc)
    else:
        announce(context, einfo)
    return effects.ended(state)


def give_up(site: Site, claim: Claim, reason: str) -> Outcome:
    """Fail a task, and what waits for it, without running any code of its own: not even its errbacks."""
    error = WorkerLostError(reason)
    effects = Settling(site, claim, is_quiet=True)
    effects.row = effects.error_row(error, None, None)
    effects.spread(Context(id=claim.public_id, called_directly=False), error, None)
    return effects.ended(states.FAILURE)


def refuse(
    site: Site, claim: Claim, error: BaseException, request: Mapping[str, Any] | None = None, *, unreadable: bool = False
) -> Outcome:
    """Fail a message that no task here can run; its error says to its caller what was wrong."""
    if unreadable:
        logger.critical(
            "Cannot read the message of task %s[%s] (%s, %d bytes): %r. It has failed with this error; check"
            " accept_content and who sends to queue %s.",
            claim.name, claim.public_id, claim.content_type or "json", len(claim.payload), error, claim.queue,
        )
        if not isinstance(error, ChordError | ContentDisallowed | DecodeError | InvalidTaskError):
            error = InvalidTaskError(f"The message of task {claim.name!r} cannot be read: {error!r}")
    else:
        logger.error(
            "Received unregistered task of type %r.\nIt has failed (id %s). Is its module in imports= or autodiscovered by"
            " this worker? It knows: %s",
            claim.name, claim.public_id, ", ".join(sorted(n for n in site.app.tasks if not n.startswith("celery."))),
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
        limit_s = float(detail)
        error = TimeLimitExceeded(int(limit_s) if limit_s.is_integer() else limit_s)
        return fail(site, claim, task, request, error)
    return fail(site, claim, task, request, WorkerLostError(detail or _lost(claim)))


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
