"""The public SQL functions, and what is told to runs in the transaction of an application: seen when that commits, or never."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from pgtasks.message import id_of
from tests.store.test_borrow import (
    TRANSACTIONS,
    Undo,
    async_alchemy_connection,
    async_alchemy_session,
    async_psycopg,
)
from tests.workflow import flows
from tests.workflow.conftest import Desk


@pytest.fixture(params=TRANSACTIONS, ids=lambda each: each.__name__)
def transaction(request: pytest.FixtureRequest, database_url: str) -> Any:
    return lambda: request.param(database_url)


def suspended(desk: Desk) -> Any:
    result = flows.waiter.delay("go")
    desk.drain()
    assert desk.is_suspended(result)
    return result


def test_a_signal_and_a_cancellation_are_unseen_until_the_callers_commit(desk: Desk, transaction: Any) -> None:
    told, cancelled, revoked = suspended(desk), suspended(desk), flows.add.delay(1, 2)
    with transaction() as (source, _):
        told.signal("go", "on", conn=source)
        cancelled.cancel(conn=source)
        revoked.revoke(conn=source)

        assert [desk.standing(each) for each in (told, cancelled, revoked)] == [["scheduled"], ["scheduled"], ["ready"]]

    desk.drain()
    assert told.get(timeout=0) == "on"
    assert [desk.standing(each) for each in (cancelled, revoked)] == [["REVOKED"], ["REVOKED"]]


def test_a_signal_and_a_cancellation_are_gone_after_the_callers_rollback(desk: Desk, transaction: Any) -> None:
    told, cancelled, revoked = suspended(desk), suspended(desk), flows.add.delay(1, 2)
    with pytest.raises(Undo), transaction() as (source, _):
        told.signal("go", "on", conn=source)
        cancelled.cancel(conn=source)
        revoked.revoke(conn=source)
        raise Undo

    desk.drain()
    assert [desk.standing(each) for each in (told, cancelled)] == [["scheduled"], ["scheduled"]]
    assert revoked.get(timeout=0) == 3


@pytest.mark.parametrize(
    "open_transaction", [async_psycopg, async_alchemy_connection, async_alchemy_session], ids=lambda each: each.__name__
)
def test_coroutines_signal_and_cancel_in_their_own_transactions(
    desk: Desk, database_url: str, open_transaction: Any
) -> None:
    told, cancelled, spared = suspended(desk), suspended(desk), suspended(desk)

    async def tell() -> None:
        async with open_transaction(database_url) as (source, _):
            await told.asignal("go", "on", conn=source)
            await cancelled.acancel(conn=source)
            assert desk.is_suspended(told)
            assert desk.is_suspended(cancelled)
        with pytest.raises(Undo):
            async with open_transaction(database_url) as (source, _):
                await spared.asignal("go", "on", conn=source)
                await spared.acancel(conn=source)
                raise Undo

    asyncio.run(tell())

    desk.drain()
    assert told.get(timeout=0) == "on"
    assert desk.standing(cancelled) == ["REVOKED"]
    assert desk.is_suspended(spared)


def test_a_cancellation_that_is_not_committed_holds_up_no_worker(desk: Desk, database_url: str) -> None:
    result = flows.five.delay(0)
    (claim,) = desk.claim()
    with psycopg.connect(database_url) as source:
        result.cancel(conn=source)

        desk.conn.execute("SET lock_timeout = '5s'")
        desk.settle(desk.run(claim))

    assert result.get(timeout=0) == 5


# -- SQL


def one(desk: Desk, query: str, *values: Any) -> Any:
    row = desk.conn.execute(query.encode(), values).fetchone()
    assert row is not None
    return row[0]


def test_a_task_sent_by_sql_runs_as_any_other(desk: Desk) -> None:
    task = one(desk, "SELECT pgtasks.enqueue('tests.workflow.flows.add', '[1]', '{\"y\": 2}', priority => 5)")

    assert desk.get(flows.app.AsyncResult(str(task))) == 3
    assert task.version == 7
    assert one(desk, "SELECT priority FROM pgtasks.tasks WHERE id = %s", task) == 5


def test_a_task_sent_twice_by_sql_under_one_id_runs_once(desk: Desk) -> None:
    task = id_of("018f0000-0000-7000-8000-000000000001")
    for _ in range(2):
        assert one(desk, "SELECT pgtasks.enqueue('tests.workflow.flows.add', '[1, 2]', id => %s)", task) == task

    assert desk.drain() == 1


def test_a_task_sent_by_sql_waits_until_it_is_due(desk: Desk) -> None:
    due = datetime(2100, 1, 1, tzinfo=UTC)
    task = one(desk, "SELECT pgtasks.enqueue('tests.workflow.flows.add', '[1, 2]', due => %s)", due)

    assert desk.standing(flows.app.AsyncResult(str(task))) == ["scheduled"]


def test_ids_made_by_sql_are_in_the_order_of_time(desk: Desk) -> None:
    made = [one(desk, "SELECT pgtasks.new_id() FROM pg_sleep(0.002)") for _ in range(5)]

    assert made == sorted(made)


@pytest.mark.parametrize("arguments", ["'7'", "'[]', '[]'"])
def test_arguments_of_the_wrong_shape_are_refused_with_what_to_pass(desk: Desk, arguments: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="The arguments of task x are") as refused:
        one(desk, f"SELECT pgtasks.enqueue('x', {arguments})")

    assert refused.value.diag.message_hint == "Pass an array of positional arguments, and an object of keyword arguments."


def test_sql_cancels_a_suspended_run_and_what_it_did_is_undone(desk: Desk) -> None:
    result = flows.undoing.delay(False)
    desk.drain()

    assert one(desk, "SELECT pgtasks.cancel(%s)", result.id) is True
    desk.drain()

    assert desk.standing(result) == ["REVOKED"]
    assert "undo 0" in desk.effects()
    assert one(desk, "SELECT pgtasks.cancel(%s)", result.id) is False


def test_sql_cancels_what_has_not_begun_and_marks_what_runs(desk: Desk) -> None:
    running, queued = flows.five.delay(0), flows.add.delay(1, 2)
    claim = desk.claim(1)[0]

    for result in (running, queued):
        assert one(desk, "SELECT pgtasks.cancel(%s, terminate => true)", result.id) is True

    assert desk.standing(queued)[-1] == "REVOKED"
    assert one(desk, "SELECT revoke_signal FROM pgtasks.claim WHERE id = %s", claim.id) == "SIGTERM"
    assert one(desk, "SELECT count(*) FROM pgtasks.cancelling") == 0


@pytest.mark.parametrize("name", ["018f0000-0000-7000-8000-000000000001", "my own"])
def test_sql_refuses_to_cancel_what_is_not_known(desk: Desk, name: str) -> None:
    with pytest.raises(psycopg.errors.NoDataFound, match=f"No task {name} is known here"):
        one(desk, "SELECT pgtasks.cancel(%s)", name)
