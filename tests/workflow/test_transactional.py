"""Tasks and steps that are committed with their own writes: exactly once, whatever happens around the COMMIT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgtasks import Celery
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.message import id_of
from tests.support.proxy import FaultProxy
from tests.workflow import flows
from tests.workflow.conftest import Desk


@pytest.fixture(autouse=True)
def money(conn: psycopg.Connection[Any]) -> Iterator[None]:
    conn.execute(
        "CREATE TABLE money (account text, balance int NOT NULL DEFAULT 0,"
        " CONSTRAINT one_account UNIQUE (account) DEFERRABLE INITIALLY DEFERRED)"
    )
    conn.execute("INSERT INTO money VALUES ('ann', 1000)")
    yield
    conn.execute("DROP TABLE money")


def balance(desk: Desk) -> int:
    row = desk.conn.execute("SELECT balance FROM money WHERE account = 'ann'").fetchone()
    assert row is not None
    return int(row[0])


def test_a_transactional_task_is_settled_with_its_writes(desk: Desk) -> None:
    result = flows.debit.delay("ann", 1)
    (claim,) = desk.claim()

    outcome = desk.run(claim)

    assert outcome.kind == "gone"  # there is nothing left for the worker to say
    assert desk.standing(result) == ["SUCCESS"]
    assert result.get(timeout=0) == 999
    assert balance(desk) == 999


def test_a_worker_that_lost_the_task_cannot_commit_what_it_wrote(desk: Desk) -> None:
    result = flows.debit.delay("ann", 1)
    (claim,) = desk.claim()
    zombie = desk.hand
    desk.die()
    desk.hand, successor = zombie, desk.hand

    desk.run(claim)

    assert balance(desk) == 1000
    desk.hand = successor
    assert desk.get(result) == 999
    assert balance(desk) == 999


def test_a_worker_that_dies_after_the_commit_has_done_it_once(desk: Desk) -> None:
    result = flows.debit.delay("ann", 1)
    (claim,) = desk.claim()
    desk.run(claim)
    desk.die()

    assert desk.get(result) == 999
    assert len(desk.stage.lines("debited")) == 1


def test_a_failure_rolls_the_writes_back(desk: Desk) -> None:
    result = flows.overdraw.delay("ann")

    with pytest.raises(flows.Refused):
        desk.get(result)
    assert balance(desk) == 1000


def test_a_rule_that_is_broken_at_the_commit_fails_the_task(desk: Desk) -> None:
    result = flows.break_rule.delay("ann")

    with pytest.raises(Exception, match="one_account"):
        desk.get(result)
    assert balance(desk) == 1000


@pytest.fixture
def proxy(desk: Desk, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """What the app's connections go through."""
    with FaultProxy(database_url) as proxy:
        flows.app._close_parts()
        monkeypatch.setenv("PGTASKS_DATABASE_URL", proxy.url)
        desk.hand.database = flows.app.database
        yield proxy
        flows.app._close_parts()


@pytest.mark.parametrize("is_done", [True, False], ids=["done", "not done"])
def test_a_commit_whose_answer_is_lost_is_not_done_twice(desk: Desk, proxy: FaultProxy, is_done: bool) -> None:
    result = flows.debit.delay("ann", 1)
    (claim,) = desk.claim()
    sprung = proxy.cut_after(b"COMMIT") if is_done else proxy.cut_before(b"COMMIT")

    outcome = desk.run(claim)

    assert sprung.is_set()
    assert outcome.kind == ("gone" if is_done else "back")
    desk.settle(outcome)
    desk.travel(2)
    assert desk.get(result) == 999
    assert balance(desk) == 999


def test_the_steps_of_a_workflow_are_committed_with_their_writes(desk: Desk) -> None:
    result = flows.paying.delay("ann", 3)
    (claim,) = desk.claim()
    desk.run(claim)
    desk.die()
    desk.drain()

    result.signal("more")

    assert desk.get(result) == [999, 998, 997, 1097]
    assert balance(desk) == 1097
    assert len(desk.stage.lines("debited")) == 3


@pytest.mark.parametrize("is_done", [True, False], ids=["done", "not done"])
def test_a_step_whose_commit_is_not_answered_is_done_once(desk: Desk, proxy: FaultProxy, is_done: bool) -> None:
    result = flows.paying.delay("ann", 3)
    (claim,) = desk.claim()
    cut = proxy.cut_after if is_done else proxy.cut_before
    sprung = cut(b"COMMIT", skip=1)

    desk.settle(desk.run(claim))

    assert sprung.is_set()
    desk.travel(2)
    result.signal("more")
    assert desk.get(result) == [999, 998, 997, 1097]
    assert balance(desk) == 1097


def test_a_zombie_cannot_commit_a_step(desk: Desk) -> None:
    result = flows.paying.delay("ann", 1)
    (claim,) = desk.claim()
    zombie = desk.hand
    desk.die()
    desk.hand, successor = zombie, desk.hand

    assert desk.run(claim).kind == "gone"

    assert balance(desk) == 1000
    desk.hand = successor
    result.signal("more")
    assert desk.get(result) == [999, 1099]


def test_sessions_of_sqlalchemy_are_committed_with_the_task(desk: Desk, database_url: str) -> None:
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import sessionmaker

    def move(self: Any) -> int:
        return int(
            self.connection.execute(text("UPDATE money SET balance = balance - 5 RETURNING balance")).scalar_one()
        )

    engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    tasks = [
        flows.app.task(move, name=f"move.{kind}", transactional=source, bind=True, shared=False)
        for kind, source in (("engine", engine), ("session", sessionmaker(engine)))
    ]

    results = [task.delay() for task in tasks]
    desk.drain()

    assert [result.get(timeout=0) for result in results] == [995, 990]
    assert balance(desk) == 990
    assert desk.conn.execute(
        "SELECT count(*) FROM pgtasks.result WHERE id = ANY (%s)", [[id_of(r.id) for r in results]]
    ).fetchone() == (2,)
    engine.dispose()


def test_a_coroutine_function_cannot_be_transactional() -> None:
    async def body() -> None: ...

    with pytest.raises(ImproperlyConfigured, match="coroutine function"):
        Celery("unfit", set_as_current=False).task(body, name="tx.async", transactional=True, shared=False, lazy=False)


def test_a_workflow_cannot_be_transactional() -> None:
    with pytest.raises(ImproperlyConfigured, match="Make its steps so"):
        Celery("unfit", set_as_current=False).workflow(
            lambda: 1, name="tx.flow", transactional=True, shared=False, lazy=False
        )
