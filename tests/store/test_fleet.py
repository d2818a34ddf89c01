"""Verbs on workers, by hand: registration, the lease, taking over, being woken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from pgtasks.store import fleet, tasks
from pgtasks.store.database import Database
from tests.store.test_revoking import REVOKED
from tests.support.hands import Hand, again, back, done, ids, message, standing
from tests.support.links import plan
from tests.support.threads import at_once

Conn = psycopg.Connection[Any]


def silence(conn: Conn, hand: Hand) -> None:
    """Let a worker's heartbeat be older than its lease."""
    conn.execute(
        "UPDATE pgtasks.worker SET heartbeat_at = heartbeat_at - lease - interval '1 s' WHERE id = %s", [hand.id]
    )


# -- the lease


def test_a_live_worker_keeps_its_claims_from_every_reaper(database: Database, hand: Hand, conn: Conn) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    hand.claim()

    reaped = database.run(fleet.reap())

    assert reaped == ([], 0)
    assert standing(conn, task) == ["claimed"]


def test_the_tasks_of_a_dead_worker_go_back_counted_as_lost(database: Database, hand: Hand, conn: Conn) -> None:
    tasks_lost = [message(priority=4), message(queue="celery")]
    database.run(tasks.enqueue(tasks_lost))
    hand.claim()
    silence(conn, hand)

    reaped = database.run(fleet.reap())
    claims = Hand(database).claim()

    assert reaped == ([hand.id], 2)
    assert ids(claims) == ids(tasks_lost)
    assert [(claim.losses, claim.delivery) for claim in claims] == [(1, 2), (1, 2)]


def test_nothing_that_a_reaped_worker_writes_is_kept(database: Database, hand: Hand, conn: Conn) -> None:
    first, second, third = message(), message(), message()
    database.run(tasks.enqueue([first, second, third]))
    claims = hand.claim()
    silence(conn, hand)
    database.run(fleet.reap())

    settled = hand.settle(done(claims[0]), again(claims[1]), back(claims[2]))
    plain = hand.finish(done(claims[0]))
    marked = database.run(tasks.mark(first.id, "STARTED", worker=hand.id, delivery=1))

    assert (settled, plain, hand.claim(), marked) == ([], 0, [], 0)
    assert hand.tick().is_registered is False
    assert [standing(conn, each) for each in (first, second, third)] == [["ready"]] * 3


def test_two_reapers_at_once_take_over_once(database: Database, conn: Conn) -> None:
    messages = [message() for _ in range(60)]
    database.run(tasks.enqueue(messages))
    for hand in [Hand(database) for _ in range(3)]:
        hand.claim(20)
        silence(conn, hand)

    reaped = at_once(*[lambda: database.run(fleet.reap(limit=50))] * 4)
    rest = database.run(fleet.reap())

    assert sum(each.returned for each in reaped) + rest.returned == 60
    assert sorted(ids(Hand(database).claim(100))) == sorted(ids(messages))
    assert len({dead for each in reaped for dead in each.dead}) == 3


def test_a_takeover_in_bounded_steps_leaves_nothing_behind(database: Database, hand: Hand, conn: Conn) -> None:
    database.run(tasks.enqueue([message() for _ in range(25)]))
    hand.claim(25)
    silence(conn, hand)

    counts = []
    while count := database.run(fleet.reap(limit=10)).returned:
        counts.append(count)

    assert counts == [10, 10, 5]
    assert conn.execute("SELECT count(*) FROM pgtasks.claim").fetchone() == (0,)


def test_a_renewal_that_comes_before_the_reaper_keeps_the_worker(database: Database, hand: Hand, conn: Conn) -> None:
    silence(conn, hand)

    assert hand.tick(renew=True).is_registered
    assert database.run(fleet.reap()) == ([], 0)


def test_a_tick_without_renewal_does_not_lengthen_the_lease(database: Database, hand: Hand, conn: Conn) -> None:
    silence(conn, hand)

    assert hand.tick(renew=False).is_registered

    assert database.run(fleet.reap()).dead == [hand.id]


def test_claims_without_a_worker_are_taken_over(database: Database, hand: Hand, conn: Conn) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    hand.claim()
    conn.execute("DELETE FROM pgtasks.worker")

    assert database.run(fleet.reap()) == ([], 1)
    assert standing(conn, task) == ["ready"]


def test_an_at_most_once_task_that_began_is_never_handed_out_to_be_run_again(
    database: Database, hand: Hand, conn: Conn
) -> None:
    begun, not_begun = message("begun"), message("not begun")
    database.run(tasks.enqueue([begun, not_begun]))
    claims = hand.claim()
    database.run(tasks.ack(hand.id, claims[:1]))
    silence(conn, hand)
    database.run(fleet.reap())

    fates = {claim.name: claim.fate for claim in Hand(database).claim()}

    assert fates == {"begun": "lost", "not begun": "live"}


def test_a_task_whose_workers_keep_dying_is_lost_after_its_deliveries_and_its_neighbours_that_never_began_are_not(
    database: Database, conn: Conn
) -> None:
    database.run(tasks.enqueue([message("poison", max_deliveries=3), message("neighbour", max_deliveries=3)]))
    fates = []
    for _ in range(4):
        hand = Hand(database)
        poison, neighbour = sorted(hand.claim(), key=lambda claim: claim.name, reverse=True)
        fates.append((poison.fate, neighbour.fate))
        for _ in range(2):  # again, since the answer was lost
            if poison.losses:
                database.run(tasks.charge(hand.id, [poison]))
        silence(conn, hand)
        database.run(fleet.reap())

    assert fates == [("live", "live"), ("live", "live"), ("live", "live"), ("lost", "live")]


def test_a_task_that_went_to_another_worker_is_not_charged_and_may_not_begin(
    database: Database, hand: Hand, conn: Conn
) -> None:
    database.run(tasks.enqueue([message()]))
    claims = hand.claim()
    silence(conn, hand)
    database.run(fleet.reap())
    Hand(database).claim()

    assert database.run(tasks.charge(hand.id, claims)) == set()


def test_reaping_while_a_task_is_settled_ends_it_in_one_place(database: Database, conn: Conn) -> None:
    for _ in range(15):
        messages = [message() for _ in range(10)]
        database.run(tasks.enqueue(messages))
        hand = Hand(database)
        claims = hand.claim(10)
        silence(conn, hand)

        at_once(lambda: hand.settle(*map(done, claims)), lambda: database.run(fleet.reap()))

        places = [standing(conn, each) for each in messages]
        assert all(place in (["SUCCESS"], ["ready"]) for place in places), places
        conn.execute("DELETE FROM pgtasks.ready")


def test_a_claim_and_a_reap_at_the_same_time_leave_no_task_in_dead_hands(database: Database, conn: Conn) -> None:
    for _ in range(15):
        database.run(tasks.enqueue([message() for _ in range(5)]))
        hand = Hand(database)
        silence(conn, hand)

        at_once(lambda: hand.claim(5), lambda: database.run(fleet.reap()))
        database.run(fleet.reap())

        assert conn.execute("SELECT count(*) FROM pgtasks.claim").fetchone() == (0,)
        conn.execute("DELETE FROM pgtasks.ready")


# -- leaving, and answers lost on the way


def test_a_worker_that_signs_off_returns_what_it_holds_uncharged(database: Database, hand: Hand, conn: Conn) -> None:
    messages = [message(), message()]
    database.run(tasks.enqueue(messages))
    hand.claim()

    assert database.run(fleet.discharge(hand.id)) == 2
    assert [claim.losses for claim in Hand(database).claim()] == [0, 0]
    assert conn.execute("SELECT count(*) FROM pgtasks.worker WHERE id = %s", [hand.id]).fetchone() == (0,)


def test_claims_whose_answer_was_lost_go_back_and_those_in_hand_stay(
    database: Database, hand: Hand, conn: Conn
) -> None:
    known, unheard = message(), message()
    database.run(tasks.enqueue([known]))
    claims = hand.claim()
    database.run(tasks.enqueue([unheard]))
    hand.claim()  # and the answer was lost

    assert database.run(fleet.disown(hand.id, [(claim.id, claim.delivery) for claim in claims])) == (1, [], 0)
    assert standing(conn, known) == ["claimed"]
    assert standing(conn, unheard) == ["ready"]


def test_a_lost_answer_with_a_newer_delivery_of_a_task_in_hand_goes_back(
    database: Database, hand: Hand, conn: Conn
) -> None:
    """A retry was settled and claimed anew, and neither answer arrived: the worker still knows the first delivery."""
    task = message()
    database.run(tasks.enqueue([task]))
    (first,) = hand.claim()
    hand.settle(again(first))
    hand.claim()

    assert database.run(fleet.disown(hand.id, [(first.id, first.delivery)])) == (1, [first.id], 0)
    assert standing(conn, task) == ["ready"]


def test_disowning_with_nothing_in_hand_returns_everything(database: Database, hand: Hand, conn: Conn) -> None:
    database.run(tasks.enqueue([message(), message()]))
    hand.claim()

    assert database.run(fleet.disown(hand.id, [])) == (2, [], 0)


# -- the schedule


def test_due_tasks_are_moved_by_any_worker_and_once(database: Database, conn: Conn) -> None:
    messages = [message(countdown_s=3600.0, queue="elsewhere") for _ in range(40)]
    database.run(tasks.enqueue(messages))
    conn.execute("UPDATE pgtasks.scheduled SET due = now() - interval '1 s'")
    hands = [Hand(database) for _ in range(3)]

    ticks = at_once(*[lambda hand=hand: hand.tick() for hand in hands])

    assert sum(tick.promoted for tick in ticks) == 40
    assert len(Hand(database, queues=["elsewhere"]).claim(100)) == 40


def test_a_tick_says_when_the_next_task_is_due(database: Database, hand: Hand) -> None:
    assert hand.tick().next_due_s is None
    database.run(tasks.enqueue([message(countdown_s=100.0), message(countdown_s=50.0)]))

    due_s = hand.tick().next_due_s

    assert due_s is not None
    assert 40 < due_s <= 50


def test_moving_in_bounded_steps_says_that_more_is_due(database: Database, hand: Hand, conn: Conn) -> None:
    database.run(tasks.enqueue([message(countdown_s=3600.0) for _ in range(25)]))
    conn.execute("UPDATE pgtasks.scheduled SET due = now() - interval '1 s'")

    ticks = [database.run(fleet.tick(hand.id, ["celery"], renew=False, limit=10)) for _ in range(4)]

    assert [tick.promoted for tick in ticks] == [10, 10, 5, 0]
    assert [tick.next_due_s for tick in ticks] == [0, 0, None, None], "none waits for the next second"


def test_a_moved_retry_keeps_its_counts(database: Database, hand: Hand, conn: Conn) -> None:
    database.run(tasks.enqueue([message()]))
    (claim,) = hand.claim()
    hand.settle(back(claim, losses=1, delay_s=3600.0, retries=3))
    conn.execute("UPDATE pgtasks.scheduled SET due = now() - interval '1 s'")

    hand.tick()
    (claim,) = hand.claim()

    assert (claim.delivery, claim.losses, claim.retries) == (2, 1, 3)


def test_tasks_that_fall_due_together_run_in_the_order_they_were_due(
    database: Database, hand: Hand, conn: Conn
) -> None:
    messages = [message(due=datetime(2001, 1, 1, second=second, tzinfo=UTC)) for second in (30, 10, 20)]
    conn.execute("SET pgtasks.now = '2000-01-01 00:00Z'")
    database.run(tasks.enqueue(messages), conn=conn)
    assert [standing(conn, each) for each in messages] == [["scheduled"]] * 3

    hand.tick()

    assert ids(hand.claim()) == ids([messages[1], messages[2], messages[0]])


# -- being woken


@contextmanager
def listening(url: str, worker: UUID) -> Iterator[Conn]:
    with psycopg.connect(url, autocommit=True) as ears:
        ears.execute(sql.SQL("LISTEN {}").format(sql.Identifier(f"pgtasks_worker_{worker}")))
        yield ears


def wake_ups(ears: Conn) -> int:
    """How many notifications have arrived; a round trip brings all that were sent before."""
    ears.execute("SELECT 1")
    return len(list(ears.notifies(timeout=0)))


def test_an_enqueue_wakes_an_idle_worker_of_its_queue_and_no_other(database: Database, database_url: str) -> None:
    idle, elsewhere, busy = Hand(database), Hand(database, queues=["b"]), Hand(database)
    database.run(fleet.idle(idle.id, ["celery"]))
    database.run(fleet.idle(elsewhere.id, ["b"]))
    with listening(database_url, idle.id) as one, listening(database_url, elsewhere.id) as two:
        with listening(database_url, busy.id) as three:
            database.run(tasks.enqueue([message()]))

            assert [wake_ups(each) for each in (one, two, three)] == [1, 0, 0]


def test_ten_thousand_enqueues_in_one_transaction_keep_their_order_and_cause_one_wake_up(
    database: Database, database_url: str
) -> None:
    hands = [Hand(database) for _ in range(3)]
    for hand in hands:
        database.run(fleet.idle(hand.id, ["celery"]))
    messages = [message() for _ in range(10_000)]
    with listening(database_url, hands[0].id) as a, listening(database_url, hands[1].id) as b:
        with listening(database_url, hands[2].id) as c:
            with psycopg.connect(database_url) as producer, producer.pipeline():
                for each in messages:
                    database.run(tasks.enqueue([each]), conn=producer)

            assert sum(wake_ups(ears) for ears in (a, b, c)) == 1
    claimed: list[UUID] = []
    while claims := hands[0].claim(1000):
        claimed.extend(ids(claims))
    assert claimed == ids(messages)


def test_a_busy_or_dead_worker_is_not_woken(database: Database, database_url: str, conn: Conn) -> None:
    hand, dead = Hand(database), Hand(database)
    for each in (hand, dead):
        database.run(fleet.idle(each.id, ["celery"]))
    database.run(fleet.busy(hand.id))
    silence(conn, dead)
    database.run(fleet.reap())
    with listening(database_url, hand.id) as ears, listening(database_url, dead.id) as nobody:
        database.run(tasks.enqueue([message()]))

        assert (wake_ups(ears), wake_ups(nobody)) == (0, 0)


def test_a_release_wakes_an_idle_worker_and_not_the_one_that_settled(database: Database, database_url: str) -> None:
    first, second = message(), message(inputs="value")
    database.run(tasks.enqueue([first, second], plan((first, second))))
    settling, idle = Hand(database), Hand(database)
    (claim,) = settling.claim()
    for each in (settling, idle):
        database.run(fleet.idle(each.id, ["celery"]))
    with listening(database_url, idle.id) as one, listening(database_url, settling.id) as two:
        settling.settle(done(claim))

        assert (wake_ups(one), wake_ups(two)) == (1, 0)


@pytest.mark.parametrize("prefers_release", [True, False])
def test_an_idle_worker_learns_of_a_countdown_that_a_release_began_though_it_settled_nothing(
    database: Database, database_url: str, prefers_release: bool
) -> None:
    first, second = message(), message(inputs="value", countdown_s=0.5)
    database.run(tasks.enqueue([first, second], plan((first, second))))
    settling, idle = Hand(database), Hand(database)
    settling.prefers_release = prefers_release
    (claim,) = settling.claim()
    database.run(fleet.idle(idle.id, ["celery"]))
    with listening(database_url, idle.id) as ears:
        settling.settle(done(claim))

        assert wake_ups(ears) == 1


def test_a_worker_can_be_nudged_about_its_claims(database: Database, hand: Hand, database_url: str) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    hand.claim()
    with listening(database_url, hand.id) as ears:
        workers = database.run(tasks.revoke([task.id], REVOKED))
        database.run(fleet.nudge(workers))

        assert wake_ups(ears) == 1


def test_old_waiters_are_swept_and_fresh_ones_stay(database: Database, conn: Conn) -> None:
    old, fresh = uuid4(), uuid4()
    database.run(fleet.watch(old, [uuid4()]))
    conn.execute("UPDATE pgtasks.waiter SET since = now() - interval '2 hours'")
    database.run(fleet.watch(fresh, [uuid4()]))

    database.run(fleet.sweep_waiters())

    assert conn.execute("SELECT process FROM pgtasks.waiter").fetchall() == [(fresh,)]


@pytest.mark.parametrize("count", [1, 250])
def test_whoever_waits_is_told_whatever_the_number_of_results(
    database: Database, hand: Hand, database_url: str, count: int
) -> None:
    """A notification holds 8000 bytes; more ids than fit must not fail the settle."""
    messages = [message() for _ in range(count)]
    database.run(tasks.enqueue(messages))
    outcomes = [done(claim) for claim in hand.claim(count)]
    process = uuid4()
    database.run(fleet.watch(process, ids(messages)))
    with psycopg.connect(database_url, autocommit=True) as ears:
        ears.execute(sql.SQL("LISTEN {}").format(sql.Identifier(f"pgtasks_waiter_{process}")))

        assert len(hand.settle(*outcomes)) == count

        assert wake_ups(ears) == 1
