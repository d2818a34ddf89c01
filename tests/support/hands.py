"""A worker as the store sees it, worked by hand: what a test of the store claims and settles with.

    hand = Hand(database)           # registers
    (claim,) = hand.claim()
    hand.settle(done(claim))

`standing` says where a task stands, by table; there must never be two such places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import psycopg

from pgtasks.message import Claim, Message, Outcome, new_id
from pgtasks.store import fleet, tasks
from pgtasks.store.database import Database
from pgtasks.store.tasks import Lane

MAX_DELIVERIES = 5
NOBODY = UUID(int=0)


def message(name: str = "job", **fields: Any) -> Message:
    """A message with an id of its own and no arguments."""
    return Message(**{"id": new_id(), "name": name, "payload": b"[[],{},{}]", **fields})


def done(claim: Claim, value: bytes | None = b"1", **fields: Any) -> Outcome:
    return Outcome(
        id=claim.id, delivery=claim.delivery, value=value, has_successors=claim.has_successors, retries=claim.retries,
        **fields,
    )  # fmt: skip


def again(claim: Claim, **fields: Any) -> Outcome:
    """A retry."""
    return Outcome(
        id=claim.id, delivery=claim.delivery, kind="again", state="RETRY", retries=claim.retries + 1, **fields
    )


def back(claim: Claim, **fields: Any) -> Outcome:
    """A give-back, uncharged unless `losses` says otherwise."""
    return Outcome(
        **{
            "id": claim.id,
            "delivery": claim.delivery,
            "kind": "back",
            "retries": claim.retries,
            "losses": claim.losses,
            **fields,
        }
    )


class Hand:
    """One registered worker."""

    #: Settles successes that others wait for by `release`, as a worker does, and not by `settle`, which can do all.
    prefers_release = False

    def __init__(self, database: Database, *, lease_s: float = 60, queues: Sequence[str] = ("celery",)) -> None:
        self.database = database
        self.id = uuid4()
        self.queues = queues
        database.run(
            fleet.enlist(
                self.id,
                hostname=f"hand@{self.id}",
                machine="m",
                pid=1,
                pool="prefork",
                concurrency=1,
                queues=queues,
                version="0",
                lease_s=lease_s,
            )  # fmt: skip
        )

    def claim(self, limit: int = 10, lanes: Sequence[Lane] | None = None) -> list[Claim]:
        lanes = [Lane(queue) for queue in self.queues] if lanes is None else lanes
        return self.database.run(tasks.claim(self.id, lanes, limit, max_deliveries=MAX_DELIVERIES))

    def finish(self, *outcomes: Outcome) -> int:
        return self.database.run(tasks.finish(self.id, "hand", outcomes))

    def settle(self, *outcomes: Outcome) -> list[UUID]:
        if self.prefers_release and outcomes and all(map(tasks.is_release, outcomes)):
            with suppress(psycopg.DatabaseError):
                release = tasks.release(self.id, "hand", outcomes, queues=[], room=0, may_lag=False)
                return self.database.run(release).ended
        return self.database.run(tasks.settle(self.id, "hand", outcomes)).ended

    def tick(self, *, renew: bool = True) -> fleet.Tick:
        return self.database.run(fleet.tick(self.id, self.queues, renew=renew))


_STANDING = """
SELECT 'ready' FROM pgtasks.ready WHERE id = %(id)s
UNION ALL SELECT 'scheduled' FROM pgtasks.scheduled WHERE id = %(id)s
UNION ALL SELECT 'waiting' FROM pgtasks.waiting WHERE id = %(id)s AND pending > 0
UNION ALL SELECT 'claimed' FROM pgtasks.claim WHERE id = %(id)s
UNION ALL SELECT state FROM pgtasks.result WHERE id = %(id)s
"""


def standing(conn: psycopg.Connection[Any], task: Message | UUID) -> list[str]:
    """Where a task stands: ready, scheduled, waiting, claimed or the state it ended in."""
    task_id = task.id if isinstance(task, Message) else task
    return [row[0] for row in conn.execute(_STANDING, {"id": task_id})]


def value_of(conn: psycopg.Connection[Any], task: Message | UUID) -> bytes | None:
    """The value of a task's result."""
    task_id = task.id if isinstance(task, Message) else task
    row = conn.execute("SELECT value FROM pgtasks.result WHERE id = %s", [task_id]).fetchone()
    assert row is not None, f"{task_id} has no result"
    value: bytes | None = row[0]
    return value


def ids(claims: Iterable[Claim | Message]) -> list[UUID]:
    return [claim.id for claim in claims]
