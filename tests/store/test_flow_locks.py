"""Sessions that change places in several flows at once, and what they wait for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg

from pgtasks.message import Claim, Limits, Message
from pgtasks.store import borrow, flows, tasks
from pgtasks.store.database import Database
from tests.support.hands import Hand, again, back, done, message
from tests.support.threads import at_once
from tests.support.workers import eventually

Conn = psycopg.Connection[Any]


def limits(**own: Any) -> Limits:
    return Limits(**{**dict.fromkeys(Limits._fields), "is_keyed": True, **own})


def limited(flow: str, key: str = "") -> Message:
    return message(flow=(flow, key))


def ask(database: Any, hand: Hand, claim: Claim, flow: str, key: str = "") -> str:
    """What a worker asks before it runs a limited task."""
    said: str = database.run(flows.begin(claim.id, hand.id, claim.delivery, flow, key))
    return database.run(flows.ask(claim.id, hand.id, claim.delivery, flow, key)) if said == "ask" else said


def is_anybody_waiting(conn: Conn) -> bool:
    found = conn.execute(
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    return found.fetchone() is not None


def test_a_retry_in_another_flow_waits_for_its_old_one_before_it_takes_the_lock_of_the_new(
    database_url: str, database: Database, hand: Hand, conn: Conn
) -> None:
    for name in "ab":
        database.run(flows.declare(name, limits(concurrency=1)))
    database.run(tasks.enqueue([limited("a")]))
    (claim,) = hand.claim()

    with psycopg.connect(database_url) as settling, ThreadPoolExecutor(1) as threads:
        settling.execute("SELECT pg_advisory_xact_lock(pgtasks.flow_lock('a'))")
        asked = threads.submit(ask, database, hand, claim, "b")
        eventually(lambda: is_anybody_waiting(conn), "a session waits for the old flow")
        is_free = conn.execute("SELECT pg_try_advisory_xact_lock(pgtasks.flow_lock('b'))").fetchone()
        settling.commit()
        said = asked.result(60)

    assert is_free == (True,)
    assert said == "go"
    assert conn.execute("SELECT flow FROM pgtasks.slot").fetchall() == [("b",)]


def test_sessions_that_send_ask_settle_and_leave_in_many_lanes_never_wait_for_each_other_in_a_circle(
    database_url: str, database: Database
) -> None:
    names, keys = "abc", "xyz"
    for name in names:
        database.run(flows.declare(name, limits(concurrency=1, total_concurrency=4)))
    said: list[str] = []

    def work(seed: int) -> None:
        chance, mine = Random(seed), dict[UUID, Claim]()
        with psycopg.connect(database_url, autocommit=True) as conn:
            # Nothing is tried again on a connection that is lent: of a circle one fails.
            own: Any = SimpleNamespace(run=partial(borrow.run, conn))
            hand = Hand(own)
            for _ in range(15):
                own.run(tasks.enqueue([limited(chance.choice(names), chance.choice(keys)) for _ in range(3)]))
                mine |= {claim.id: claim for claim in hand.claim(4)}
                for claim in chance.sample(list(mine.values()), min(2, len(mine))):
                    # Perhaps in another flow than that of its place, as a retry with other arguments may be.
                    said.append(ask(own, hand, claim, chance.choice(names), chance.choice(keys)))
                    if said[-1] == "held":
                        del mine[claim.id]
                some = [mine.pop(claim) for claim in chance.sample(list(mine), len(mine) // 2)]
                hand.settle(*(chance.choice([done, done, again, back])(claim, is_limited=True) for claim in some))
                places = conn.execute("SELECT id FROM pgtasks.slot ORDER BY random() LIMIT 4").fetchall()
                own.run(flows.leave([place for (place,) in places]))
                own.run(flows.sweep())

    at_once(*[partial(work, seed) for seed in range(4)])

    assert {"go", "held"} <= set(said)


def test_a_look_from_the_beginning_reads_before_it_takes_the_lock_of_the_flow(
    database_url: str, database: Database, hand: Hand, conn: Conn
) -> None:
    database.run(flows.declare("a", limits(concurrency=1)))
    database.run(tasks.enqueue([limited("a", key) for key in "xxyyzz"]))
    conn.execute("DELETE FROM pgtasks.lane WHERE key = 'y'")  # as if nobody had told of it
    conn.execute("UPDATE pgtasks.flow SET looked_at = NULL, swept_at = NULL")

    with psycopg.connect(database_url) as settling, ThreadPoolExecutor(1) as threads:
        settling.execute("SELECT pg_advisory_xact_lock(pgtasks.flow_lock('a'))")
        swept = threads.submit(database.run, flows.sweep())
        eventually(lambda: is_anybody_waiting(conn), "the sweep has read and waits for the flow")
        others = conn.execute("SELECT total FROM pgtasks.sweep_flows()").fetchone()
        settling.commit()
        swept.result(60)

    assert others == (0,)  # one at a time: it had nothing to look at, and did not wait
    assert conn.execute("SELECT key FROM pgtasks.lane ORDER BY key").fetchall() == [("x",), ("y",), ("z",)]
    assert conn.execute("SELECT looked_at IS NOT NULL FROM pgtasks.flow").fetchone() == (True,)
