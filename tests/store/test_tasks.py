"""Verbs on tasks, by hand: from enqueue to retention, with the races that they must win."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest

from pgtasks.message import Casualty, Claim, Message, Outcome, new_id
from pgtasks.store import fleet, graphs, groups, tasks
from pgtasks.store.database import Database
from pgtasks.store.tasks import Lane
from tests.support.hands import Hand, again, back, done, ids, message, standing, value_of

Conn = psycopg.Connection[Any]
REVOKED = b'{"exc_type": "TaskRevokedError"}'
#: A second that has long passed and one that is far away.
PAST, FUTURE = datetime(2001, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


class Link(NamedTuple):
    succ: UUID
    pred: UUID
    position: int = 0


def plan(*links: tuple[Message, Message]) -> list[Link]:
    """Edges (pred, succ), each successor's inputs in the order given."""
    positions: dict[UUID, int] = {}
    edges = []
    for pred, succ in links:
        position = positions.setdefault(succ.id, 0)
        positions[succ.id] += 1
        edges.append(Link(succ.id, pred.id, position))
    return edges


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls in threads at the same time; gives what each returned."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result(30) for future in [threads.submit(call) for call in calls]]


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

    ahead = hand.ask(lanes=[Lane("celery", seen.rank, seen.seq + 1, seen.rank)]).claims
    swept = hand.ask(lanes=[Lane("celery")]).claims

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
    third = hand.ask(done=[done(claim, b"3")])

    assert (first, second, third.settled) == ([task.id], [], 0)
    assert value_of(conn, task) == b"1"


def test_a_plain_success_settles_on_the_way_of_a_claim(database: Database, hand: Hand, conn: Conn) -> None:
    first, second = message(), message()
    database.run(tasks.enqueue([first]))
    (claim,) = hand.claim()
    database.run(tasks.enqueue([second]))

    answer = hand.ask(done=[done(claim, b"7")])

    assert answer.settled == 1
    assert ids(answer.claims) == [second.id]
    assert value_of(conn, first) == b"7"


def test_another_worker_cannot_settle_what_it_did_not_claim(database: Database, hand: Hand, conn: Conn) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    thief = Hand(database)

    assert thief.settle(done(claim), again(claim), back(claim)) == []
    assert thief.ask(done=[done(claim)]).settled == 0
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
    assert hand.ask(done=[done(stale, b"stale")]).settled == 0
    assert hand.settle(done(fresh, b"fresh")) == [task.id]
    assert value_of(conn, task) == b"fresh"


@pytest.mark.parametrize("take", ["settle", "claim"])
def test_of_two_settles_at_the_same_time_exactly_one_counts(
    database: Database, hand: Hand, conn: Conn, take: str
) -> None:
    messages = [message() for _ in range(30)]
    database.run(tasks.enqueue(messages))
    claims = hand.claim(30)

    def settle(value: bytes) -> int:
        outcomes = [done(claim, value) for claim in claims]
        return len(hand.settle(*outcomes)) if take == "settle" else hand.ask(0, done=outcomes).settled

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
    assert database.run(tasks.fetch([task.id]))[task.id].state == "RETRY"


def test_a_fenced_retry_changes_neither_the_message_nor_its_state(database: Database, hand: Hand) -> None:
    task = message(payload=b"old")
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    hand.settle(back(claim))
    (fresh,) = hand.claim()

    hand.settle(again(claim, value=b"why", changes=message(id=task.id, payload=b"new")))
    hand.settle(back(fresh))

    assert hand.claim()[0].payload == b"old"
    assert database.run(tasks.fetch([task.id]))[task.id].state is None


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


# -- successors


def test_a_chain_goes_on_with_the_value_of_the_one_before(database: Database, hand: Hand, conn: Conn) -> None:
    first, second = message("first"), message("second", inputs="value")
    database.run(tasks.enqueue([first, second], plan((first, second))))
    (claim,) = hand.claim()
    assert standing(conn, second) == ["waiting"]

    hand.settle(done(claim, b"41"))
    (successor,) = hand.claim()

    assert successor.id == second.id
    assert successor.input_values == [b"41"]


def test_a_body_sees_the_header_in_the_order_of_the_header_not_of_its_ending(database: Database, hand: Hand) -> None:
    header = [message(f"h{n}") for n in range(20)]
    body = message("body", inputs="list")
    database.run(tasks.enqueue([*header, body], plan(*[(each, body) for each in header])))
    claims = hand.claim(20)

    for claim in reversed(claims):
        hand.settle(done(claim, claim.name.encode()))
    (final,) = hand.claim()

    assert final.input_values == [f"h{n}".encode() for n in range(20)]


def test_headers_that_end_at_the_same_time_release_the_body_exactly_once(database: Database, conn: Conn) -> None:
    bodies = []
    for _ in range(6):
        header = [message() for _ in range(12)]
        body = message("body", inputs="list")
        bodies.append(body)
        database.run(tasks.enqueue([*header, body], plan(*[(each, body) for each in header])))
        hands = [Hand(database) for _ in range(4)]
        hauls = [hand.claim(3) for hand in hands]

        def end(hand: Hand, claims: list[Claim]) -> None:
            for claim in claims:
                hand.settle(done(claim))
                hand.settle(done(claim))

        at_once(*[lambda hand=hand, haul=haul: end(hand, haul) for hand, haul in zip(hands, hauls, strict=True)])
        assert standing(conn, body) == ["ready"]
        Hand(database).claim()

    assert all(standing(conn, body) == ["claimed"] for body in bodies)


def test_a_body_that_is_released_by_a_settle_that_had_to_wait_sees_all_of_its_header(
    database: Database, database_url: str, conn: Conn
) -> None:
    """The settle that comes second began before the first one ended, and may not see its result."""
    header, body = [message("a"), message("b")], message("body", inputs="list")
    database.run(tasks.enqueue([*header, body], plan(*[(each, body) for each in header])))
    first, second = Hand(database), Hand(database)
    (a,), (b,) = first.claim(1), second.claim(1)
    settle_second = tasks.settle(second.id, "second", [done(b, b"2")], queues=["celery"], room=5)
    with ThreadPoolExecutor(1) as threads:
        with psycopg.connect(database_url) as settling:
            database.run(tasks.settle(first.id, "first", [done(a, b"1")]), conn=settling)
            waiting = threads.submit(database.run, settle_second)
            while not conn.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
                assert not waiting.done()
        claims = [*waiting.result(20).claims, *second.claim()]

    assert [claim.input_values for claim in claims] == [[b"1", b"2"]]


def test_the_row_of_a_wide_chords_body_changes_once_per_settle_and_not_once_per_member(
    database: Database, hand: Hand, conn: Conn
) -> None:
    """Else ten thousand members would queue for one row, each leaving a dead version behind for the next to skip."""
    header, body = [message() for _ in range(300)], message("body", inputs="list")
    database.run(tasks.enqueue([*header, body], plan(*[(each, body) for each in header])))
    versions = set()

    while (claims := hand.claim(100)) and claims[0].name != "body":
        hand.settle(*map(done, claims))
        versions.add(
            conn.execute("SELECT xmin::text, pending FROM pgtasks.waiting WHERE id = %s", [body.id]).fetchone()
        )

    assert sorted(pending for _, pending in versions) == [0, 100, 200]
    assert len(claims[0].input_values or ()) == 300


def test_a_task_that_was_revoked_has_ended_for_a_body_that_runs_when_all_are_done(
    database: Database, hand: Hand
) -> None:
    header, body = [message("a"), message("b")], message("body", inputs="list", trigger="all_done")
    database.run(tasks.enqueue([*header, body], plan(*[(each, body) for each in header])))
    revoke(database, header[0])

    for claim in hand.claim():
        hand.settle(done(claim, state="REVOKED" if claim.fate == "revoked" else "SUCCESS"))

    assert [claim.input_states for claim in hand.claim()] == [["REVOKED", "SUCCESS"]]


def test_a_replaced_task_and_one_run_again_never_get_a_delivery_number_that_was_used(
    database: Database, hand: Hand
) -> None:
    """The number is half of the fence: a late outcome of the first delivery must match nothing."""
    replaced, before = message(), message()
    database.run(tasks.enqueue([replaced]))
    (first,) = hand.claim()
    successor = Message(id=replaced.id, name="after", payload=b"[[],{},{}]", inputs="value")
    database.run_together(
        tasks.replace(hand.id, first.delivery, successor, [before.id]),
        tasks.enqueue([before], [Link(replaced.id, before.id)], running=[replaced.id]),
    )
    hand.settle(done(hand.claim()[0]))
    (second,) = hand.claim()
    hand.settle(done(second, state="FAILURE"))
    database.run(graphs.redrive([replaced.id, before.id], [replaced.id]))
    (third,) = hand.claim()

    assert [first.delivery, second.delivery, third.delivery] == [1, 2, 3]


def test_many_bodies_over_the_same_headers_are_released_without_deadlock(database: Database, conn: Conn) -> None:
    header = [message() for _ in range(8)]
    bodies = [message("body", inputs="list") for _ in range(10)]
    links = [(each, body) for body in bodies for each in header]
    database.run(tasks.enqueue([*header, *bodies], plan(*links)))
    hands = [Hand(database) for _ in range(4)]
    hauls = [hand.claim(2) for hand in hands]

    at_once(
        *[
            lambda hand=hand, haul=haul: hand.settle(*map(done, reversed(haul)))
            for hand, haul in zip(hands, hauls, strict=True)
        ]
    )

    assert [standing(conn, body) for body in bodies] == [["ready"]] * 10


def test_a_failure_releases_nobody_and_its_casualties_end_with_it(database: Database, hand: Hand, conn: Conn) -> None:
    first, second, third = message(), message(inputs="value"), message(inputs="value")
    database.run(tasks.enqueue([first, second, third], plan((first, second), (second, third))))
    (claim,) = hand.claim()
    fails = tuple(Casualty(id=each.id, state="FAILURE", value=b"e") for each in (second, third))

    hand.settle(done(claim, b"e", state="FAILURE", fails=fails))
    hand.settle(done(claim, b"e", state="FAILURE", fails=fails))

    assert [standing(conn, each) for each in (first, second, third)] == [["FAILURE"]] * 3


def test_a_fenced_failure_kills_no_successor(database: Database, hand: Hand, conn: Conn) -> None:
    first, second = message(), message(inputs="value")
    database.run(tasks.enqueue([first, second], plan((first, second))))
    (claim,) = hand.claim()
    fails = (Casualty(id=second.id, state="FAILURE", value=b"e"),)

    Hand(database).settle(done(claim, b"e", state="FAILURE", fails=fails))

    assert standing(conn, first) == ["claimed"]
    assert standing(conn, second) == ["waiting"]


def test_two_failing_headers_fail_their_body_once(database: Database, hand: Hand, conn: Conn) -> None:
    header, body = [message() for _ in range(4)], message(inputs="list")
    database.run(tasks.enqueue([*header, body], plan(*[(each, body) for each in header])))
    claims = hand.claim()
    fails = (Casualty(id=body.id, state="FAILURE", value=b"e"),)

    at_once(*[lambda claim=claim: hand.settle(done(claim, b"e", state="FAILURE", fails=fails)) for claim in claims])

    assert standing(conn, body) == ["FAILURE"]


def test_a_body_whose_failure_was_fenced_off_still_hears_of_the_success_beside_it(
    database: Database, hand: Hand, conn: Conn
) -> None:
    header, body = [message("good"), message("bad")], message(inputs="list")
    database.run(tasks.enqueue([*header, body], plan(*[(each, body) for each in header])))
    good, bad = hand.claim()
    hand.settle(back(bad))
    fails = (Casualty(id=body.id, state="FAILURE", value=b"e"),)

    hand.settle(done(good, b"1"), done(bad, b"e", state="FAILURE", fails=fails))
    (bad,) = hand.claim()
    hand.settle(done(bad, b"2"))

    assert standing(conn, body) == ["ready"]


def test_a_success_and_a_failure_of_two_headers_in_one_settle_fail_the_body(
    database: Database, hand: Hand, conn: Conn
) -> None:
    header, body = [message("good"), message("bad")], message(inputs="list")
    database.run(tasks.enqueue([*header, body], plan(*[(each, body) for each in header])))
    good, bad = hand.claim()

    hand.settle(done(good), done(bad, state="FAILURE", fails=(Casualty(id=body.id, state="FAILURE", value=b"e"),)))

    assert standing(conn, body) == ["FAILURE"]


def test_a_retry_does_not_release_successors_and_its_success_does_once(
    database: Database, hand: Hand, conn: Conn
) -> None:
    first, second = message(), message(inputs="value")
    database.run(tasks.enqueue([first, second], plan((first, second))))
    (claim,) = hand.claim()
    hand.settle(again(claim))
    assert standing(conn, second) == ["waiting"]

    hand.settle(done(hand.claim()[0]))

    assert standing(conn, second) == ["ready"]


def test_a_released_task_with_a_countdown_is_scheduled_from_its_release(
    database: Database, hand: Hand, conn: Conn
) -> None:
    first, second = message(), message(inputs="value", countdown_s=3600.0)
    database.run(tasks.enqueue([first, second], plan((first, second))))

    hand.settle(done(hand.claim()[0]))

    assert standing(conn, second) == ["scheduled"]


def test_a_canvas_enqueued_twice_has_each_edge_once(database: Database, hand: Hand, conn: Conn) -> None:
    first, second = message(), message(inputs="value")
    for _ in range(2):
        database.run(tasks.enqueue([first, second], plan((first, second))))

    hand.settle(done(hand.claim()[0]))

    assert standing(conn, second) == ["ready"]
    assert conn.execute("SELECT pending FROM pgtasks.waiting").fetchall() == [(0,)]


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
    assert database.run(tasks.fetch([task.id]))[task.id].state == "HALFWAY"


def test_progress_never_hides_a_result(database: Database, hand: Hand) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    hand.settle(done(hand.claim()[0]))

    assert database.run(tasks.mark(task.id, "HALFWAY")) == 0
    assert database.run(tasks.fetch([task.id]))[task.id].state == "SUCCESS"


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
    assert database.run(tasks.fetch([new_id()])) == {}


def test_forgetting_removes_the_result_and_lets_what_runs_go_on(database: Database, hand: Hand, conn: Conn) -> None:
    ended, running = message(), message()
    database.run(tasks.enqueue([ended, running]))
    first, second = hand.claim()
    hand.settle(done(first))
    database.run(tasks.mark(running.id, "STARTED"))

    assert database.run(tasks.forget([ended.id, running.id])) == 2
    known = database.run(tasks.fetch([ended.id, running.id]))

    assert [known[each.id].state for each in (ended, running)] == [None, None]
    assert hand.settle(done(second)) == [running.id]


def test_forgetting_a_header_does_not_starve_its_body(database: Database, hand: Hand, conn: Conn) -> None:
    header, body = [message(), message()], message(inputs="list")
    database.run(tasks.enqueue([*header, body], plan(*[(each, body) for each in header])))
    first, second = hand.claim()
    hand.settle(done(first))

    database.run(tasks.forget([first.id]))
    hand.settle(done(second))

    assert standing(conn, body) == ["ready"]


# -- revoke, purge, expire


def revoke(database: Database, *messages: Message, signal: str = "") -> list[UUID]:
    return database.run(tasks.revoke(ids(messages), REVOKED, signal))


def test_a_revoked_task_ends_wherever_it_waits_and_never_runs(database: Database, hand: Hand, conn: Conn) -> None:
    ready, scheduled = message("ready"), message("scheduled", due=FUTURE)
    first, waiting = message("first"), message("waiting", inputs="value")
    database.run(tasks.enqueue([ready, scheduled, first, waiting], plan((first, waiting))))

    revoke(database, ready, scheduled, waiting)
    known = database.run(tasks.fetch(ids([ready, scheduled, waiting])))
    fates = {claim.name: claim.fate for claim in hand.claim()}

    assert {each.state for each in known.values()} == {"REVOKED"}
    assert fates == {"ready": "revoked", "scheduled": "revoked", "first": "live", "waiting": "revoked"}
    assert conn.execute("SELECT count(*) FROM pgtasks.revoked").fetchone() == (0,)


def test_a_revoked_task_stays_revoked_when_the_worker_that_was_to_drop_it_dies(
    database: Database, hand: Hand, conn: Conn
) -> None:
    returned, lost = message(), message()
    database.run(tasks.enqueue([returned, lost]))
    revoke(database, returned, lost)
    claims = {claim.id: claim for claim in hand.claim()}

    hand.settle(back(claims[returned.id]))
    conn.execute("UPDATE pgtasks.worker SET heartbeat_at = heartbeat_at - lease - interval '1 s'")
    database.run(fleet.reap())

    assert [claim.fate for claim in Hand(database).claim()] == ["revoked", "revoked"]


def test_revoking_a_claimed_task_tells_its_worker_and_does_not_end_it(
    database: Database, hand: Hand, conn: Conn
) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()

    workers = revoke(database, task, signal="SIGKILL")
    tick = hand.tick()

    assert workers == [hand.id]
    assert (tick.revoked_ids, tick.revoked_signals) == ([task.id], ["SIGKILL"])
    assert standing(conn, task) == ["claimed"]
    assert hand.settle(done(claim)) == [task.id]


def test_revoking_what_has_ended_changes_nothing(database: Database, hand: Hand, conn: Conn) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    hand.settle(done(hand.claim()[0]))

    revoke(database, task)

    assert standing(conn, task) == ["SUCCESS"]
    assert conn.execute("SELECT count(*) FROM pgtasks.revoked").fetchone() == (0,)


def test_a_task_that_is_sent_after_it_was_revoked_does_not_run_either(
    database: Database, hand: Hand, conn: Conn
) -> None:
    task = message()

    revoke(database, task)
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()

    assert claim.fate == "revoked"
    assert database.run(tasks.fetch([task.id]))[task.id].state == "REVOKED"


def test_revoking_leaves_alone_a_state_that_somebody_stored_without_a_task(database: Database, conn: Conn) -> None:
    elsewhere = message().id
    database.run(tasks.mark(elsewhere, "STARTED"))

    database.run(tasks.revoke([elsewhere], REVOKED))

    assert database.run(tasks.fetch([elsewhere]))[elsewhere].state == "STARTED"


def test_a_revocation_waits_a_day_for_its_task_and_as_long_as_that_is_there(database: Database, conn: Conn) -> None:
    never_sent, waits = message(), message()
    database.run(tasks.enqueue([waits]))
    revoke(database, never_sent, waits)
    conn.execute("UPDATE pgtasks.revoked SET at = at - interval '2 days'")

    database.run(tasks.sweep_revoked())

    assert conn.execute("SELECT id FROM pgtasks.revoked").fetchall() == [(waits.id,)]


def test_a_task_revoked_twice_is_dropped_once(database: Database, hand: Hand) -> None:
    task = message(due=FUTURE)
    database.run(tasks.enqueue([task]))

    at_once(*[lambda: revoke(database, task)] * 4)

    assert [claim.fate for claim in hand.claim()] == ["revoked"]


def test_revoking_a_retry_in_the_schedule_keeps_its_delivery_number(database: Database, hand: Hand) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    hand.settle(again(claim, delay_s=3600.0))

    revoke(database, task)
    (dropped,) = hand.claim()

    assert (dropped.fate, dropped.delivery) == ("revoked", 2)
    assert hand.settle(done(claim)) == [], "the first delivery's number must never be valid again"


def test_a_task_revoked_while_it_was_being_claimed_does_not_leave_its_successors_waiting_for_ever(
    database: Database, hand: Hand, database_url: str, conn: Conn
) -> None:
    """The claim does not see the revocation, nor the revocation the claim: they run in transactions that overlap."""
    first, second = message(), message(inputs="value")
    database.run(tasks.enqueue([first, second], plan((first, second))))
    query = tasks.claim(hand.id, [Lane("celery")], 1, max_deliveries=5)
    with psycopg.connect(database_url) as claiming:
        (claim,) = database.run(query, conn=claiming).claims
        revoke(database, first)

    hand.settle(done(claim))
    for follow_up in hand.claim():
        hand.settle(done(follow_up, state="REVOKED", fails=(Casualty(id=second.id, state="FAILURE", value=b"e"),)))

    assert standing(conn, first) == ["REVOKED"]
    assert standing(conn, second) == ["FAILURE"]
    assert conn.execute("SELECT count(*) FROM pgtasks.revoked").fetchone() == (0,)


def test_a_revocation_and_a_release_at_the_same_time_leave_one_row(database: Database, conn: Conn) -> None:
    for _ in range(20):
        first, second = message(), message(inputs="value")
        database.run(tasks.enqueue([first, second], plan((first, second))))
        hand = Hand(database)
        (claim,) = hand.claim()

        at_once(lambda: hand.settle(done(claim)), lambda: revoke(database, second))

        rows = conn.execute("SELECT count(*) FROM pgtasks.ready WHERE id = %s", [second.id]).fetchone()
        assert rows == (1,)
        assert [claim.fate for claim in hand.claim()] == ["revoked"]


def test_purge_ends_what_waits_in_its_queues_and_nothing_else(database: Database, hand: Hand, conn: Conn) -> None:
    claimed = message()
    database.run(tasks.enqueue([claimed]))
    hand.claim()
    ready, scheduled, elsewhere = message(), message(due=FUTURE), message(queue="other")
    database.run(tasks.enqueue([ready, scheduled, elsewhere]))

    counts = [database.run(tasks.purge(["celery"], REVOKED)) for _ in range(2)]

    assert counts == [2, 0]
    assert [standing(conn, each) for each in (claimed, ready, scheduled, elsewhere)] == [
        ["claimed"], ["REVOKED"], ["REVOKED"], ["ready"],
    ]  # fmt: skip


def test_a_purge_in_bounded_steps_ends_and_two_at_once_share_the_work(database: Database) -> None:
    database.run(tasks.enqueue([message() for _ in range(95)]))

    def purge() -> int:
        total = 0
        while count := database.run(tasks.purge(["celery"], REVOKED, limit=10)):
            total += count
        return total

    assert sum(at_once(purge, purge)) == 95


def test_a_purged_task_that_others_wait_for_stays_for_a_worker_to_fail_them(
    database: Database, hand: Hand, conn: Conn
) -> None:
    first, second = message(), message(inputs="value")
    database.run(tasks.enqueue([first, second], plan((first, second))))

    counts = [database.run(tasks.purge(["celery"], REVOKED)) for _ in range(2)]
    (claim,) = hand.claim()

    assert counts == [1, 0]
    assert (claim.id, claim.fate, claim.has_successors) == (first.id, "revoked", True)


def test_a_purged_retry_keeps_its_delivery_number(database: Database, hand: Hand) -> None:
    first, second = message(), message(inputs="value")
    database.run(tasks.enqueue([first, second], plan((first, second))))
    (claim,) = hand.claim()
    hand.settle(again(claim))

    database.run(tasks.purge(["celery"], REVOKED))

    assert hand.claim()[0].delivery == 2


def age(conn: Conn, *messages: Message, days: int = 10) -> None:
    conn.execute(
        "UPDATE pgtasks.result SET done_at = done_at - %s WHERE id = ANY (%s)", [timedelta(days=days), ids(messages)]
    )


def test_expiry_removes_old_results_with_their_messages_and_nothing_that_lives(
    database: Database, hand: Hand, conn: Conn
) -> None:
    old, fresh, live = message(), message(), message()
    database.run(tasks.enqueue([old, fresh]))
    hand.settle(*map(done, hand.claim()))
    database.run(tasks.enqueue([live]))
    age(conn, old)

    removed = database.run(tasks.expire(86400))

    assert removed == 1
    assert [standing(conn, each) for each in (old, fresh, live)] == [[], ["SUCCESS"], ["ready"]]
    assert conn.execute("SELECT count(*) FROM pgtasks.message WHERE id = %s", [old.id]).fetchone() == (0,)


def test_expiry_keeps_a_header_whose_body_has_not_ended(database: Database, hand: Hand, conn: Conn) -> None:
    header, body = [message(), message()], message(inputs="list")
    database.run(tasks.enqueue([*header, body], plan(*[(each, body) for each in header])))
    first, second = hand.claim()
    hand.settle(done(first, b"1"))
    age(conn, *header)
    database.run(tasks.expire(86400))

    hand.settle(done(second, b"2"))

    assert hand.claim()[0].input_values == [b"1", b"2"]


def test_expiry_goes_in_bounded_steps(database: Database, hand: Hand, conn: Conn) -> None:
    messages = [message() for _ in range(25)]
    database.run(tasks.enqueue(messages))
    hand.settle(*map(done, hand.claim(25)))
    age(conn, *messages)

    counts = []
    while count := database.run(tasks.expire(86400, limit=10)):
        counts.append(count)

    assert counts == [10, 10, 5]


def test_expiry_leaves_no_row_of_a_whole_canvas(database: Database, hand: Hand, conn: Conn) -> None:
    first, second = message(), message(inputs="value")
    database.run(tasks.enqueue([first, second], plan((first, second))))
    hand.settle(done(hand.claim()[0]))
    hand.settle(done(hand.claim()[0]))
    age(conn, first, second)

    while database.run(tasks.expire(86400)):
        pass

    for table in ("message", "result", "edge", "waiting", "progress", "ready", "claim"):
        assert conn.execute(f"SELECT count(*) FROM pgtasks.{table}").fetchone() == (0,), table


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
    assert hand.ask(done=[stranger]).settled == 0
    assert conn.execute("SELECT count(*) FROM pgtasks.result").fetchone() == (0,)
