"""Verbs on tasks, by hand: from enqueue to retention, with the races that they must win."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgtasks.message import Outcome, new_id
from pgtasks.store import graphs, groups, results, tasks
from pgtasks.store.database import Database
from pgtasks.store.tasks import Lane
from tests.support.hands import Hand, again, back, done, ids, message, standing, value_of
from tests.support.links import plan
from tests.support.threads import at_once

Conn = psycopg.Connection[Any]
#: A second that has long passed and one that is far away.
PAST, FUTURE = datetime(2001, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


# -- enqueue


def test_a_task_enqueued_twice_is_one_task_even_with_other_words(database: Database, hand: Hand) -> None:
    first = message("first")
    second = message("second", id=first.id, queue="other")

    database.run(tasks.enqueue([first]))
    database.run(tasks.enqueue([second]))
    database.run(tasks.enqueue([second, message("third")]))

    assert sorted(claim.name for claim in hand.claim()) == ["first", "third"]


def test_one_call_with_the_same_id_twice_makes_one_row_that_can_be_claimed(database: Database, hand: Hand) -> None:
    first = message("first")

    database.run(tasks.enqueue([first, message("second", id=first.id)]))

    assert [claim.name for claim in hand.claim()] == ["first"]


def test_enqueueing_a_task_again_after_it_ended_does_not_run_it_again(
    database: Database, hand: Hand, conn: Conn
) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    hand.settle(done(hand.claim()[0]))

    database.run(tasks.enqueue([task]))

    assert standing(conn, task) == ["SUCCESS"]


def test_the_same_id_from_many_producers_at_once_is_one_task(database: Database, hand: Hand) -> None:
    task = message()

    at_once(*[lambda: database.run(tasks.enqueue([task]))] * 8)

    assert ids(hand.claim()) == [task.id]


def test_tasks_are_claimed_by_priority_and_then_in_the_order_they_came(database: Database, hand: Hand) -> None:
    low = [message("low") for _ in range(3)]
    high = [message("high", priority=9) for _ in range(3)]
    negative = message("negative", priority=-5)
    for each in (negative, *low, *high):
        database.run(tasks.enqueue([each]))

    assert ids(hand.claim()) == ids([*high, *low, negative])


def test_the_order_within_one_bulk_enqueue_is_kept(database: Database, hand: Hand) -> None:
    messages = [message() for _ in range(500)]

    database.run(tasks.enqueue(messages))

    assert ids(hand.claim(500)) == ids(messages)


def test_a_task_due_later_is_not_claimed_before(database: Database, hand: Hand, conn: Conn) -> None:
    later, countdown, now = message(due=FUTURE), message(countdown_s=3600.0), message(due=PAST)

    database.run(tasks.enqueue([later, countdown, now]))

    assert ids(hand.claim()) == [now.id]
    assert standing(conn, later) == standing(conn, countdown) == ["scheduled"]


@pytest.mark.parametrize(
    "fields",
    [
        {"priority": 40_000}, {"priority": -32_768}, {"queue": "nul\0"}, {"queue": "\ud800"}, {"queue": "q" * 3000},
        {"name": "nul\0"}, {"task_id": "nul\0"}, {"group_id": "\udfff"}, {"countdown_s": 1e300},
        {"countdown_s": float("nan")}, {"due": datetime.max}, {"expires": datetime.min}, {"expires_in_s": float("inf")},
    ],
    ids=str,
)  # fmt: skip
def test_what_no_database_can_store_is_refused_before_it_gets_there(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="[Tt]ask|queue|NUL|Unicode"):
        message(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"priority": 32_767}, {"priority": -32_767}, {"queue": "q" * 255}, {"queue": "schlange äöü 漢"},
        {"name": "n" * 100_000}, {"countdown_s": 1e10}, {"expires_in_s": -1e10}, {"queue": "with\nnewline"},
    ],
    ids=lambda fields: str(fields)[:40],
)  # fmt: skip
def test_what_is_not_refused_can_be_stored_and_claimed(database: Database, fields: dict[str, Any], conn: Conn) -> None:
    one, with_another = message(**fields), message(**fields)

    database.run(tasks.enqueue([one]))
    database.run(tasks.enqueue([with_another, message()]))

    conn.execute("UPDATE pgtasks.scheduled SET due = now()")
    hand = Hand(database, queues=[one.queue])
    hand.tick()
    claims = {claim.id: claim for claim in hand.claim()}
    assert {one.id, with_another.id} <= claims.keys()
    assert claims[one.id].rank == -one.priority


def test_a_bulk_enqueue_with_one_bad_row_stores_none_of_it(database: Database, conn: Conn) -> None:
    with pytest.raises(psycopg.Error):
        database.run(tasks.enqueue([message(), message(max_deliveries=10**9)]))

    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (0,)


# -- claim


def test_two_workers_never_claim_the_same_task(database: Database) -> None:
    messages = [message() for _ in range(300)]
    database.run(tasks.enqueue(messages))
    hands = [Hand(database) for _ in range(4)]

    def drain(hand: Hand) -> list[UUID]:
        mine: list[UUID] = []
        while claims := hand.claim(7):
            mine.extend(ids(claims))
        return mine

    claimed = at_once(*[lambda hand=hand: drain(hand) for hand in hands])

    assert sorted(each for mine in claimed for each in mine) == sorted(ids(messages))


def test_a_claim_never_takes_more_than_asked_whatever_the_number_of_lanes(database: Database) -> None:
    queues = ["a", "b", "c"]
    database.run(tasks.enqueue([message(queue=queue) for queue in queues for _ in range(10)]))
    hand = Hand(database, queues=queues)

    assert len(hand.claim(4)) == 4
    assert not hand.claim(0)


def test_a_worker_that_is_not_registered_gets_nothing(database: Database, conn: Conn) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    hand = Hand(database)
    conn.execute("DELETE FROM pgtasks.worker")

    assert hand.claim() == []
    assert standing(conn, task) == ["ready"]


def test_a_cursor_skips_what_lies_behind_it_and_a_sweep_finds_it(database: Database, hand: Hand) -> None:
    first, second = message(), message()
    database.run(tasks.enqueue([first]))
    database.run(tasks.enqueue([second]))
    (claim,) = hand.claim(1)
    hand.settle(back(claim))
    (seen,) = hand.claim(1)

    ahead = hand.claim(lanes=[Lane("celery", seen.rank, seen.seq + 1, seen.rank)])
    swept = hand.claim(lanes=[Lane("celery")])

    assert {*ids([seen]), *ids(ahead), *ids(swept)} == {first.id, second.id}


def test_a_claim_names_its_fate_when_the_task_must_not_run(database: Database, hand: Hand) -> None:
    expired = message("expired", expires=PAST)
    lost = message("lost", max_deliveries=1)
    database.run(tasks.enqueue([expired, lost, message("live")]))
    by_name = {claim.name: claim for claim in hand.claim()}
    hand.settle(back(by_name["lost"], losses=1), back(by_name["live"], losses=1))

    fates = {claim.name: claim.fate for claim in (*by_name.values(), *hand.claim())}

    assert fates == {"expired": "expired", "lost": "lost", "live": "live"}


def test_every_delivery_has_a_number_of_its_own_that_never_goes_back(database: Database, hand: Hand) -> None:
    database.run(tasks.enqueue([message()]))
    seen = []
    for outcome in (back, again, back, again):
        (claim,) = hand.claim()
        seen.append(claim.delivery)
        hand.settle(outcome(claim))

    assert seen == [1, 2, 3, 4]


# -- settle, and the fence


def test_a_result_is_stored_once_however_often_it_is_sent(database: Database, hand: Hand, conn: Conn) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()

    first = hand.settle(done(claim, b"1"))
    second = hand.settle(done(claim, b"2"))
    third = hand.finish(done(claim, b"3"))

    assert (first, second, third) == ([task.id], [], 0)
    assert value_of(conn, task) == b"1"


def test_a_plain_success_settles_in_the_round_trip_of_a_claim(database: Database, hand: Hand, conn: Conn) -> None:
    first, second = message(), message()
    database.run(tasks.enqueue([first]))
    (claim,) = hand.claim()
    database.run(tasks.enqueue([second]))

    settled, claims = database.run_at_once(
        tasks.finish(hand.id, "hand", [done(claim, b"7")]),
        tasks.claim(hand.id, [Lane("celery")], 10, max_deliveries=5, may_lag=False),
    )

    assert settled == 1
    assert ids(claims) == [second.id]
    assert value_of(conn, first) == b"7"


def test_another_worker_cannot_settle_what_it_did_not_claim(database: Database, hand: Hand, conn: Conn) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    thief = Hand(database)

    assert thief.settle(done(claim), again(claim), back(claim)) == []
    assert thief.finish(done(claim)) == 0
    assert standing(conn, task) == ["claimed"]


def test_a_stale_delivery_cannot_settle_a_claim_that_the_same_worker_holds_anew(
    database: Database, hand: Hand, conn: Conn
) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    (stale,) = hand.claim()
    hand.settle(back(stale))
    (fresh,) = hand.claim()

    assert hand.settle(done(stale, b"stale")) == []
    assert hand.finish(done(stale, b"stale")) == 0
    assert hand.settle(done(fresh, b"fresh")) == [task.id]
    assert value_of(conn, task) == b"fresh"


@pytest.mark.parametrize("way", ["settle", "finish"])
def test_of_two_settles_at_the_same_time_exactly_one_counts(
    database: Database, hand: Hand, conn: Conn, way: str
) -> None:
    messages = [message() for _ in range(30)]
    database.run(tasks.enqueue(messages))
    claims = hand.claim(30)

    def settle(value: bytes) -> int:
        outcomes = [done(claim, value) for claim in claims]
        return len(hand.settle(*outcomes)) if way == "settle" else hand.finish(*outcomes)

    counts = at_once(*[lambda value=value: settle(value) for value in (b"1", b"2", b"3", b"4")])

    assert sum(counts) == 30
    assert conn.execute("SELECT count(*) FROM pgtasks.result").fetchone() == (30,)


def test_settles_of_the_same_tasks_in_opposite_order_do_not_deadlock(
    database: Database, hand: Hand, conn: Conn
) -> None:
    for _ in range(10):
        messages = [message() for _ in range(40)]
        database.run(tasks.enqueue(messages))
        outcomes = [done(claim) for claim in hand.claim(40)]

        at_once(lambda: hand.settle(*outcomes), lambda: hand.settle(*reversed(outcomes)))

    row = conn.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row == (0,)


def test_a_retry_comes_back_counted_and_with_its_new_words(database: Database, hand: Hand, conn: Conn) -> None:
    task = message(payload=b"old", queue="celery")
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    changes = message(id=task.id, payload=b"new", queue="other", priority=3)
    other = Hand(database, queues=["other"])

    hand.settle(again(claim, value=b"why", changes=changes))
    (second,) = other.claim()

    assert (second.payload, second.queue, second.rank, second.retries, second.losses) == (b"new", "other", -3, 1, 0)
    assert database.run(results.fetch([task.id]))[task.id].state == "RETRY"


def test_a_fenced_retry_changes_neither_the_message_nor_its_state(database: Database, hand: Hand) -> None:
    task = message(payload=b"old")
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    hand.settle(back(claim))
    (fresh,) = hand.claim()

    hand.settle(again(claim, value=b"why", changes=message(id=task.id, payload=b"new")))
    hand.settle(back(fresh))

    assert hand.claim()[0].payload == b"old"
    assert database.run(results.fetch([task.id]))[task.id].state is None


def test_a_retry_with_a_delay_waits_in_the_schedule_until_it_is_due(database: Database, hand: Hand, conn: Conn) -> None:
    task, soon = message(), message()
    database.run(tasks.enqueue([task, soon]))
    first, second = hand.claim()

    hand.settle(again(first, delay_s=3600.0), again(second, due=PAST))

    assert standing(conn, task) == ["scheduled"]
    assert ids(hand.claim()) == [soon.id]


def test_a_give_back_is_not_counted_and_a_loss_is(database: Database, hand: Hand) -> None:
    database.run(tasks.enqueue([message()]))
    (claim,) = hand.claim()
    hand.settle(back(claim))
    (given_back,) = hand.claim()
    hand.settle(back(given_back, losses=1))
    (lost,) = hand.claim()

    assert (given_back.losses, given_back.retries) == (0, 0)
    assert (lost.losses, lost.retries) == (1, 0)


def test_a_retry_forgets_the_deaths_before_it(database: Database, hand: Hand) -> None:
    database.run(tasks.enqueue([message()]))
    (claim,) = hand.claim()
    hand.settle(back(claim, losses=4))
    (claim,) = hand.claim()
    hand.settle(again(claim))

    assert hand.claim()[0].losses == 0


# -- ack, mark, store, fetch, forget


def test_only_the_holder_may_begin_an_at_most_once_task(database: Database, hand: Hand) -> None:
    database.run(tasks.enqueue([message(), message()]))
    mine, taken = hand.claim()
    hand.settle(back(taken))

    assert set(database.run(tasks.ack(hand.id, [mine, taken]))) == {mine.id}
    assert not database.run(tasks.ack(Hand(database).id, [mine]))


def test_a_zombie_cannot_mark_progress_on_a_task_that_it_lost(database: Database, hand: Hand) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    (lost,) = hand.claim()
    hand.settle(back(lost))
    (held,) = hand.claim()

    refused = database.run(tasks.mark(task.id, "STARTED", worker=hand.id, delivery=lost.delivery))
    taken = database.run(tasks.mark(task.id, "HALFWAY", worker=hand.id, delivery=held.delivery))

    assert (refused, taken) == (0, 1)
    assert database.run(results.fetch([task.id]))[task.id].state == "HALFWAY"


def test_progress_never_hides_a_result(database: Database, hand: Hand) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    hand.settle(done(hand.claim()[0]))

    assert database.run(tasks.mark(task.id, "HALFWAY")) == 0
    assert database.run(results.fetch([task.id]))[task.id].state == "SUCCESS"


def test_of_two_ends_stored_from_outside_the_first_wins(database: Database) -> None:
    task_id = new_id()

    counts = at_once(*[lambda: database.run(tasks.store(task_id, "SUCCESS", value=b"1"))] * 4)

    assert sorted(counts) == [0, 0, 0, 1]


def test_a_task_that_was_ended_from_outside_while_it_ran_does_not_leave_its_successors_waiting_for_ever(
    database: Database, hand: Hand, conn: Conn
) -> None:
    first, second = message(), message(inputs="value")
    database.run(tasks.enqueue([first, second], plan((first, second))))
    (claim,) = hand.claim()
    database.run(tasks.store(first.id, "SUCCESS", value=b"outside"))

    hand.settle(done(claim, b"inside"))

    assert standing(conn, second) == ["ready"]
    assert hand.claim()[0].input_values == [b"outside"]


def test_unknown_ids_are_not_in_what_is_fetched(database: Database) -> None:
    assert database.run(results.fetch([new_id()])) == {}


def test_forgetting_removes_the_result_and_lets_what_runs_go_on(database: Database, hand: Hand, conn: Conn) -> None:
    ended, running = message(), message()
    database.run(tasks.enqueue([ended, running]))
    first, second = hand.claim()
    hand.settle(done(first))
    database.run(tasks.mark(running.id, "STARTED"))

    assert database.run(results.forget([ended.id, running.id])) == 2
    known = database.run(results.fetch([ended.id, running.id]))

    assert [known[each.id].state for each in (ended, running)] == [None, None]
    assert hand.settle(done(second)) == [running.id]


def test_forgetting_a_header_does_not_starve_its_body(database: Database, hand: Hand, conn: Conn) -> None:
    header, body = [message(), message()], message(inputs="list")
    database.run(tasks.enqueue([*header, body], plan(*[(each, body) for each in header])))
    first, second = hand.claim()
    hand.settle(done(first))

    database.run(results.forget([first.id]))
    hand.settle(done(second))

    assert standing(conn, body) == ["ready"]


# -- groups and lengths


def test_a_saved_group_can_be_restored_replaced_and_deleted(database: Database) -> None:
    database.run(groups.save("g", b"1"))
    database.run(groups.save("g", b"2"))
    assert database.run(groups.restore("g")) == b"2"

    database.run(groups.delete("g"))

    assert database.run(groups.restore("g")) is None


def test_lengths_count_ready_and_scheduled_tasks_of_each_queue(database: Database) -> None:
    database.run(tasks.enqueue([message(), message(due=FUTURE), message(queue="b")]))

    assert list(database.run(tasks.lengths(["celery", "b", "none"]))) == [("celery", 1, 1), ("b", 1, 0), ("none", 0, 0)]


def test_successors_are_found_at_any_depth_the_nearest_first(database: Database) -> None:
    first, second, third = message("1"), message("2", inputs="value"), message("3", inputs="value")
    database.run(tasks.enqueue([first, second, third], plan((first, second), (second, third))))

    found = database.run(graphs.successors(first.id))

    assert [(each.name, each.depth) for each in found] == [("2", 1), ("3", 2)]


def test_an_outcome_for_a_task_that_vanished_is_dropped(database: Database, hand: Hand, conn: Conn) -> None:
    """As after a failover to a standby that had not heard of it."""
    stranger = Outcome(id=new_id(), delivery=1, value=b"1")

    assert hand.settle(stranger) == []
    assert hand.finish(stranger) == 0
    assert conn.execute("SELECT count(*) FROM pgtasks.result").fetchone() == (0,)
