"""Verbs on flow control, by hand: places, turns and rates, with the races that they must win."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgtasks.message import Claim, Limits, Message
from pgtasks.store import fleet, flows, tasks
from pgtasks.store.database import Database
from tests.support.hands import Hand, again, back, done, ids, message, standing
from tests.support.threads import at_once

Conn = psycopg.Connection[Any]
REVOKED = b'{"exc_type": "TaskRevokedError"}'


def limits(**own: Any) -> Limits:
    return Limits(**{**dict.fromkeys(Limits._fields), "is_keyed": False, **own})


def limited(key: str = "", flow: str = "f", **fields: Any) -> Message:
    return message(flow=(flow, key), **fields)


def finished(claim: Claim) -> Any:
    return done(claim, is_limited=True)


def ask(database: Database, hand: Hand, claim: Claim, key: str = "", flow: str = "f") -> str:
    """What a worker asks before it runs a limited task."""
    said = database.run(flows.begin(claim.id, hand.id, claim.delivery, flow, key))
    return database.run(flows.ask(claim.id, hand.id, claim.delivery, flow, key)) if said == "ask" else said


def count(conn: Conn, table: str) -> int:
    row = conn.execute(f"SELECT count(*) FROM pgtasks.{table}").fetchone()  # type: ignore[arg-type]
    assert row is not None
    return int(row[0])


def held(conn: Conn) -> list[UUID]:
    return [row[0] for row in conn.execute("SELECT id FROM pgtasks.held ORDER BY seq")]


# -- concurrency


def test_no_more_tasks_are_let_in_than_may_run_at_once_and_the_rest_follow_in_order(
    database: Database, hand: Hand, conn: Conn
) -> None:
    database.run(flows.declare("f", limits(concurrency=2)))
    calls = [limited() for _ in range(5)]

    for call in calls:
        database.run(tasks.enqueue([call]))
    ran = []
    while claims := hand.claim():
        assert len(claims) <= 2
        assert {ask(database, hand, claim) for claim in claims} == {"go"}
        ran += ids(claims)
        hand.settle(*map(finished, claims))

    assert ran == ids(calls)  # type: ignore[arg-type]
    assert count(conn, "slot") == count(conn, "held") == count(conn, "lane") == count(conn, "knock") == 0


def test_many_tasks_sent_at_once_are_let_in_in_their_order(database: Database, hand: Hand) -> None:
    database.run(flows.declare("f", limits(concurrency=3)))
    calls = [limited() for _ in range(10)]

    database.run(tasks.enqueue(calls))

    assert ids(hand.claim()) == ids(calls)[:3]  # type: ignore[arg-type]


def test_each_key_has_its_own_places(database: Database, hand: Hand) -> None:
    database.run(flows.declare("f", limits(concurrency=1, is_keyed=True)))

    database.run(tasks.enqueue([limited(key, name=key) for key in "aaabbc"]))

    assert sorted(claim.name for claim in hand.claim()) == ["a", "b", "c"]


def test_the_total_counts_over_all_keys(database: Database, hand: Hand) -> None:
    database.run(flows.declare("f", limits(concurrency=2, total_concurrency=3, is_keyed=True)))

    database.run(tasks.enqueue([limited(key, name=key) for key in "aaabbbccc"]))

    assert sorted(claim.name for claim in hand.claim()) == ["a", "b", "c"]


def test_the_urgent_are_let_in_first_within_a_key(database: Database, hand: Hand) -> None:
    database.run(flows.declare("f", limits(concurrency=1)))
    database.run(tasks.enqueue([limited(name="running")]))
    database.run(tasks.enqueue([limited(name="low"), limited(name="high", priority=5)]))

    (running,) = hand.claim()
    hand.settle(finished(running))

    assert [claim.name for claim in hand.claim()] == ["high"]


def test_what_belongs_to_a_flow_that_nobody_has_declared_waits_for_a_worker_that_does(
    database: Database, hand: Hand, conn: Conn
) -> None:
    database.run(tasks.enqueue([limited(), limited()]))
    assert hand.claim() == []
    assert conn.execute("SELECT DISTINCT why FROM pgtasks.held_tasks").fetchall() == [
        ("no worker has started that knows its flow",)
    ]

    database.run(flows.declare("f", limits(concurrency=1)))

    assert len(hand.claim()) == 1


def test_the_gate_lets_nobody_begin_by_limits_that_it_does_not_know(database: Database, hand: Hand) -> None:
    database.run(tasks.enqueue([message()]))

    assert ask(database, hand, hand.claim()[0]) == "unknown"


def test_tasks_that_came_by_another_way_are_stopped_at_the_gate(database: Database, hand: Hand, conn: Conn) -> None:
    database.run(flows.declare("f", limits(concurrency=1)))
    database.run(tasks.enqueue([message(), message()]))
    first, second = hand.claim()

    assert ask(database, hand, first) == "go"
    assert ask(database, hand, second) == "held"

    assert held(conn) == [second.id]
    assert standing(conn, second.id) == []  # not claimed any more, and not ready
    assert hand.settle(finished(first)) == [first.id]
    (again_,) = hand.claim()
    assert again_.id == second.id
    assert again_.delivery > second.delivery
    assert ask(database, hand, again_) == "go"


def test_whoever_lost_the_claim_may_not_begin(database: Database, hand: Hand) -> None:
    database.run(flows.declare("f", limits(concurrency=1)))
    database.run(tasks.enqueue([limited()]))
    (claim,) = hand.claim()
    hand.settle(back(claim))

    assert ask(database, hand, claim) == "lost"


def test_a_dead_workers_task_keeps_its_place_until_it_is_run_again(database: Database, conn: Conn) -> None:
    dead, alive = Hand(database, lease_s=0.0001), Hand(database)
    database.run(flows.declare("f", limits(concurrency=1)))
    first, second = limited(), limited()
    database.run(tasks.enqueue([first]))
    database.run(tasks.enqueue([second]))
    (claim,) = dead.claim()
    assert ask(database, dead, claim) == "go"

    database.run(fleet.reap())
    (taken_over,) = alive.claim()

    assert taken_over.id == first.id
    assert held(conn) == [second.id]
    assert ask(database, alive, taken_over) == "go"
    alive.settle(finished(taken_over))
    assert ids(alive.claim()) == [second.id]


def test_a_retry_gives_its_place_up_and_asks_for_one_again(database: Database, hand: Hand, conn: Conn) -> None:
    database.run(flows.declare("f", limits(concurrency=1)))
    database.run(tasks.enqueue([limited(name="first")]))
    database.run(tasks.enqueue([limited(name="second")]))
    (first,) = hand.claim()

    hand.settle(again(first, delay_s=100, is_limited=True))

    (second,) = hand.claim()
    assert second.name == "second"
    conn.execute("UPDATE pgtasks.scheduled SET due = now()")
    hand.tick()
    (first_again,) = hand.claim()
    assert ask(database, hand, first_again) == "held"


def test_a_retry_with_another_key_leaves_its_old_place_to_who_waits_for_it(
    database: Database, hand: Hand, conn: Conn
) -> None:
    database.run(flows.declare("f", limits(concurrency=1, is_keyed=True)))
    database.run(tasks.enqueue([limited("old", name="first"), limited("old", name="second")]))
    (first,) = hand.claim()

    assert ask(database, hand, first, "new") == "go"

    database.run(flows.sweep())
    assert [claim.name for claim in hand.claim()] == ["second"]


def test_what_is_given_back_keeps_its_place(database: Database, hand: Hand, conn: Conn) -> None:
    database.run(flows.declare("f", limits(concurrency=1)))
    database.run(tasks.enqueue([limited(name="first")]))
    database.run(tasks.enqueue([limited(name="second")]))

    hand.settle(back(hand.claim()[0], is_limited=True))

    assert [claim.name for claim in hand.claim()] == ["first"]


@pytest.mark.parametrize("end", ["revoked", "stored from outside", "cleared"])
def test_a_place_whose_task_ended_elsewhere_is_given_up_by_the_sweep(
    database: Database, hand: Hand, conn: Conn, end: str
) -> None:
    database.run(flows.declare("f", limits(concurrency=1)))
    first, second = limited(), limited()
    database.run(tasks.enqueue([first]))
    database.run(tasks.enqueue([second]))

    if end == "revoked":
        database.run(tasks.revoke([first.id], REVOKED))
    else:
        database.run(tasks.store(first.id, "FAILURE"))
    if end == "cleared":
        database.run(tasks.clear([first.id]))

    assert database.run(flows.sweep()).let_in == 1
    assert second.id in ids(hand.claim())


def test_a_held_task_can_be_revoked_and_is_not_run(database: Database, hand: Hand, conn: Conn) -> None:
    database.run(flows.declare("f", limits(concurrency=1)))
    first, second = limited(), limited()
    database.run(tasks.enqueue([first]))
    database.run(tasks.enqueue([second]))

    database.run(tasks.revoke([second.id], REVOKED))

    assert held(conn) == []
    assert {claim.id: claim.fate for claim in hand.claim()} == {first.id: "live", second.id: "revoked"}


def test_purging_a_queue_takes_what_is_held_for_it_too(database: Database, hand: Hand, conn: Conn) -> None:
    database.run(flows.declare("f", limits(concurrency=1)))
    database.run(tasks.enqueue([limited() for _ in range(5)]))

    assert database.run(tasks.purge(["celery"], REVOKED)) == 5

    assert held(conn) == []
    database.run(tasks.enqueue([limited(name="next")]))
    database.run(flows.sweep())
    assert [claim.name for claim in hand.claim()] == ["next"]


def test_an_enqueue_in_a_transaction_that_lasts_holds_up_nobody(database: Database, hand: Hand, conn: Conn) -> None:
    database.run(flows.declare("f", limits(concurrency=1)))
    mine, other = limited(name="mine"), limited(name="other")

    with conn.transaction():
        database.run(tasks.enqueue([mine], lets_in=False), conn)
        database.run(tasks.enqueue([other]))  # in the same lane, while the transaction is open
        (claim,) = hand.claim()
        hand.settle(finished(claim))

    assert claim.name == "other"
    assert hand.claim() == []
    assert database.run(flows.sweep()).let_in == 1
    assert [each.name for each in hand.claim()] == ["mine"]


def test_limits_can_be_changed_while_tasks_wait(database: Database, hand: Hand) -> None:
    database.run(flows.declare("f", limits(concurrency=1)))
    database.run(tasks.enqueue([limited() for _ in range(5)]))
    assert len(hand.claim()) == 1

    assert database.run(flows.declare("f", limits(concurrency=4), by_hand=True))
    assert not database.run(flows.declare("f", limits(concurrency=1)))  # a program starts, and says what its code says

    assert len(hand.claim()) == 3


def test_many_at_once_never_run_more_than_they_may(database: Database, conn: Conn) -> None:
    database.run(flows.declare("f", limits(concurrency=2, total_concurrency=3, is_keyed=True)))
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()

    def work() -> int:
        hand, ran = Hand(database), 0
        for _ in range(25):
            database.run(tasks.enqueue([limited(key, name=key) for key in "ab"]))
            for claim in hand.claim(3):
                said = ask(database, hand, claim, claim.name)
                if said == "go":
                    running[claim.name] += 1
                    running["all"] += 1
                    for key in (claim.name, "all"):
                        most[key] = max(most[key], running[key])
                    running[claim.name] -= 1
                    running["all"] -= 1
                    hand.settle(finished(claim))
                    ran += 1
        while claims := hand.claim():
            hand.settle(*map(finished, claims))
            ran += len(claims)
        return ran

    ran = sum(at_once(*[work] * 4))
    database.run(flows.sweep())
    rest = Hand(database)
    while claims := rest.claim():
        rest.settle(*map(finished, claims))
        ran += len(claims)

    assert ran == 4 * 25 * 2
    assert max(most["a"], most["b"]) <= 2
    assert most["all"] <= 3
    assert count(conn, "slot") == count(conn, "held") == 0


# -- turns


def test_one_task_of_a_new_key_is_not_behind_the_thousands_of_another(database: Database, hand: Hand) -> None:
    database.run(flows.declare("f", limits(is_keyed=True)))
    for _ in range(5):
        database.run(tasks.enqueue([limited("big", name="big") for _ in range(500)]))

    database.run(tasks.enqueue([limited("small", name="small")]))
    seen = 0
    while (claims := hand.claim(4)) and all(claim.name == "big" for claim in claims):
        seen += len(claims)
        hand.settle(*map(finished, claims))

    assert seen <= 16 + 4  # what was let in before it came, and a claim


def test_keys_take_turns(database: Database, hand: Hand) -> None:
    database.run(flows.declare("f", limits(is_keyed=True, total_concurrency=1)))
    database.run(tasks.enqueue([limited(key, name=key) for key in "aaabbbccc"]))

    order = ""
    while claims := hand.claim():
        order += claims[0].name
        hand.settle(*map(finished, claims))

    assert order == "abcabcabc"


# -- rates


def test_no_more_begin_in_a_period_than_the_rate_allows(
    database: Database, hand: Hand, later: Callable[[str], None]
) -> None:
    database.run(flows.declare("f", limits(rate=2, period=60.0)))
    database.run(tasks.enqueue([limited() for _ in range(5)]))

    def run_all() -> int:
        ran = 0
        while claims := hand.claim():
            assert {ask(database, hand, claim) for claim in claims} == {"go"}
            hand.settle(*map(finished, claims))
            ran += len(claims)
        return ran

    assert run_all() == 2
    later("59 seconds")
    assert database.run(flows.sweep()).let_in == 0
    later("61 seconds")
    assert database.run(flows.sweep()).let_in == 2
    assert run_all() == 2


def test_a_run_after_a_crash_counts_against_the_rate_as_well(database: Database, conn: Conn) -> None:
    dead, alive = Hand(database, lease_s=0.0001), Hand(database)
    database.run(flows.declare("f", limits(rate=1, period=60.0)))
    database.run(tasks.enqueue([limited()]))
    (claim,) = dead.claim()
    assert ask(database, dead, claim) == "go"

    database.run(fleet.reap())
    (taken_over,) = alive.claim()

    assert ask(database, alive, taken_over) == "held"
    assert count(conn, "stamp") == 1


def test_a_tick_says_when_a_rate_lets_the_next_one_in(database: Database, hand: Hand) -> None:
    database.run(flows.declare("f", limits(rate=1, period=60.0)))
    database.run(tasks.enqueue([limited(), limited()]))
    (claim,) = hand.claim()
    ask(database, hand, claim)
    hand.settle(finished(claim))

    tick = hand.tick()

    assert tick.has_held
    assert tick.next_due_s is not None
    assert 50 < tick.next_due_s <= 60


def test_a_rate_over_all_keys_is_kept(database: Database, hand: Hand) -> None:
    database.run(flows.declare("f", limits(is_keyed=True, total_rate=3, total_period=60.0)))
    database.run(tasks.enqueue([limited(key) for key in "aabbcc"]))

    claims = hand.claim()

    assert len(claims) == 3
    tick = hand.tick()
    assert tick.next_due_s is not None


# -- queues


def test_a_limited_queue_reserves_no_more_than_its_limits(database: Database, conn: Conn) -> None:
    first, second = Hand(database), Hand(database)
    database.run(flows.limit_queue(flows.QueueLimit("celery", 3, 2, None, None)))
    database.run(tasks.enqueue([message() for _ in range(5)]))

    assert database.run(flows.reserve("celery", first.id, 10)) == 2
    first.claim(2)

    assert database.run(flows.reserve("celery", first.id, 10)) == 0
    assert database.run(flows.reserve("celery", second.id, 10)) == 1
    assert database.run(flows.reserve("other", second.id, 10)) == 10
    assert [each.claimed for each in database.run(flows.queue_limits())] == [2]


def test_the_rate_of_a_queue_counts_claims(database: Database, hand: Hand, later: Callable[[str], None]) -> None:
    database.run(flows.limit_queue(flows.QueueLimit("celery", None, None, 2, 60.0)))
    database.run(tasks.enqueue([message() for _ in range(5)]))

    database.run(flows.count_claims("celery", ids(hand.claim(2))))

    assert database.run(flows.reserve("celery", hand.id, 10)) == 0
    later("61 seconds")
    assert database.run(flows.reserve("celery", hand.id, 10)) == 2
    assert database.run(flows.unlimit_queue("celery")) == 1
    assert database.run(flows.reserve("celery", hand.id, 10)) == 10
