"""Child tasks and their record: one transaction, one round trip, all or nothing, whatever the network does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import psycopg
import pytest

from pgtasks.message import id_of
from pgtasks.store import tasks, workflows
from pgtasks.store.database import Database
from pgtasks.store.workflows import Hold, Place
from tests.support.hands import message, standing
from tests.support.proxy import FaultProxy
from tests.workflow import flows
from tests.workflow.conftest import Desk


def spawning(hold: Hold) -> tuple[Any, Any]:
    """A child, and the queries that record and send it."""
    child = message()
    adopt = workflows.adopt(hold, Place("delay job", 0, 1), b'{"tasks": [], "result": []}', None, [child.id])
    return child, [adopt, tasks.enqueue([child])]


def held(desk: Desk) -> Hold:
    flows.five.delay(0)
    (claim,) = desk.claim()
    return Hold(claim.id, desk.hand.id, claim.delivery)


def steps(desk: Desk) -> int:
    row = desk.conn.execute("SELECT count(*) FROM pgtasks.step").fetchone()
    assert row is not None
    return int(row[0])


def test_a_child_is_sent_with_its_record(desk: Desk) -> None:
    child, queries = spawning(held(desk))

    assert desk.app.database.run_at_once(*queries)[0] == 1

    assert standing(desk.conn, child) == ["ready"]
    assert steps(desk) == 1


def test_a_run_that_is_lost_sends_no_child_and_the_connection_serves_on(desk: Desk) -> None:
    child, queries = spawning(held(desk)._replace(delivery=7))

    with pytest.raises(Exception, match="is gone") as refused:
        desk.app.database.run_at_once(*queries)

    assert workflows.is_lost(refused.value)
    assert standing(desk.conn, child) == []
    assert steps(desk) == 0
    desk.app.database.ping()


def test_an_error_in_the_second_statement_undoes_the_first(desk: Desk) -> None:
    hold = held(desk)
    _, (adopt, _) = spawning(hold)
    child = message(max_deliveries=10**9)

    with pytest.raises(Exception, match="smallint|out of range|no binary form"):
        desk.app.database.run_at_once(adopt, tasks.enqueue([child, message()]))

    assert steps(desk) == 0
    desk.app.database.ping()


@pytest.mark.parametrize("fault", ["cut_before", "cut_after"])
def test_a_child_whose_record_is_not_answered_is_sent_once(
    desk: Desk, far: Database, proxy: FaultProxy, fault: str
) -> None:
    hold = held(desk)
    child, queries = spawning(hold)
    far.run_at_once(*spawning(hold._replace(run=_other(desk)))[1])  # prepared by now
    sprung = getattr(proxy, fault)(b"INSERT INTO pgtasks.awaited")

    # Sent again after it was done, it is there already: the run adopts it.
    with pytest.raises(psycopg.errors.UniqueViolation) if fault == "cut_after" else nullcontext():
        _unwrapped(lambda: far.run_at_once(*queries))

    assert sprung.is_set()
    assert standing(desk.conn, child) == ["ready"]
    assert steps(desk) == 2


def _unwrapped(call: Callable[[], Any]) -> None:
    """Call, and raise what the database has said."""
    try:
        call()
    except Exception as error:
        raise error.__cause__ or error from None


def _other(desk: Desk) -> Any:
    result = flows.inline.delay(1)
    desk.claim()
    return id_of(result.id)


def test_a_child_costs_one_round_trip(desk: Desk, proxy: FaultProxy, far: Database) -> None:
    hold = held(desk)
    far.run_at_once(*spawning(hold._replace(run=_other(desk)))[1])
    waits: list[Any] = []
    own = far._idle[0]
    wait = own.wait
    own.wait = lambda gen, *rest, **named: (waits.append(1), wait(gen, *rest, **named))[1]  # type: ignore[method-assign]

    far.run_at_once(*spawning(hold)[1])

    assert len(waits) == 1


# -- calls that other tasks may stand for


def children(desk: Desk, name: str) -> int:
    row = desk.conn.execute("SELECT count(*) FROM pgtasks.message WHERE name = %s", [name]).fetchone()
    assert row is not None
    return int(row[0])


def test_a_unique_child_is_made_once_however_often_the_run_is_replayed(desk: Desk) -> None:
    result = flows.packing.delay(7)

    assert desk.get(result) == 7
    assert children(desk, flows.packed.name) == 1
    assert desk.effects() == ["packed"]


def test_a_task_that_is_there_stands_for_a_unique_child_and_is_not_cancelled_with_the_run(desk: Desk) -> None:
    there = flows.packed.apply_async((7,), countdown=60)
    result = flows.packing.delay(7)
    desk.drain()
    assert desk.is_suspended(result)
    revoked = flows.packing.delay(7)
    desk.drain()
    revoked.revoke()
    desk.drain()
    assert standing(desk.conn, id_of(there.id)) == ["scheduled"]

    desk.travel(61)

    assert desk.get(there) == 7
    desk.travel(11)  # it is looked for, since its end tells nobody
    assert desk.get(result) == 7
    assert children(desk, flows.packed.name) == 1


@pytest.mark.parametrize("flow", [flows.insisting_on_packing, flows.packing_in_a_canvas], ids=lambda flow: flow.name)
def test_the_refusal_of_a_unique_child_stands_though_the_key_is_free_in_the_replay(desk: Desk, flow: Any) -> None:
    task = flows.packed if flow is flows.packing_in_a_canvas else flows.packed_by_one
    there = task.apply_async((7,), countdown=30)
    result = flow.delay(7)
    desk.drain()
    assert desk.is_suspended(result)

    desk.travel(61)
    desk.drain()

    assert desk.get(there) == 7
    assert desk.get(result) == "somebody else packs"
    assert children(desk, task.name) == 1


def test_unique_children_in_bulk_are_made_once_and_one_stands_for_its_equals(desk: Desk) -> None:
    result = flows.packing_many.delay([1, 2, 1])

    assert desk.get(result) == [1, 2, 1]
    assert children(desk, flows.packed.name) == 2


def test_a_canvas_with_a_unique_task_that_nobody_has_sent_is_made_once(desk: Desk) -> None:
    result = flows.packing_in_a_canvas.delay(7)

    assert desk.get(result) == 8
    assert children(desk, flows.packed.name) == 1


def test_debounced_children_become_one_with_the_last_words(desk: Desk) -> None:
    result = flows.indexing.delay()
    desk.drain()
    desk.travel(1)
    desk.drain()
    desk.travel(11)

    assert desk.get(result) == [2, 2, 2]
    assert children(desk, flows.indexed.name) == 1


def test_a_unique_child_whose_record_is_not_answered_is_made_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    transact = desk.app.database.transact

    def unanswered(work: Any) -> Any:
        transact(work)
        return transact(work)  # it is sent once more, and is there already

    monkeypatch.setattr(desk.app.database, "transact", unanswered)
    result = flows.packing.delay(7)

    assert desk.get(result) == 7
    assert children(desk, flows.packed.name) == 1
