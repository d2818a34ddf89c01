"""The verb `pass_on`: a link of a chain goes to the next one, and whatever is no such link is left to `release`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgtasks.message import Message
from pgtasks.store import tasks
from pgtasks.store.database import Database
from pgtasks.store.sql import Query
from tests.store.test_release import chained, commit_waits
from tests.support.hands import Hand, done, message, standing
from tests.support.links import plan

Conn = psycopg.Connection[Any]


def passed_on(hand: Hand, claim: Any, *, may_lag: bool = True, **fields: Any) -> Query[tasks.Settled | None]:
    return tasks.pass_on(hand.id, "hand", done(claim)._replace(**fields), queues=["celery"], may_lag=may_lag)


def test_the_next_link_is_taken_with_the_value_of_the_one_before(database: Database, hand: Hand, conn: Conn) -> None:
    first, second, third = chained(database, "first", "second", "third")
    (claim,) = hand.claim()

    settled = database.run(passed_on(hand, claim))

    assert settled is not None
    assert settled.ended == [first.id]
    (taken,) = settled.claims
    assert (taken.id, taken.delivery, taken.fate, taken.input_values) == (second.id, 1, "live", [b"1"])
    assert (taken.input_states, taken.has_successors) == (["SUCCESS"], True)
    assert [standing(conn, each) for each in (first, second, third)] == [["SUCCESS"], ["claimed"], ["waiting"]]


def test_what_it_gives_and_leaves_is_what_release_gives_and_leaves(
    database: Database, hand: Hand, conn: Conn
) -> None:
    stored: dict[str, Any] = {"value": b"\x80", "content_type": "application/x-python-serialize", "content_encoding": "binary"}
    seen = []
    for verb in ("release", "pass_on"):
        chained(database, "first", "second", "third", queue="celery", priority=3)
        (claim,) = hand.claim()
        outcome = done(claim)._replace(**stored, hidden=True, children=b"[]")
        query: Any = tasks.pass_on(hand.id, "hand", outcome, queues=["celery"], may_lag=True)
        if verb == "release":
            query = tasks.release(hand.id, "hand", [outcome], queues=["celery"], room=1, may_lag=True)
        settled = database.run(query)
        assert settled is not None
        assert settled.ended == [claim.id]
        (taken,) = settled.claims
        result = conn.execute(
            "SELECT state, worker, content_type, content_encoding, value, hidden, children, retries, delivery,"
            " claimed_at IS NOT NULL FROM pgtasks.result WHERE id = %s", [claim.id]
        ).fetchone()  # fmt: skip
        claimed = conn.execute(
            "SELECT retries, delivery, losses, acked, worker FROM pgtasks.claim WHERE id = %s", [taken.id]
        ).fetchone()
        pending = conn.execute("SELECT pending FROM pgtasks.waiting WHERE id = %s", [taken.id]).fetchone()
        of_its_own = {"id": None, "root": None, "parent": None, "expires": None, "own_due": None}
        seen.append((taken._replace(**{k: v for k, v in of_its_own.items() if k in taken._fields}), result, claimed, pending))

    assert seen[0] == seen[1]


Odd = Callable[[Database, Hand], list[Message]]


def _two_that_wait_for_it(database: Database, hand: Hand) -> list[Message]:
    first, *after = message("first"), message("a", inputs="value"), message("b", inputs="value")
    database.run(tasks.enqueue([first, *after], plan(*[(first, each) for each in after])))
    return [first, *after]


def _two_of_which_one_is_ready(database: Database, hand: Hand) -> list[Message]:
    first, next_, other, body = message("first"), message("a", inputs="value"), message("b"), message("c", inputs="none")
    edges = plan((first, next_), (first, body), (other, body))
    database.run(tasks.enqueue([first, next_, other, body], edges))
    return [first, next_]


def _one_that_waits_for_another_too(database: Database, hand: Hand) -> list[Message]:
    first, other, body = message("first"), message("other", priority=-1), message("body", inputs="list")
    database.run(tasks.enqueue([first, other, body], plan((first, body), (other, body))))
    return [first, body]


def _a_body_that_wants_a_list(database: Database, hand: Hand) -> list[Message]:
    first, body = message("first"), message("body", inputs="list")
    database.run(tasks.enqueue([first, body], plan((first, body))))
    return [first, body]


def _somebody_waits_for_it(database: Database, hand: Hand) -> list[Message]:
    chain = chained(database, "first", "second")
    with psycopg.connect(database.url, autocommit=True) as conn:
        conn.execute("INSERT INTO pgtasks.waiter (id, process) VALUES (%s, %s)", [chain[0].id, hand.id])
    return chain


def _with(**fields: Any) -> Odd:
    def odd(database: Database, hand: Hand) -> list[Message]:
        first, second = message("first"), message("second", inputs="value", **fields)
        database.run(tasks.enqueue([first, second], plan((first, second))))
        return [first, second]

    return odd


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(_two_that_wait_for_it, id="two that wait for it"),
        pytest.param(_two_of_which_one_is_ready, id="two of which one is ready"),
        pytest.param(_one_that_waits_for_another_too, id="one that waits for another too"),
        pytest.param(_a_body_that_wants_a_list, id="a body that wants a list"),
        pytest.param(_somebody_waits_for_it, id="somebody waits for it"),
        pytest.param(_with(trigger="all_done"), id="a trigger"),
        pytest.param(_with(countdown_s=60.0), id="a countdown"),
        pytest.param(_with(due=datetime.now(UTC) + timedelta(hours=1)), id="a due time"),
        pytest.param(_with(queue="elsewhere"), id="a queue of others"),
    ],
)
def test_what_is_no_link_is_left_to_release(database: Database, hand: Hand, conn: Conn, odd: Odd) -> None:
    first, *after = odd(database, hand)
    (claim,) = [each for each in hand.claim() if each.id == first.id]

    assert database.run(passed_on(hand, claim)) is None

    assert [standing(conn, each) for each in (first, *after)] == [["claimed"], *[["waiting"]] * len(after)]


def test_the_end_of_a_chain_and_a_claim_of_somebody_else_are_left_alone(
    database: Database, hand: Hand, conn: Conn
) -> None:
    first, second = chained(database, "first", "second")
    (claim,) = hand.claim()

    assert database.run(passed_on(Hand(database), claim)) is None
    assert database.run(passed_on(hand, claim, delivery=2)) is None
    assert [standing(conn, each) for each in (first, second)] == [["claimed"], ["waiting"]]

    settled = database.run(passed_on(hand, claim))
    assert settled is not None
    assert database.run(passed_on(hand, settled.claims[0])) is None
    assert database.run(passed_on(hand, claim)) is None


def test_a_result_that_is_there_already_makes_it_refuse(database: Database, hand: Hand, conn: Conn) -> None:
    first, second = chained(database, "first", "second")
    (claim,) = hand.claim()
    database.run(tasks.store(first.id, "REVOKED"))

    with pytest.raises(psycopg.DatabaseError, match="result_pkey"):
        database.run(passed_on(hand, claim))

    assert standing(conn, second) == ["waiting"]


def test_its_commit_waits_for_the_disk_only_where_it_must(database: Database, hand: Hand, conn: Conn) -> None:
    chained(database, "first", "second")
    (claim,) = hand.claim()

    assert not commit_waits(conn, database, passed_on(hand, claim))
    assert commit_waits(conn, database, passed_on(hand, claim, may_lag=False))

    conn.execute("UPDATE pgtasks.claim SET acked = true")  # one that runs at most once
    assert commit_waits(conn, database, passed_on(hand, claim))


def test_a_successor_that_is_revoked_at_the_same_time_is_revoked_or_taken_and_never_both(
    database: Database, hand: Hand, conn: Conn
) -> None:
    for _ in range(20):
        first, second = chained(database, "first", "second")
        (claim,) = hand.claim()
        revoke = threading.Thread(target=database.run, args=[tasks.revoke([second.id], b"{}")])
        revoke.start()
        settled = database.run(passed_on(hand, claim)) or database.run(
            tasks.release(hand.id, "hand", [done(claim)], queues=["celery"], room=1, may_lag=False)
        )
        revoke.join()

        assert settled.ended == [first.id]
        # One that was revoked while it waited is ready, for the next claim to drop.
        again = hand.claim()
        assert [each.fate for each in settled.claims or again] in (["live"], ["revoked"])
        assert len([*settled.claims, *again]) == 1
        hand.settle(*[done(each) for each in settled.claims])
        conn.execute("DELETE FROM pgtasks.claim")
