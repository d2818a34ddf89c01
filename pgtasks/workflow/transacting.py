"""Steps that are recorded in the same transaction as their own writes: exactly once.

The body writes, the record follows in the same transaction, which locks the claim until it commits. Either both are there or
neither; a worker that has lost the run rolls back. When the answer to COMMIT is lost, the history says whether it was done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pgtasks.app.transactional import atransaction, is_connection_lost, transaction
from pgtasks.exceptions import RunInterrupted, RunLost
from pgtasks.store import borrow, workflows
from pgtasks.store.workflows import Place, Step
from pgtasks.utils.coroutines import run_coroutine
from pgtasks.workflow.course import Course
from pgtasks.workflow.need import Body, Plan

__all__ = ("step_within",)


class _Unsure(Exception):
    """An error came where the answer to COMMIT should have."""


def step_within(
    run: Course, place: Place, kind: str, call: Callable[[Any], Any], source: Any, *, awaits: bool = False
) -> Plan[Any]:
    """Run a step in a transaction of this source, or replay its recorded outcome; `call` gets the connection."""
    known = yield from run.known(place)
    if known is not None and known.state != "PENDING":
        return run.replay(place, known)
    began_at = time.monotonic()
    try:
        value, step = yield _body(run, place, kind, call, source, began_at, awaits)
    except _Unsure as unsure:
        return (yield from _resolved(run, place, unsure))
    except Exception as error:
        yield from run.fail(place, kind, error, 1, time.monotonic() - began_at, False)
        raise
    return run.given(value, step)


def _body(
    run: Course, place: Place, kind: str, call: Callable[[Any], Any], source: Any, began_at: float, awaits: bool
) -> Body:
    done = partial(_done, run, place, kind, call, source, began_at)
    adone = partial(_adone, run, place, kind, call, source, began_at)
    if not awaits:
        return Body(run.key_of(place), done, run.is_async)
    return Body(run.key_of(place), adone if run.is_async else lambda: run_coroutine(adone()))


def _done(
    run: Course, place: Place, kind: str, call: Callable[[Any], Any], source: Any, began_at: float
) -> tuple[Any, Step]:
    is_recorded = False
    try:
        with transaction(source, run.app) as connection:
            value = call(connection)
            step = run.made(place, kind, value, took_s=time.monotonic() - began_at)
            if run.is_durable and borrow.run(connection, workflows.remember_within(run.hold, step)) is None:
                raise RunLost(f"Run {run.hold.run} is not held by this worker any more")
            is_recorded = True
    except Exception as error:
        if is_recorded or _is_recorded_before(error):
            raise _Unsure from error
        raise
    return value, step


async def _adone(
    run: Course, place: Place, kind: str, call: Callable[[Any], Any], source: Any, began_at: float
) -> tuple[Any, Step]:
    is_recorded = False
    try:
        async with atransaction(source, run.app) as connection:
            value = await call(connection)
            step = run.made(place, kind, value, took_s=time.monotonic() - began_at)
            if run.is_durable and await borrow.arun(connection, workflows.remember_within(run.hold, step)) is None:
                raise RunLost(f"Run {run.hold.run} is not held by this worker any more")
            is_recorded = True
    except Exception as error:
        if is_recorded or _is_recorded_before(error):
            raise _Unsure from error
        raise
    return value, step


def _is_recorded_before(error: BaseException) -> bool:
    constraint = getattr(getattr(error, "diag", None), "constraint_name", None)
    return bool(constraint == "step_pkey")


def _resolved(run: Course, place: Place, unsure: _Unsure) -> Plan[Any]:
    """Find out whether the step is there; if not, it was rolled back."""
    error = unsure.__cause__ or unsure
    rows = yield workflows.recall(run.hold.run)
    if any((row.name, row.ordinal) == (place.name, place.ordinal) for row in rows):
        adopted = yield from run.adopt(place, unsure)
        return run.replay(place, adopted)
    if is_connection_lost(error):
        run.leave(RunInterrupted(str(error)))
    raise error
