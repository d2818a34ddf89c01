"""Child tasks and their record: one transaction, one round trip, all or nothing, whatever the network does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


@pytest.fixture
def proxy(database_url: str) -> Iterator[FaultProxy]:
    with FaultProxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def far(proxy: FaultProxy) -> Iterator[Database]:
    """An executor that reaches the database through the proxy."""
    far = Database(proxy.url)
    far.ping()
    yield far
    far.close()


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
