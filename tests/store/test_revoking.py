"""Ending tasks from outside: revoked, purged, and removed when they are old."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from pgtasks.message import Casualty, Message
from pgtasks.store import fleet, results, tasks
from pgtasks.store.database import Database
from pgtasks.store.tasks import Lane
from tests.support.hands import Hand, again, back, done, ids, message, standing
from tests.support.links import plan
from tests.support.threads import at_once

Conn = psycopg.Connection[Any]
REVOKED = b'{"exc_type": "TaskRevokedError"}'
#: A second that has long passed and one that is far away.
PAST, FUTURE = datetime(2001, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def revoke(database: Database, *messages: Message, signal: str = "") -> list[UUID]:
    return database.run(tasks.revoke(ids(messages), REVOKED, signal))


def test_a_revoked_task_ends_wherever_it_waits_and_never_runs(database: Database, hand: Hand, conn: Conn) -> None:
    ready, scheduled = message("ready"), message("scheduled", due=FUTURE)
    first, waiting = message("first"), message("waiting", inputs="value")
    database.run(tasks.enqueue([ready, scheduled, first, waiting], plan((first, waiting))))

    revoke(database, ready, scheduled, waiting)
    known = database.run(results.fetch(ids([ready, scheduled, waiting])))
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


def test_a_claimed_task_that_is_revoked_and_not_run_to_its_end_ends_at_once_and_not_when_a_worker_has_room(
    database: Database, hand: Hand, conn: Conn
) -> None:
    handed_back, retried, rejected, going_on = message(), message(), message(), message()
    database.run(tasks.enqueue([handed_back, retried, rejected, going_on]))
    claims = {claim.id: claim for claim in hand.claim()}
    conn.execute("INSERT INTO pgtasks.waiter (id, process) VALUES (%s, gen_random_uuid())", [handed_back.id])
    revoke(database, handed_back, retried, rejected)

    hand.settle(
        back(claims[handed_back.id]),
        again(claims[retried.id], due=FUTURE),
        back(claims[rejected.id], delay_s=3600.0),
        back(claims[going_on.id]),
    )
    standings = [standing(conn, each) for each in (handed_back, retried, rejected, going_on)]
    waiters = conn.execute("SELECT count(*) FROM pgtasks.waiter").fetchone()
    fates = {claim.id: claim.fate for claim in Hand(database).claim()}

    assert standings == [["ready", "REVOKED"]] * 3 + [["ready"]]
    assert waiters == (0,), "who waits for it is told"
    assert fates == {handed_back.id: "revoked", retried.id: "revoked", rejected.id: "revoked", going_on.id: "live"}


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
    assert database.run(results.fetch([task.id]))[task.id].state == "REVOKED"


def test_revoking_leaves_alone_a_state_that_somebody_stored_without_a_task(database: Database, conn: Conn) -> None:
    elsewhere = message().id
    database.run(tasks.mark(elsewhere, "STARTED"))

    database.run(tasks.revoke([elsewhere], REVOKED))

    assert database.run(results.fetch([elsewhere]))[elsewhere].state == "STARTED"


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
        (claim,) = database.run(query, conn=claiming)
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
