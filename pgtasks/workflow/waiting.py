"""How a run waits: for time, for signals, for tasks.

A wait first looks for its event. If it has not happened, the run is suspended: it becomes a row, with the wait as a PENDING
step so that its timeout keeps running. The transaction that brings the event wakes the run (`pgtasks.wake` in the schema).
The code is then replayed up to the wait, which looks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from pgtasks.exceptions import TimeoutError, WorkflowError
from pgtasks.message import id_of
from pgtasks.store import workflows
from pgtasks.store.workflows import Came, Pending, Place, Recorded, Step, Wish
from pgtasks.workflow.base import SHORT_S, BaseRun
from pgtasks.workflow.effects import Pause, Plan

__all__ = ("Sought", "get", "get_all", "sleep", "sleep_until", "wait")

#: Seconds after which a run looks again for tasks that it has not made itself: their end wakes nobody for sure.
RECHECK_S = 10.0


def sleep(run: BaseRun, place: Place, seconds: float) -> Plan[None]:
    """Suspend the run for some seconds, by the database's clock."""
    known = yield from run.known(place)
    if known is not None:
        yield from _sleep_on(run, known)
    elif seconds <= SHORT_S:
        step = Step(place=place, kind="sleep", state="PENDING", attempts=0)
        amended = yield workflows.amend(run.hold, step, again_in_s=max(seconds, 0.0))
        run.check(None if amended is None else amended.is_cancelled)
        if seconds > 0:
            yield Pause(seconds)
    else:
        yield from run.suspend(Wish(pending=(Pending(**place._asdict(), kind="sleep", seconds=seconds),)))


def sleep_until(run: BaseRun, place: Place, moment: datetime) -> Plan[None]:
    """Suspend the run until a moment; returns at once if it is past."""
    known = yield from run.known(place)
    if known is not None:
        yield from _sleep_on(run, known)
        return
    due = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    pending = Pending(**place._asdict(), kind="sleep", due=due.isoformat())
    yield from run.suspend(Wish(until=due, pending=(pending,)))


def _sleep_on(run: BaseRun, known: Recorded) -> Plan[None]:
    if known.state == "PENDING" and not known.is_due:
        yield from run.suspend(Wish(until=known.due))


class Sought(NamedTuple):
    """What a wait is for: the first of some signals and tasks."""

    names: tuple[str, ...] = ()
    #: As their users know them.
    task_ids: tuple[str, ...] = ()
    timeout_s: float | None = None

    @property
    def keys(self) -> tuple[UUID, ...]:
        return tuple(id_of(each) for each in self.task_ids)

    def __str__(self) -> str:
        return ", ".join((*self.names, *(f"task {each}" for each in self.task_ids)))


def wait(run: BaseRun, place: Place, kind: str, sought: Sought) -> Plan[Recorded | Came]:
    """Wait for the first of what is sought; a state of TIMEOUT, once recorded, is final."""
    known = yield from run.known(place)
    _refuse_oneself(run, sought.keys)
    while known is None or known.state == "PENDING":
        step = Step(place=place, kind=kind)
        answer = yield workflows.receive(run.hold, step, sought.names, sought.keys)
        run.check(None if answer is None else answer.is_cancelled)
        if answer.came:
            came: Came = answer.came[place.name, place.ordinal]
            return came
        yield from run.suspend(_wish(run, place, kind, sought, known))
    return known


def _refuse_oneself(run: BaseRun, tasks: Sequence[UUID]) -> None:
    if run.hold.run in tasks:
        raise WorkflowError(f"Run {run.hold.run} of {run.task.name} waits for its own end, which would never come.")


def _wish(run: BaseRun, place: Place, kind: str, sought: Sought, known: Recorded | None) -> Wish:
    foreign = any(not run.is_own(each) for each in sought.task_ids)
    pending = Pending(**place._asdict(), kind=kind, source=str(sought), seconds=sought.timeout_s)
    return Wish(
        tasks=sought.keys,
        names=sought.names,
        pending=(pending,),
        until=None if known is None else known.due,
        recheck_s=RECHECK_S if foreign else None,
    )


def get(run: BaseRun, place: Place, task_id: str, timeout_s: float | None) -> Plan[Recorded | Came]:
    """Wait for one task; raises `TimeoutError` when it has not ended in time."""
    came = yield from wait(run, place, "get", Sought(task_ids=(task_id,), timeout_s=timeout_s))
    if came.state == "TIMEOUT":
        raise TimeoutError(f"Task {task_id} did not end within {timeout_s:g} s. Nothing was cancelled.")
    return came


def get_all(run: BaseRun, places: Sequence[Place], task_ids: Sequence[str]) -> Plan[list[Recorded | Came]]:
    """Wait until all of some tasks have ended; the outcome of each is a step of its own."""
    found: dict[int, Any] = {}
    for index, place in enumerate(places):
        known = yield from run.known(place)
        if known is not None and known.state != "PENDING":
            found[index] = known
    while missing := [index for index in range(len(places)) if index not in found]:
        keys = [id_of(task_ids[index]) for index in missing]
        _refuse_oneself(run, keys)
        answer = yield workflows.collect(run.hold, [places[index] for index in missing], keys)
        run.check(None if answer is None else answer.is_cancelled)
        for index in missing:
            came = answer.came.get((places[index].name, places[index].ordinal))
            if came is not None:
                found[index] = came
        if len(found) < len(places):
            left = tuple(id_of(task_ids[index]) for index in missing if index not in found)
            foreign = any(key not in run.children for key in left)
            yield from run.suspend(Wish(tasks=left, is_set=True, recheck_s=RECHECK_S if foreign else None))
    return [found[index] for index in range(len(places))]
