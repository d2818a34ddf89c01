"""Two at once: a takeover, a revocation or an old snapshot in the middle of what a run does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgtasks.message import id_of
from pgtasks.store import fleet, workflows
from pgtasks.store.workflows import Hold, Place, Step
from pgtasks.workflow import operations
from tests.workflow import flows
from tests.workflow.conftest import Desk


@pytest.fixture
def other(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Somebody else's connection, with transactions."""
    with psycopg.connect(database_url) as conn:
        yield conn


def test_a_signal_that_a_worker_takes_as_it_loses_the_run_is_known_to_the_next_one(
    desk: Desk, other: psycopg.Connection[Any]
) -> None:
    result = flows.waiter.delay("go")
    result.signal("go", "went")
    (claim,) = desk.claim()
    place = Place("wait go", 0, 2)
    hold = Hold(claim.id, desk.hand.id, claim.delivery)
    receive = workflows.receive(hold, Step(place=place, kind="wait"), ("go",), ())

    taken = desk.app.database.run(receive, other)  # and does not come to its commit
    desk.die()
    assert desk.claim() == []  # nobody can have it before that is known
    other.commit()
    desk.app.database.run(fleet.reap())

    assert taken is not None
    assert desk.get(result) == "went"


def test_a_worker_that_lost_the_run_takes_no_signal(desk: Desk) -> None:
    result = flows.waiter.delay("go")
    result.signal("go", "went")
    (claim,) = desk.claim()
    hold = Hold(claim.id, desk.hand.id, claim.delivery)
    desk.die()

    receive = workflows.receive(hold, Step(place=Place("wait go", 0, 2), kind="wait"), ("go",), ())
    assert desk.app.database.run(receive) is None

    assert desk.get(result) == "went"


def test_a_worker_that_lost_the_run_does_not_let_go_of_what_it_awaits(desk: Desk) -> None:
    result = flows.with_children.delay("g")
    desk.turn()
    ((task,),) = desk.conn.execute("SELECT task FROM pgtasks.awaited").fetchall()
    desk.conn.execute("INSERT INTO pgtasks.result (id, state, value) VALUES (%s, 'SUCCESS', '1')", [task])

    collect = workflows.collect(Hold(id_of(result.id), desk.hand.id, 9), [Place("get", 0, 2)], [task])

    assert desk.app.database.run(collect) is None
    assert desk.conn.execute("SELECT count(*) FROM pgtasks.awaited").fetchone() == (1,)


@pytest.mark.parametrize("isolation", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE])
def test_a_signal_from_an_old_snapshot_wakes_the_run_or_fails_and_is_not_slept_through(
    desk: Desk, other: psycopg.Connection[Any], isolation: psycopg.IsolationLevel
) -> None:
    other.isolation_level = isolation
    result = flows.waiter.delay("go")
    other.execute("SELECT count(*) FROM pgtasks.scheduled")  # the snapshot: the run does not wait yet
    desk.drain()
    assert desk.is_suspended(result)

    result.signal("go", "lost?", conn=other)
    with pytest.raises(psycopg.errors.SerializationFailure, match="suspended after this transaction began"):
        other.commit()
    other.rollback()
    result.signal("go", "went", conn=other)  # as for every such failure: once more
    other.commit()

    assert desk.get(result) == "went"


def test_a_signal_from_an_old_snapshot_to_a_run_that_does_not_wait_is_kept_for_its_wait(
    desk: Desk, other: psycopg.Connection[Any]
) -> None:
    other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    result = flows.waiter.delay("go")
    result.signal("go", "went", conn=other)
    other.commit()

    assert desk.get(result) == "went"


def test_a_run_that_is_claimed_in_the_moment_of_its_revocation_is_undone_and_not_left_asleep(
    desk: Desk, other: psycopg.Connection[Any]
) -> None:
    result = flows.undoing.delay(False)
    other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    other.execute("SELECT count(*) FROM pgtasks.claim")  # the snapshot of the revocation: nobody has it
    (claim,) = desk.claim()
    other.execute("SELECT pgtasks.revoke(ARRAY[%s::uuid], 'null', '')", [claim.id])
    other.commit()

    desk.settle(desk.run(claim))
    desk.drain()

    assert desk.effects() == ["do 0", "do 1", "do 2", "undo 2", "undo 1", "undo 0"]
    assert desk.standing(result) == ["REVOKED"]


# -- which wait has taken which signal


def run_of_two_waits(desk: Desk) -> Any:
    result = flows.waiting_twice.delay()
    result.signal("packed", "first")
    result.signal("packed", "second")
    desk.drain()
    return result


def test_a_fork_between_two_waits_has_the_signal_of_the_second_and_not_of_the_first(desk: Desk) -> None:
    result = run_of_two_waits(desk)

    copy = flows.app.AsyncResult(operations.fork(flows.app, result.id, "wf.wait_any"))
    copy.signal("end")

    assert desk.get(copy) == ["first", "second"]


def test_a_rewind_between_two_waits_gives_back_the_signal_of_the_second_and_not_of_the_first(desk: Desk) -> None:
    result = run_of_two_waits(desk)

    operations.rewind(flows.app, result.id, "wf.wait_any")
    result.signal("end")

    assert desk.get(result) == ["first", "second"]
    assert desk.conn.execute("SELECT count(*) FROM pgtasks.signal WHERE ordinal IS NULL").fetchone() == (0,)


def test_a_run_that_begins_anew_keeps_no_rows_of_the_children_it_left(desk: Desk) -> None:
    result = flows.leaving_a_child_behind.delay()
    for answer in ("again", "again", "stop"):
        result.signal("how", answer)

    assert desk.get(result) == "done"
    assert desk.conn.execute("SELECT count(*) FROM pgtasks.awaited").fetchone() == (1,)
