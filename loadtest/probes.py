"""Statements beside the claim, each in a situation made for it: do they take longer when tables are large?

Each is run some times in a transaction that is undone, so that all runs find the same. Its first run is not counted:
it prepares the statement. The situation is made in the same transaction, and its time is not counted either.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg

from loadtest.measure import Figures, backend_cpu_s, difference
from pgtasks.message import Message, Outcome, new_id, new_ids
from pgtasks.store import fleet, results, tasks
from pgtasks.store.database import OwnConnection
from pgtasks.store.sql import Query

BATCH = 100
RUNS = 9


class Place(NamedTuple):
    """What the probes work with: a registered worker, a queue with tasks, and how many of all tasks have ended."""

    conn: OwnConnection
    worker: UUID
    queue: str
    finished: int


def measure(place: Place) -> list[Figures]:
    """Time every statement; gives a row of medians for each."""
    return [{"statement": name, **_timed(place, probe)} for name, probe in PROBES.items() if place.finished or name != "expire"]


def _timed(place: Place, probe: Callable[[Place], Query[Any]]) -> Figures:
    cpu_us, clock_us = [], []
    for _ in range(RUNS + 1):
        with place.conn.transaction() as undone:
            query = probe(place)
            began_s, began_at = backend_cpu_s(place.conn), time.perf_counter()
            place.conn.run(query)
            clock_us.append((time.perf_counter() - began_at) * 1e6)
            spent_s = difference(backend_cpu_s(place.conn), began_s)
            cpu_us.append(None if spent_s is None else spent_s * 1e6)
            raise psycopg.Rollback(undone)
    known = [each for each in cpu_us[1:] if each is not None]
    return {"cpu_us": statistics.median(known) if known else None, "clock_us": statistics.median(clock_us[1:])}


# -- the situations


def _enqueue(place: Place) -> Query[Any]:
    payloads = [b"[[12345], {}, {}]"] * BATCH
    alike = Message(id=new_id(), name="scale.noop", queue=place.queue, payload=b"")
    return tasks.enqueue_many(alike, new_ids(BATCH), payloads)


def _settle(place: Place) -> Query[Any]:
    claims = place.conn.run(tasks.claim(place.worker, [tasks.Lane(place.queue)], BATCH, max_deliveries=5))
    failures = [Outcome(claim.id, claim.delivery, state="FAILURE", value=b"{}") for claim in claims]
    return tasks.settle(place.worker, "w@scale", failures)


def _retry(place: Place) -> Query[Any]:
    claims = place.conn.run(tasks.claim(place.worker, [tasks.Lane(place.queue)], BATCH, max_deliveries=5))
    again = [Outcome(claim.id, claim.delivery, kind="again", state="RETRY", delay_s=60.0) for claim in claims]
    return tasks.settle(place.worker, "w@scale", again)


def _fetch(place: Place) -> Query[Any]:
    return results.fetch(_some(place, "SELECT id FROM pgtasks.message LIMIT %s"))


def _tick(place: Place) -> Query[Any]:
    """As of an idle worker of another queue."""
    return fleet.tick(place.worker, ["elsewhere"], renew=False)


def _short_tick(place: Place) -> Query[Any]:
    """As that worker sends it where a look at everything has taken long."""
    return fleet.tick(place.worker, ["elsewhere"], renew=False, lanes=[tasks.Lane("elsewhere", 0, 1, 0)], back_s=10.0)


def _move_due(place: Place) -> Query[Any]:
    place.conn.execute(
        "INSERT INTO pgtasks.scheduled (id, due, rank, queue)"
        " SELECT gen_random_uuid(), now() - interval '1 second', 0, 'scale' FROM generate_series(1, %s)", [BATCH],
    )  # fmt: skip
    return fleet.tick(place.worker, ["elsewhere"], renew=False, limit=BATCH, lanes=(), back_s=10.0)


def _reap(place: Place) -> Query[Any]:
    dead = uuid4()
    place.conn.execute(
        "INSERT INTO pgtasks.claim (id, worker, claimed_at, retries, delivery)"
        " SELECT id, %s, now(), 0, 1 FROM pgtasks.message ORDER BY id DESC LIMIT %s", [dead, BATCH],
    )  # fmt: skip
    return fleet.reap(BATCH)


def _expire(place: Place) -> Query[Any]:
    return tasks.expire(60.0, BATCH)


def _some(place: Place, query: str) -> Sequence[UUID]:
    return [row[0] for row in place.conn.execute(query.encode(), [BATCH])]


PROBES: dict[str, Callable[[Place], Query[Any]]] = {
    "enqueue": _enqueue,
    "settle": _settle,
    "retry": _retry,
    "fetch": _fetch,
    "tick": _tick,
    "short tick": _short_tick,
    "move due": _move_due,
    "reap": _reap,
    "expire": _expire,
}
