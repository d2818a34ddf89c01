"""Running one claimed task and returning its outcome.

    claim -> read (decode the message) -> trace (run the task) -> settling -> Outcome
          -> refuse: unknown task, bytes that do not decode, content that is not accepted
          -> condemn: revoked, expired, or its worker died too often: the task is not run, it fails

An outcome carries everything that ends with the task: its result, a retry's new message, the tasks that can never run
since it failed. It is stored by the worker's parent process, in one statement. User code that belongs to the end -
hooks, signals, errbacks - has run by then.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pgtasks import states
from pgtasks.app import trace
from pgtasks.exceptions import NotRegistered, Unwound
from pgtasks.execution.committing import Committing
from pgtasks.execution.ending import condemn, escape, give_up, refuse, reject
from pgtasks.execution.gating import aenter, enter
from pgtasks.execution.reading import Unreadable, read, time_limits
from pgtasks.execution.resuming import hold, is_resumable, leave
from pgtasks.execution.settling import Settling
from pgtasks.execution.site import Limits, Site
from pgtasks.message import Claim, Outcome

__all__ = ("Limits", "Site", "aexecute", "execute", "give_up")


def execute(site: Site, claim: Claim) -> Outcome:
    """Run one claimed task and return its outcome; raises only what must end the process now."""
    prepared = _prepare(site, claim)
    if isinstance(prepared, Outcome):
        return prepared
    task, request, effects = prepared
    if effects.is_limited and (stopped := enter(site, claim, task, request)) is not None:
        return stopped
    tracer = _tracer(site.app, task)
    try:
        attempt = tracer(request["id"], request["args"], request["kwargs"], request)
    except Unwound as unwound:
        return leave(site, claim, task, request, unwound)
    except MemoryError:
        raise
    except BaseException as exc:
        return escape(site, claim, task, request, exc)
    return _concluded(site, claim, task, effects, attempt)


async def aexecute(site: Site, claim: Claim) -> Outcome:
    """`execute` for a task whose body is a coroutine function, on the running event loop."""
    prepared = _prepare(site, claim, is_loop_shared=True)
    if isinstance(prepared, Outcome):
        return prepared
    task, request, effects = prepared
    if effects.is_limited and (stopped := await aenter(site, claim, task, request)) is not None:
        return stopped
    tracer = _tracer(site.app, task, awaits=True)
    try:
        attempt = await tracer(request["id"], request["args"], request["kwargs"], request)
    except Unwound as unwound:
        return leave(site, claim, task, request, unwound)
    except MemoryError:
        raise
    except BaseException as exc:
        current = asyncio.current_task()
        if isinstance(exc, asyncio.CancelledError) and current is not None and current.cancelling():
            raise
        return escape(site, claim, task, request, exc)
    return _concluded(site, claim, task, effects, attempt)


def _concluded(site: Site, claim: Claim, task: Any, effects: Settling, attempt: Any) -> Outcome:
    if attempt.state == states.REJECTED and not attempt.retval.requeue:
        return reject(site, claim, task, read(site, claim), attempt.retval)
    return effects.conclude(attempt)


_tracers: dict[tuple[int, str, bool], tuple[Any, Any, Any]] = {}


def _tracer(app: Any, task: Any, awaits: bool = False) -> Any:
    key = (id(app), task.name, awaits)
    known = _tracers.get(key)
    # A monitoring library may have put its own function in the place of build_tracer since.
    if known is None or known[0] is not task or known[1] is not trace.build_tracer:
        tracer = trace.build_tracer(task.name, task, app=app, awaits=awaits)
        known = _tracers[key] = (task, trace.build_tracer, tracer)
    return known[2]


def _prepare(
    site: Site, claim: Claim, *, is_loop_shared: bool = False
) -> tuple[Any, dict[str, Any], Settling] | Outcome:
    """Read a message and find its task, or say at once what becomes of a claim that cannot or must not be run."""
    task = site.app.tasks.get(claim.name)
    try:
        request = read(site, claim)
    except Unreadable as error:
        return refuse(site, claim, error.__cause__ or error, unreadable=True)
    if task is None:
        return refuse(site, claim, NotRegistered(claim.name), request)
    effects = Settling(site, claim) if task.transactional is None else Committing(site, claim)
    if task.remembers and is_resumable(claim):
        request["hold"] = hold(site, claim, is_loop_shared)
    elif claim.fate != "live":
        return condemn(site, claim, task, request)
    # One that was revoked runs only to be undone.
    effects.is_limited = task.flow is not None and claim.fate == "live"
    _set_time_limits(site, task, request, effects)
    request["effects"] = effects
    request["resubmit"] = effects.resubmit
    request["become"] = effects.become
    request["join"] = effects.join if claim.has_successors and claim.group_id else None
    if isinstance(effects, Committing):
        effects.prepare(request)
    return task, request, effects


def _set_time_limits(site: Site, task: Any, request: dict[str, Any], effects: Settling) -> None:
    hard, soft = time_limits(site, task, request)
    if hard or soft:
        # What the request shows is the call's own, as in Celery.
        effects.time_limits = (hard, soft)
