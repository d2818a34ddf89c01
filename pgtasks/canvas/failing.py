"""How a failure spreads through a canvas: the state and error of the tasks that can now never run.

    a ── b                 b is the next step: it fails with a's error
    a ─┬ b                 b is a chord's body: it fails with ChordError, its errbacks are called
    c ─┘
    z ─┬ a ─┬ b            z fails before the chord begins: a, c and b are steps after it and fail with z's error
       └ c ─┘
    a.link(b)              b is a callback: it does not happen, nor does what follows it, and nobody is told

Members of a group that is a chord's body fail with the error itself, as in Celery, and their errbacks are called.
Where Celery leaves tasks PENDING for ever (a chord around a chord that failed, a header after a task that failed)
they fail here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple
from uuid import UUID

from pgtasks.canvas.nodes import Role
from pgtasks.exceptions import ChordError


class Waiting(NamedTuple):
    """A task that waits for `pred`; `public_id` is its id as users know it, for `role` and `entry` see `Node`."""

    id: UUID
    pred: UUID
    public_id: str
    role: Role
    entry: UUID | None = None


class Fall(NamedTuple):
    """The end of a task that can never run, since one that it waited for has failed.

    A silent one leaves no result that users could see. `within` is for the body of a chord whose header contains another
    chord: it is the body of the inner one, or the first step of that, when it fell first. An errback that both have is called
    once.
    """

    id: UUID
    error: BaseException
    calls_errbacks: bool = False
    is_silent: bool = False
    within: UUID | None = None


def falls(failed: UUID, public_id: str, error: BaseException, waiting: Iterable[Waiting]) -> Iterator[Fall]:
    """Return the casualties of a failure: the end of each task that waits, directly or not, for the failed one.

    `waiting` comes nearest first. A task in it more than once, since several of its predecessors fall, falls once.
    """
    fallen: dict[UUID, tuple[str, Fall]] = {failed: (public_id, Fall(failed, error))}
    for task in waiting:
        if task.id in fallen or task.pred not in fallen:
            continue
        pred_id, before = fallen[task.pred]
        entry = None if task.entry is None or task.entry == failed else fallen.get(task.entry)
        # The chord never began. Unless all of it is the body of the chord that failed, it is just what comes next.
        is_next = entry is not None and not entry[1].calls_errbacks
        fall = _fall(task, pred_id, before, is_next)
        # The members of a body that is a group are not to blame for what follows them: they never began.
        culprit = pred_id if task.role == "member" and not is_next else task.public_id
        fallen[task.id] = (culprit, fall)
        yield fall


def _fall(task: Waiting, pred_id: str, before: Fall, is_next: bool) -> Fall:
    """The end of one task; `is_next` says that the failure came from before its chord, not from within it."""
    if before.is_silent or task.role == "callback":
        return Fall(task.id, before.error, is_silent=True)
    within = before.id if before.calls_errbacks else before.within
    if task.role not in ("body", "member") or is_next:
        return Fall(task.id, before.error, within=within)
    # The body of a chord within the header hands its ChordError on; of one that is a chain the last step has raised it.
    if task.role == "member" or (isinstance(before.error, ChordError) and before.calls_errbacks):
        return Fall(task.id, before.error, calls_errbacks=True, within=within)
    chord_error = ChordError(f"Dependency {pred_id} raised {before.error!r}")
    chord_error.__cause__ = before.error
    return Fall(task.id, chord_error, calls_errbacks=True, within=within)
