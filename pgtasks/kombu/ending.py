"""Ending a task that a Celery worker had claimed, with everything that follows for a canvas of ours.

What waits for the task is released, or fails with it, and the errbacks of chord bodies are sent, by the same
code that does it in our workers.
"""

from __future__ import annotations

from functools import cache
from typing import Any
from uuid import UUID

from pgtasks.app.base import Celery
from pgtasks.app.context import Context
from pgtasks.execution import Site
from pgtasks.execution.settling import Settling
from pgtasks.message import Claim, Outcome
from pgtasks.serialization import encode_exception
from pgtasks.states import SUCCESS
from pgtasks.store import fleet, tasks
from pgtasks.store.tasks import StateRow

__all__ = ("app_of", "end", "settle")

#: A claim of which nothing matters but whose it is.
_BARE = Claim._make([None] * len(Claim._fields))._replace(
    name="", queue="", payload=b"", retries=0, rank=0, seq=0, losses=0, fate="live", has_successors=True
)


@cache
def app_of(url: str) -> Celery:
    """An app without tasks, for what needs one: to send errbacks, to write errors down."""
    return Celery("pgtasks.kombu", broker=url, set_as_current=False, autofinalize=True)


def end(url: str, key: UUID, task_id: str, worker: UUID, delivery: int, state: str, error: Exception) -> None:
    """End a claimed task that is not to run."""
    backend = app_of(url).backend
    row = backend.row_of(encode_exception(error, backend.serializer))
    settle(url, key, task_id, worker, delivery, state, row, error)


def settle(
    url: str,
    key: UUID,
    task_id: str,
    worker: UUID,
    delivery: int,
    state: str,
    row: StateRow,
    error: BaseException | None = None,
) -> None:
    """Settle a claim as ended in `state`; with an `error`, what waits for the task fails with that."""
    app = app_of(url)
    claim = _BARE._replace(id=key, task_id=task_id, delivery=delivery)
    effects = Settling(Site(app, worker, row.get("hostname") or ""), claim)
    effects.row = row
    if state != SUCCESS:
        effects.spread(Context(id=task_id, called_directly=False), error or RuntimeError(state), None)
    _store(app, worker, row.get("hostname") or "", effects.ended(state))


def _store(app: Any, worker: UUID, hostname: str, outcome: Outcome) -> None:
    enqueues = [tasks.enqueue(messages, edges) for messages, edges in outcome.follow_ups]
    app.database.run_together(tasks.settle(worker, hostname, [outcome]), *enqueues)
    # A worker that settles looks for what it has released by itself; this was done on behalf of one.
    app.database.run(fleet.nudge([worker]))
