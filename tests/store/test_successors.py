"""What the end of a task releases or fails: chains and bodies of chords, each once, whatever happens at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

from pgtasks.message import Casualty, Claim, Message
from pgtasks.store import graphs, tasks
from pgtasks.store.database import Database
from tests.store.test_revoking import revoke
from tests.support.hands import Hand, again, back, done, message, standing
from tests.support.links import Link, plan
from tests.support.threads import at_once

Conn = psycopg.Connection[Any]
REVOKED = b'{"exc_type": "TaskRevokedError"}'


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

    (claim,) = hand.claim()
    settled = database.run(tasks.settle(hand.id, "hand", [done(claim)]))

    assert standing(conn, second) == ["scheduled"]
    assert 3500 < settled.later_s <= 3600


def test_a_canvas_enqueued_twice_has_each_edge_once(database: Database, hand: Hand, conn: Conn) -> None:
    first, second = message(), message(inputs="value")
    for _ in range(2):
        database.run(tasks.enqueue([first, second], plan((first, second))))

    hand.settle(done(hand.claim()[0]))

    assert standing(conn, second) == ["ready"]
    assert conn.execute("SELECT pending FROM pgtasks.waiting").fetchall() == [(0,)]
