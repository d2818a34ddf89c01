"""Lanes of flows: what is let in costs the same whatever an old snapshot keeps dead, and nothing held is passed over."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, LiteralString

import psycopg
import pytest

from pgtasks.message import Limits, Message
from pgtasks.store import fleet, flows, migrate, tasks
from pgtasks.store.database import Database
from tests.support import postgres
from tests.support.hands import Hand, done, ids, message, standing
from tests.support.threads import at_once

Conn = psycopg.Connection[Any]
REVOKED = b'{"exc_type": "TaskRevokedError"}'
CURSORS = "SELECT ranks, fronts FROM pgtasks.lane"

#: Entries of the indexes of flow control that this transaction has read.
_READ = """
SELECT sum(pg_stat_get_xact_tuples_returned(i.indexrelid))::int
FROM pg_index i WHERE i.indrelid = ANY ('{pgtasks.held, pgtasks.lane, pgtasks.slot, pgtasks.knock}'::regclass[])
"""


def limit(database: Database, concurrency: int, *, is_keyed: bool = False) -> None:
    values: dict[str, Any] = {**dict.fromkeys(Limits._fields), "concurrency": concurrency, "is_keyed": is_keyed}
    database.run(flows.declare("f", Limits(**values)))


def limited(name: str = "job", key: str = "", **fields: Any) -> Message:
    return message(name, flow=("f", key), **fields)


def run_one(hand: Hand) -> str:
    """Run the task that is first; gives its name."""
    (claim,) = hand.claim(1)
    hand.settle(done(claim, is_limited=True))
    return claim.name


@contextmanager
def old_snapshot(url: str) -> Iterator[None]:
    """As pg_dump holds one, for hours."""
    with psycopg.connect(url) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.execute("SELECT count(*) FROM pgtasks.held")
        yield


def entries_read(url: str, statement: LiteralString, *values: Any) -> int:
    with psycopg.connect(url) as conn:
        conn.execute("SET enable_seqscan = off")
        conn.execute("SET plan_cache_mode = force_generic_plan")
        conn.execute(statement, values)
        row = conn.execute(_READ).fetchone()
        assert row is not None
        return int(row[0])


# -- what it costs


def test_letting_a_task_in_does_not_walk_over_all_that_was_let_in_since_an_old_snapshot(
    database_url: str, database: Database, hand: Hand, conn: Conn
) -> None:
    rounds, each = 24, 50
    limit(database, each)
    database.run(tasks.enqueue([limited() for _ in range(each)]))
    with old_snapshot(database_url):
        for _ in range(rounds):
            database.run(tasks.enqueue([limited() for _ in range(each)]))
            hand.settle(*[done(claim, is_limited=True) for claim in hand.claim(each)])
        (claim,) = hand.claim(1)
        conn.execute("DELETE FROM pgtasks.claim")

        read = entries_read(database_url, "SELECT pgtasks.leave_flow(ARRAY[%s])", claim.id)

    # What the last generation left, some times over. Without generations and fronts it was three times all of it.
    assert read < rounds * each


def test_a_tick_that_looks_ahead_knows_without_reading_the_dead_whether_anything_is_held(
    database_url: str, database: Database, hand: Hand
) -> None:
    limit(database, 100)
    with old_snapshot(database_url):
        for _ in range(3):
            database.run(tasks.enqueue([limited() for _ in range(100)]))
            hand.settle(*[done(claim, is_limited=True) for claim in hand.claim(100)])

        ahead = fleet.tick(hand.id, ["celery"], renew=False, back_s=1.0)
        assert not database.run(ahead).has_held
        database.run(tasks.enqueue([limited() for _ in range(101)]))
        assert database.run(ahead).has_held


# -- nothing is passed over


def test_what_commits_after_others_went_ahead_of_it_is_let_in_by_the_next_sweep(
    database: Database, hand: Hand, conn: Conn
) -> None:
    limit(database, 1)
    with conn.transaction():
        database.run(tasks.enqueue([limited("late")], lets_in=False), conn)
        database.run(tasks.enqueue([limited(f"other {number}") for number in range(3)]))
        assert [run_one(hand) for _ in range(2)] == ["other 0", "other 1"]

    assert database.run(flows.sweep()).let_in == 0  # the place is taken; but now it is known
    assert [run_one(hand) for _ in range(2)] == ["other 2", "late"]


def test_what_commits_late_is_known_however_many_have_knocked_since(database: Database, hand: Hand, conn: Conn) -> None:
    limit(database, 1)
    with conn.transaction():
        database.run(tasks.enqueue([limited("late")], lets_in=False), conn)
        database.run(flows.sweep())
    conn.execute("SELECT setval('pgtasks.knock_seq_seq', nextval('pgtasks.knock_seq_seq') + 5000)")
    conn.execute("UPDATE pgtasks.flow SET swept_at = NULL, looked_at = NULL")

    assert hand.tick().has_held
    assert database.run(flows.sweep()).let_in == 1
    assert run_one(hand) == "late"


def test_the_urgent_that_comes_later_is_let_in_before_the_backlog(database: Database, hand: Hand, conn: Conn) -> None:
    limit(database, 1)
    database.run(tasks.enqueue([limited(f"plain {number}") for number in range(4)]))
    assert [run_one(hand), run_one(hand)] == ["plain 0", "plain 1"]

    database.run(tasks.enqueue([limited("low", priority=-1), limited("high", priority=5)]))

    assert conn.execute("SELECT ranks FROM pgtasks.lane").fetchone() == ([-5, 0, 1],)
    assert [run_one(hand) for _ in range(4)] == ["plain 2", "high", "plain 3", "low"]
    assert conn.execute(CURSORS).fetchall() == []


def test_a_held_task_whose_cancellation_is_rolled_back_is_not_left_behind(
    database: Database, hand: Hand, conn: Conn
) -> None:
    limit(database, 1)
    first, locked, after = limited("first"), limited("locked"), limited("after")
    database.run(tasks.enqueue([first, locked, after]))

    with conn.transaction(force_rollback=True):
        database.run(tasks.revoke([locked.id], REVOKED), conn)
        assert run_one(hand) == "first"
        assert [run_one(hand)] == ["after"]

    assert standing(conn, locked) == []
    database.run(flows.sweep())
    assert run_one(hand) == "locked"


def test_what_somebody_holds_without_a_word_is_found_by_a_look_from_the_beginning(
    database: Database, hand: Hand, conn: Conn
) -> None:
    limit(database, 1)
    call = message("silent")
    database.run(tasks.enqueue([call]))
    conn.execute("DELETE FROM pgtasks.ready")
    conn.execute("INSERT INTO pgtasks.held (id, flow, key, rank, queue) VALUES (%s, 'f', '', 0, 'celery')", [call.id])

    assert hand.tick().has_held
    assert database.run(flows.sweep()).let_in == 1
    assert run_one(hand) == "silent"


def test_what_a_sender_of_the_previous_release_holds_is_let_in(database: Database, hand: Hand, conn: Conn) -> None:
    limit(database, 1)
    calls = [message("first"), message("second", priority=3)]
    database.run(tasks.enqueue(calls))
    conn.execute("DELETE FROM pgtasks.ready")
    with conn.transaction():
        for call in calls:
            conn.execute(
                "INSERT INTO pgtasks.held (id, flow, key, rank, queue) VALUES (%s, 'f', '', %s, 'celery')",
                [call.id, -call.priority],
            )
            conn.execute("INSERT INTO pgtasks.knock (flow, key) VALUES ('f', '')")
        conn.execute("SELECT pgtasks.let_in('f')")

    assert [run_one(hand), run_one(hand)] == ["second", "first"]


def test_what_was_held_before_lanes_knew_their_fronts_is_let_in_after_the_upgrade(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = migrate.migrations()
    calls = [message("first", priority=2), message("second", priority=2), message("third")]
    with (
        postgres.new_database(server_url, f"pgtasks_lanes_{os.getpid()}") as url,
        psycopg.connect(url, autocommit=True) as conn,
    ):
        with monkeypatch.context() as before:
            before.setattr(migrate, "migrations", lambda: [each for each in every if each.version < 12])
            migrate.upgrade(conn)
        conn.execute("SELECT pgtasks.set_flow('f', false, 1, NULL, NULL, NULL, NULL, NULL, false)")
        conn.execute("INSERT INTO pgtasks.lane (flow, key) VALUES ('f', '')")
        for call in calls:
            conn.execute(
                "INSERT INTO pgtasks.message (id, name, queue, payload, priority) VALUES (%s, %s, 'celery', %s, %s)",
                [call.id, call.name, call.payload, call.priority],
            )
            conn.execute(
                "INSERT INTO pgtasks.held (id, flow, key, rank, queue) VALUES (%s, 'f', '', %s, 'celery')",
                [call.id, -call.priority],
            )

        migrate.upgrade(conn)

        database = Database(url)
        hand = Hand(database)
        assert hand.tick().has_held
        database.run(flows.sweep())
        assert [run_one(hand) for _ in calls] == ["first", "second", "third"]
        database.close()


def test_places_and_turns_outlive_the_generation_of_their_flow(database: Database, hand: Hand, conn: Conn) -> None:
    limit(database, 1, is_keyed=True)
    database.run(tasks.enqueue([limited(key, key) for key in "aabb"]))
    running = hand.claim()
    assert [claim.name for claim in running] == ["a", "b"]

    conn.execute("SELECT setval('pgtasks.lane_turn', nextval('pgtasks.lane_turn') + 10000)")
    database.run(tasks.enqueue([limited("a", "a")]))

    assert conn.execute("SELECT count(DISTINCT generation) FROM pgtasks.lane").fetchone() == (1,)
    assert hand.claim() == []
    hand.settle(done(running[0], is_limited=True))
    assert [claim.name for claim in hand.claim()] == ["a"]


@pytest.mark.parametrize("seed", range(3))
def test_of_all_that_come_at_once_by_any_way_each_runs_once(
    database_url: str, database: Database, conn: Conn, seed: int
) -> None:
    limit(database, 2, is_keyed=True)
    sent: list[Message] = []

    def send(way: random.Random) -> list[Any]:
        for _ in range(25):
            call = limited(key=way.choice("ab"), priority=way.randrange(3))
            sent.append(call)
            if way.random() < 0.4:
                with psycopg.connect(database_url) as own:
                    database.run(tasks.enqueue([call], lets_in=False), own)
            else:
                database.run(tasks.enqueue([call]))
        return []

    def run(way: random.Random) -> list[Any]:
        hand, ran = Hand(database), []
        for _ in range(40):
            claims = hand.claim(2)
            hand.settle(*[done(claim, is_limited=True) for claim in claims])
            ran += ids(claims)
            if way.random() < 0.2:
                database.run(flows.sweep())
            if way.random() < 0.1:
                conn.execute("SELECT setval('pgtasks.lane_turn', nextval('pgtasks.lane_turn') + 300)")
        return ran

    ways = [random.Random(f"{seed} {place}") for place in range(4)]
    calls = [*[partial(send, way) for way in ways[:2]], *[partial(run, way) for way in ways[2:]]]
    ran = [each for some in at_once(*calls) for each in some]
    rest = Hand(database)
    conn.execute("UPDATE pgtasks.flow SET swept_at = NULL")
    database.run(flows.sweep())
    while claims := rest.claim():
        rest.settle(*[done(claim, is_limited=True) for claim in claims])
        ran += ids(claims)

    assert sorted(ran) == sorted(ids(sent))
    assert conn.execute("SELECT count(*) FROM pgtasks.held").fetchone() == (0,)
    assert conn.execute("SELECT count(*) FROM pgtasks.slot").fetchone() == (0,)
