"""The verb `release`: what `settle` does to a canvas it does as well, and when it may leave its commit to a later one."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgtasks.store import tasks
from pgtasks.store.database import Database
from tests.store.test_revoking import (  # noqa: F401 - collected here a second time, for the other verb
    test_a_revocation_and_a_release_at_the_same_time_leave_one_row,
    test_a_task_revoked_while_it_was_being_claimed_does_not_leave_its_successors_waiting_for_ever,
)
from tests.store.test_successors import (  # noqa: F401 - collected here a second time, for the other verb
    test_a_body_sees_the_header_in_the_order_of_the_header_not_of_its_ending,
    test_a_chain_goes_on_with_the_value_of_the_one_before,
    test_a_released_task_with_a_countdown_is_scheduled_from_its_release,
    test_a_retry_does_not_release_successors_and_its_success_does_once,
    test_a_task_that_was_revoked_has_ended_for_a_body_that_runs_when_all_are_done,
    test_headers_that_end_at_the_same_time_release_the_body_exactly_once,
    test_many_bodies_over_the_same_headers_are_released_without_deadlock,
    test_the_row_of_a_wide_chords_body_changes_once_per_settle_and_not_once_per_member,
)
from tests.store.test_tasks import (  # noqa: F401 - collected here a second time, for the other verb
    test_a_task_that_was_ended_from_outside_while_it_ran_does_not_leave_its_successors_waiting_for_ever,
)
from tests.support.hands import Hand, done, ids, message, standing
from tests.support.links import plan

Conn = psycopg.Connection[Any]


@pytest.fixture(autouse=True)
def _by_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hand, "prefers_release", True)


def released(hand: Hand, *claims: Any, room: int = 5, may_lag: bool = True) -> tasks.Query[tasks.Settled]:
    outcomes = [done(claim) for claim in claims]
    return tasks.release(hand.id, "hand", outcomes, queues=["celery"], room=room, may_lag=may_lag)


def chained(database: Database, *names: str, **fields: Any) -> list[Any]:
    chain = [message(name, inputs="value" if at else None, **fields) for at, name in enumerate(names)]
    database.run(tasks.enqueue(chain, plan(*zip(chain, chain[1:], strict=False))))
    return chain


def test_a_worker_takes_what_it_alone_releases_with_its_inputs(database: Database, hand: Hand, conn: Conn) -> None:
    first, second, third = chained(database, "first", "second", "third")
    (claim,) = hand.claim()

    (taken,) = database.run(released(hand, claim)).claims

    assert (taken.id, taken.delivery, taken.fate, taken.input_values) == (second.id, 1, "live", [b"1"])
    assert taken.has_successors
    assert [standing(conn, each) for each in (first, second, third)] == [["SUCCESS"], ["claimed"], ["waiting"]]


def test_no_more_is_taken_than_there_is_room_for_and_only_from_its_own_queues(database: Database, hand: Hand) -> None:
    first = message()
    after = [message("mine", inputs="none", priority=n) for n in range(3)]
    elsewhere = message("elsewhere", inputs="none", queue="other", priority=9)
    database.run(tasks.enqueue([first, *after, elsewhere], plan(*[(first, each) for each in (*after, elsewhere)])))
    (claim,) = hand.claim()

    taken = database.run(released(hand, claim, room=2)).claims

    assert ids(taken) == [after[2].id, after[1].id]
    assert ids(hand.claim()) == [after[0].id]


def test_a_fenced_release_changes_nothing(database: Database, hand: Hand, conn: Conn) -> None:
    first, second = chained(database, "first", "second")
    (claim,) = hand.claim()

    assert database.run(released(Hand(database), claim)) == ([], [], 0)
    assert database.run(released(hand, claim._replace(delivery=2))) == ([], [], 0)

    assert [standing(conn, each) for each in (first, second)] == [["claimed"], ["waiting"]]


def test_a_result_that_is_there_already_makes_it_refuse_all_and_change_nothing(
    database: Database, hand: Hand, conn: Conn
) -> None:
    """Else the claim would be gone, and with it who could tell the successors."""
    pairs = [chained(database, "first", "second") for _ in range(2)]
    claims = hand.claim()
    database.run(tasks.store(pairs[0][0].id, "REVOKED"))

    with pytest.raises(psycopg.DatabaseError, match="result_pkey"):
        database.run(released(hand, *claims))

    assert [standing(conn, pair[1]) for pair in pairs] == [["waiting"]] * 2
    assert standing(conn, pairs[1][0]) == ["claimed"]


def commit_waits(conn: Conn, database: Database, query: Any) -> bool:
    with conn.transaction(force_rollback=True):
        conn.execute("SET LOCAL synchronous_commit = 'on'")
        database.run(query, conn=conn)
        row = conn.execute("SHOW synchronous_commit").fetchone()
    assert row is not None
    return bool(row[0] == "on")


def test_a_link_of_a_chain_that_is_taken_on_leaves_its_commit_to_the_end_of_the_chain(
    database: Database, hand: Hand, conn: Conn
) -> None:
    chained(database, "first", "second")
    (claim,) = hand.claim()

    assert not commit_waits(conn, database, released(hand, claim))
    assert commit_waits(conn, database, released(hand, claim, may_lag=False))


def test_what_others_are_to_see_is_on_disk_when_they_do(database: Database, hand: Hand, conn: Conn) -> None:
    """A successor that somebody else may run, a result that somebody waits for."""
    chained(database, "first", "second")
    (claim,) = hand.claim()

    assert commit_waits(conn, database, released(hand, claim, room=0))
    conn.execute("INSERT INTO pgtasks.waiter (id, process) VALUES (%s, %s)", [claim.id, hand.id])
    assert commit_waits(conn, database, released(hand, claim))


def test_the_end_of_a_task_that_runs_at_most_once_is_on_disk(database: Database, hand: Hand, conn: Conn) -> None:
    chained(database, "first", "second")
    (claim,) = hand.claim()
    database.run(tasks.ack(hand.id, [claim]))

    assert commit_waits(conn, database, released(hand, claim))
