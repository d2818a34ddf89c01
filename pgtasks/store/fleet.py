"""Verbs on workers: registration, heartbeat, taking over from the dead, waking the idle.

The statements, with what they rely on, are in `fleet.sql`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from pgtasks.message import Claim
from pgtasks.store.sql import Query, Row, count, load, nothing, rows
from pgtasks.store.tasks import Lane

_SQL = load("fleet")


class Tick(NamedTuple):
    """The answer to a worker's `tick`."""

    is_registered: bool
    promoted: int
    next_due_s: float | None
    has_ready: bool
    revoked_ids: list[UUID]
    revoked_signals: list[str]
    has_letters: bool
    has_dead: bool
    has_listeners: bool
    has_held: bool
    limited_queues: list[str]


class Reaped(NamedTuple):
    """Workers that were found dead, and how many tasks went back to their queues."""

    dead: list[UUID]
    returned: int


def enlist(
    worker: UUID,
    *,
    hostname: str,
    machine: str,
    pid: int,
    pool: str,
    concurrency: int,
    queues: Sequence[str],
    version: str,
    lease_s: float,
) -> Query[None]:
    """Register a worker process."""
    values: dict[str, Any] = {
        "id": worker,
        "hostname": hostname,
        "machine": machine,
        "pid": pid,
        "pool": pool,
        "concurrency": concurrency,
        "queues": list(queues),
        "version": version,
        "lease": lease_s,
    }
    return Query(_SQL["enlist"], values, nothing)


def tick(
    worker: UUID,
    queues: Sequence[str],
    *,
    renew: bool,
    limit: int = 500,
    lanes: Sequence[Lane] | None = None,
    back_s: float | None = None,
) -> Query[Tick]:
    """Renew the lease if asked to, move what is due, and look around.

    Looks for ready tasks in all of the queues, or in these lanes of them, and for what is due at any time, or was or will be
    within `back_s` seconds.
    """
    if lanes is None:
        lanes = [Lane(queue) for queue in queues]
    values = {
        "worker": worker,
        "queues": list(queues),
        "lane_queues": [lane.queue for lane in lanes],
        "los": [lane.rank for lane in lanes],
        "seqs": [lane.seq for lane in lanes],
        "his": [lane.last_rank for lane in lanes],
        "back": back_s,
        "renew": renew,
        "limit": limit,
    }
    return Query(_SQL["tick"], values, _tick)


def _tick(found: Sequence[Row]) -> Tick:
    return Tick._make(found[0])


def reap(limit: int = 500) -> Query[Reaped]:
    """Take up to `limit` tasks back from dead workers."""
    return Query(_SQL["reap"], {"limit": limit}, _reaped)


def _reaped(found: Sequence[Row]) -> Reaped:
    return Reaped._make(found[0])


def discharge(worker: UUID) -> Query[int]:
    """Sign a worker off; what it holds goes back uncharged. Gives how many tasks that were."""
    return Query(_SQL["discharge"], {"worker": worker}, count)


class Disowned(NamedTuple):
    """The answer to a `disown`."""

    #: How many tasks went back.
    returned: int
    #: Which of those that were named are not the worker's.
    lost: list[UUID]
    #: How many were left alone, being young.
    spared: int


def disown(worker: UUID, known: Collection[tuple[UUID, int]], *, spare_s: float = 0.0) -> Query[Disowned]:
    """Give back what a worker holds by the tables but does not know of; `known` are ids with their deliveries.

    What it has claimed in the last `spare_s` seconds is left alone.
    """
    ids, deliveries = [each for each, _ in known], [number for _, number in known]
    values = {"worker": worker, "ids": ids, "deliveries": deliveries, "spare": spare_s}
    return Query(_SQL["disown"], values, _disowned)


def _disowned(found: Sequence[Row]) -> Disowned:
    return Disowned._make(found[0])


def idle(worker: UUID, queues: Sequence[str]) -> Query[None]:
    """Declare a worker idle, so that an enqueue wakes it."""
    return Query(_SQL["idle"], {"worker": worker, "queues": list(queues)}, nothing)


def busy(worker: UUID) -> Query[None]:
    """Declare a worker busy, so that it is left alone."""
    return Query(_SQL["busy"], {"worker": worker}, nothing)


def nudge(workers: Iterable[UUID]) -> Query[None]:
    """Wake some workers by name."""
    return Query(_SQL["nudge"], {"workers": list(workers)}, nothing)


class Watched(NamedTuple):
    """The answer to a `watch`: the results that are there, and when that was, by the server's clock."""

    ended: list[UUID]
    at: datetime


def watch(process: UUID, ids: Collection[UUID]) -> Query[Watched]:
    """Declare that a process waits for some results, and look which have ended."""
    return Query(_SQL["watch"], {"process": process, "ids": list(ids)}, lambda found: Watched._make(found[0]))


def unwatch(process: UUID, ids: Collection[UUID]) -> Query[None]:
    """Declare that a process waits for some results no longer."""
    return Query(_SQL["unwatch"], {"process": process, "ids": list(ids)}, nothing)


def tell(ids: Collection[UUID]) -> Query[None]:
    """Tell those who wait for some results, when no settle did."""
    return Query(_SQL["tell"], {"ids": list(ids)}, nothing)


def sweep_waiters() -> Query[None]:
    """Forget waiters that were declared long ago."""
    return Query(_SQL["sweep_waiters"], {}, nothing)


def workers() -> Query[Sequence[Row]]:
    """The registered workers, as rows of the view `pgtasks.workers`."""
    return Query(_SQL["workers"], {}, rows)


def subscribe(worker: UUID, queues: Sequence[str]) -> Query[None]:
    """Change which queues a worker consumes."""
    return Query(_SQL["subscribe"], {"worker": worker, "queues": list(queues)}, nothing)


def agenda(
    worker: UUID, queues: Sequence[str], ids: Iterable[UUID] | None = None, limit: int = 1000
) -> Query[list[Claim]]:
    """The tasks scheduled in the queues that this worker speaks for, or those of some ids, the next one first."""
    values = {"worker": worker, "queues": list(queues), "ids": None if ids is None else list(ids), "limit": limit}
    return Query(_SQL["agenda"], values, _claims)


_AGENDA = (
    *("id", "delivery", "retries", "rank", "losses", "name", "queue", "content_type", "content_encoding", "payload"),
    *("options", "root", "parent", "group_id", "task_id", "due", "expires", "has_successors"),
)
#: What nobody has claimed has no place in the queue and no inputs.
_UNCLAIMED = Claim._make([None] * len(Claim._fields))._replace(seq=0, fate="live")


def _claims(found: Sequence[Row]) -> list[Claim]:
    return [_UNCLAIMED._replace(**dict(zip(_AGENDA, row, strict=True))) for row in found]
