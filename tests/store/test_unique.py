"""Verbs on unique tasks and debounced ones, by hand: whose key counts, until when, and who wins a race for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg

from pgtasks.message import Message, UniqueKey
from pgtasks.store import flows, tasks
from pgtasks.store.database import Database
from tests.support.hands import Hand, done, message
from tests.support.threads import at_once

Conn = psycopg.Connection[Any]


def key(text: str = "k", until: Any = "ended", **own: Any) -> UniqueKey:
    return UniqueKey(text, until, **own)


def test_a_race_for_a_key_has_one_winner_whom_all_name(database: Database) -> None:
    calls = [message() for _ in range(8)]

    def send(call: Message) -> UUID:
        taken, *_ = database.run_together(flows.take_keys([(call.id, key())]), tasks.enqueue([call]))
        return taken.holders[0]

    winners = set(at_once(*[lambda call=call: send(call) for call in calls]))

    assert len(winners) == 1
    assert len(Hand(database).claim()) == 1


def test_a_key_counts_until_its_task_has_ended(database: Database, hand: Hand) -> None:
    first, second, third = message(), message(), message()
    for call in (first, second):
        database.run_together(flows.take_keys([(call.id, key())]), tasks.enqueue([call]))

    hand.settle(*map(done, hand.claim()))
    taken, *_ = database.run_together(flows.take_keys([(third.id, key())]), tasks.enqueue([third]))

    assert taken.holders == (third.id,)


def test_a_key_may_count_only_until_a_worker_takes_the_task(database: Database, hand: Hand) -> None:
    first, second = message(), message()
    database.run_together(flows.take_keys([(first.id, key(until="begun"))]), tasks.enqueue([first]))
    hand.claim()

    taken, *_ = database.run_together(flows.take_keys([(second.id, key(until="begun"))]), tasks.enqueue([second]))

    assert taken


def test_a_key_may_count_for_a_time_whatever_becomes_of_the_task(
    database: Database, hand: Hand, later: Callable[[str], None]
) -> None:
    def send(call: Message) -> bool:
        taken, *_ = database.run_together(
            flows.take_keys([(call.id, key(until="period", period_s=60.0))]), tasks.enqueue([call])
        )
        return bool(taken)

    assert send(message())
    hand.settle(*map(done, hand.claim()))

    assert not send(message())
    later("61 seconds")
    assert send(message())


def test_keys_of_one_call_are_taken_all_or_none(database: Database, hand: Hand) -> None:
    first, second, third = message(), message(), message()
    database.run_together(flows.take_keys([(first.id, key("b"))]), tasks.enqueue([first]))

    taken = database.run(flows.take_keys([(second.id, key("a")), (third.id, key("b"))]))

    assert not taken
    assert taken.holders == (second.id, first.id)
    assert database.run(flows.take_keys([(third.id, key("a"))]))


def test_keys_of_tasks_that_are_over_are_swept(database: Database, hand: Hand, conn: Conn) -> None:
    call, other = message(), message()
    database.run_together(flows.take_keys([(call.id, key())]), tasks.enqueue([call]))
    hand.settle(*map(done, hand.claim()))
    database.run_together(flows.take_keys([(other.id, key("live"))]), tasks.enqueue([other]))
    conn.execute("UPDATE pgtasks.unique_key SET since = now() - interval '2 hours'")

    database.run(flows.sweep_keys())

    assert conn.execute("SELECT count(*) FROM pgtasks.unique_key").fetchone() == (1,)


# -- debounce


def test_the_last_of_several_calls_is_the_one_that_runs(database: Database, hand: Hand, conn: Conn) -> None:
    calls = [message(payload=f"[[{number}],{{}},{{}}]".encode(), countdown_s=30.0) for number in range(3)]

    for call in calls:
        debounce = flows.debounce(call, UniqueKey("k", "waiting", wait_s=30.0))
        database.run_together(debounce, tasks.enqueue([call]))

    assert hand.claim() == []
    conn.execute("UPDATE pgtasks.scheduled SET due = now()")
    hand.tick()
    (claim,) = hand.claim()
    assert (claim.id, claim.payload) == (calls[0].id, calls[2].payload)


def test_a_call_after_the_debounced_one_was_taken_is_a_new_task(database: Database, hand: Hand, conn: Conn) -> None:
    first, second = message(countdown_s=30.0), message(countdown_s=30.0)
    own = UniqueKey("k", "waiting", wait_s=30.0)
    database.run_together(flows.debounce(first, own), tasks.enqueue([first]))
    conn.execute("UPDATE pgtasks.scheduled SET due = now()")
    hand.tick()

    taken, *_ = database.run_together(flows.debounce(second, own), tasks.enqueue([second]))

    assert taken.holders == (second.id,)


def test_calls_that_never_stop_do_not_put_a_task_off_for_ever(
    database: Database, conn: Conn, later: Callable[[str], None]
) -> None:
    own = UniqueKey("k", "waiting", wait_s=30.0, longest_s=40.0)
    for moment in ("0 s", "20 s", "35 s"):
        later(moment)
        call = message(countdown_s=30.0)
        database.run_together(flows.debounce(call, own), tasks.enqueue([call]))

    row = conn.execute(
        "SELECT extract(epoch FROM s.due - k.since) FROM pgtasks.scheduled s JOIN pgtasks.unique_key k USING (id)"
    ).fetchone()
    assert row is not None
    assert 39 < row[0] < 41
