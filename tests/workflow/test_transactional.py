"""Tasks and steps that are committed with their own writes: exactly once, whatever happens around the COMMIT."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pgtasks import Celery, wf
from pgtasks.exceptions import ImproperlyConfigured
from tests.store.test_borrow import _alchemy_url, _django_connection
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


# -- whose transaction it is

SPEND = "UPDATE money SET balance = balance - 5 RETURNING balance"


@contextmanager
def psycopg_source(url: str) -> Iterator[tuple[Any, Any]]:
    yield True, lambda conn: conn.execute(SPEND).fetchone()[0]


@contextmanager
def engine_source(url: str) -> Iterator[tuple[Any, Any]]:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine(_alchemy_url(url))
    yield engine, lambda conn: conn.execute(sqlalchemy.text(SPEND)).scalar_one()
    engine.dispose()


@contextmanager
def session_source(url: str) -> Iterator[tuple[Any, Any]]:
    orm = pytest.importorskip("sqlalchemy.orm")
    with engine_source(url) as (engine, spend):
        yield orm.sessionmaker(engine), spend


@contextmanager
def django_source(url: str) -> Iterator[tuple[Any, Any]]:
    django = pytest.importorskip("django.db")
    conf = pytest.importorskip("django.conf")
    if not conf.settings.configured:
        conf.settings.configure(USE_TZ=True, DATABASES={})

    def spend(conn: Any) -> int:
        with conn.cursor() as cursor:
            cursor.execute(SPEND)
            return int(cursor.fetchone()[0])

    django.connections["default"] = connection = _django_connection(url)
    yield "default", spend
    connection.close()
    del django.connections["default"]


@contextmanager
def async_psycopg_source(url: str) -> Iterator[tuple[Any, Any]]:
    async def spend(conn: Any) -> int:
        return int((await (await conn.execute(SPEND)).fetchone())[0])

    yield True, spend


@contextmanager
def async_engine_source(url: str) -> Iterator[tuple[Any, Any]]:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    extension = pytest.importorskip("sqlalchemy.ext.asyncio")

    async def spend(conn: Any) -> int:
        return int((await conn.execute(sqlalchemy.text(SPEND))).scalar_one())

    # A connection belongs to an event loop, and each task has its own here.
    yield extension.create_async_engine(_alchemy_url(url), poolclass=sqlalchemy.NullPool), spend


@contextmanager
def async_session_source(url: str) -> Iterator[tuple[Any, Any]]:
    extension = pytest.importorskip("sqlalchemy.ext.asyncio")
    with async_engine_source(url) as (engine, spend):
        yield extension.async_sessionmaker(engine), spend


SOURCES = [
    psycopg_source, engine_source, session_source, django_source, async_psycopg_source, async_engine_source,
    async_session_source,
]  # fmt: skip


@pytest.fixture(params=SOURCES, ids=lambda each: each.__name__)
def source(request: pytest.FixtureRequest, database_url: str) -> Iterator[tuple[Any, Any]]:
    with request.param(database_url) as source_and_spend:
        yield source_and_spend


def declared(source: Any, spend: Any) -> tuple[Any, Any]:
    """A transactional task, and a workflow with two transactional steps: that task, and the function itself."""
    if inspect.iscoroutinefunction(spend):

        async def aspending(self: Any) -> int:
            return int(await spend(self.connection))

        async def aflow() -> list[int]:
            return [await task(), await wf.step(spend, transactional=source, name="spend")]

        task = flows.app.task(aspending, name="tx.spend", transactional=source, bind=True, shared=False)
        return task, flows.app.workflow(aflow, name="tx.flow", shared=False)

    def spending(self: Any) -> int:
        return int(spend(self.connection))

    def flow() -> list[int]:
        return [task(), wf.step(spend, transactional=source, name="spend")]

    task = flows.app.task(spending, name="tx.spend", transactional=source, bind=True, shared=False)
    return task, flows.app.workflow(flow, name="tx.flow", shared=False)


@pytest.fixture(autouse=True)
def _no_task_of_a_test_stays() -> Iterator[None]:
    yield
    for name in ("tx.spend", "tx.flow"):
        flows.app.tasks.pop(name, None)


def test_a_task_and_steps_are_committed_with_what_they_wrote(desk: Desk, source: tuple[Any, Any]) -> None:
    task, flow = declared(*source)

    results = [task.delay(), flow.delay()]
    desk.drain()

    assert [result.get(timeout=0) for result in results] == [995, [990, 985]]
    assert balance(desk) == 985


def test_what_a_zombie_wrote_is_rolled_back_whosever_transaction_it_is(desk: Desk, source: tuple[Any, Any]) -> None:
    task, flow = declared(*source)
    results = [task.delay(), flow.delay()]
    claims = desk.claim()
    zombie = desk.hand
    desk.die()
    successor, desk.hand = desk.hand, zombie

    for claim in claims:
        assert desk.run(claim).kind == "gone"

    assert balance(desk) == 1000
    desk.hand = successor
    desk.drain()
    assert [result.get(timeout=0) for result in results] == [995, [990, 985]]


def test_a_step_in_a_coroutine_is_done_once_though_its_worker_dies_after_the_commit(desk: Desk) -> None:
    with async_psycopg_source("") as (source, spend):
        _, flow = declared(source, spend)
    result = flow.delay()
    (claim,) = desk.claim()
    desk.run(claim)
    desk.die()

    assert desk.get(result) == [995, 990]
    assert balance(desk) == 990


def test_a_plain_engine_is_no_use_to_a_coroutine_function(desk: Desk, database_url: str) -> None:
    async def body(self: Any) -> None: ...

    with engine_source(database_url) as (engine, _):
        task = flows.app.task(body, name="tx.spend", transactional=engine, bind=True, shared=False)
        result = task.delay()
        desk.drain()

        with pytest.raises(ImproperlyConfigured, match="no transaction for a coroutine function"):
            result.get(timeout=0)


def test_a_workflow_cannot_be_transactional() -> None:
    with pytest.raises(ImproperlyConfigured, match="Make its steps so"):
        Celery("unfit", set_as_current=False).workflow(
            lambda: 1, name="tx.flow", transactional=True, shared=False, lazy=False
        )
