"""What a task may say of its flow, what a call may, and what is refused where it is said."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgtasks import Celery, Debounce, Flow, Unique, chain, group, signals
from pgtasks.app.flows import declared_flows
from pgtasks.exceptions import AlreadyEnqueued, ImproperlyConfigured
from pgtasks.store import flows, tasks
from pgtasks.store.database import OwnConnection

Conn = psycopg.Connection[Any]


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    app = Celery("flows", broker=database_url, set_as_current=False)
    yield app
    app.close()


def held(conn: Conn) -> list[tuple[str, str]]:
    return conn.execute("SELECT flow, key FROM pgtasks.held ORDER BY seq").fetchall()


# -- declaring


@pytest.mark.parametrize(
    ("declare", "complaint"),
    [
        (lambda: Flow(), "limits nothing"),
        (lambda: Flow(concurrency=0), "concurrency=.* is 0: it must be a whole number, 1 or more"),
        (lambda: Flow(concurrency=True), "is True"),
        (lambda: Flow(concurrency="3"), "is '3'"),  # type: ignore[arg-type]
        (lambda: Flow(rate="fast"), "rate 'fast' is not understood: write '10/s'"),
        (lambda: Flow(rate="0/s"), "from 1 to 10000"),
        (lambda: Flow(rate="5/0s"), "longer than nothing"),
        (lambda: Flow(rate="100000/d"), "count in a shorter period"),
        (lambda: Flow(rate=5), "rate 5 is not understood"),  # type: ignore[arg-type]
        (lambda: Flow(total_concurrency=3), "without a key"),
        (lambda: Flow(key=3, concurrency=1), "key=3"),  # type: ignore[arg-type]
        (lambda: Flow(key=(), concurrency=1), r"key=\(\)"),
        (lambda: Flow("", concurrency=1), "name ''"),
        (lambda: Flow("queue:mail", concurrency=1), "does not begin with 'queue:'"),
        (lambda: Unique(until="never"), "'ended' or 'begun'"),  # type: ignore[arg-type]
        (lambda: Unique(period=-1), "period=.* is -1"),
        (lambda: Unique(until="begun", period=5), "Leave one of them out"),
        (lambda: Unique(on_conflict="shrug"), "'return' or 'raise'"),  # type: ignore[arg-type]
        (lambda: Debounce(0), "is 0: give seconds"),
        (lambda: Debounce(30, max_wait=10), "shorter than the wait"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_where_it_is_said(declare: Any, complaint: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=complaint):
        declare()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"flow": Flow(key="nobody", concurrency=1)}, "no argument 'nobody' for its flow key. Its arguments are: a, b"),
        ({"unique": Unique(("a", "c"))}, "no argument 'c' for its unique key"),
        ({"debounce": Debounce(1, key="c.d")}, "no argument 'c' for its debounce key"),
        ({"flow": 3}, "use Flow"),
        ({"unique": 3}, "use True, Unique"),
        ({"debounce": "soon"}, "use seconds, or Debounce"),
        ({"unique": True, "debounce": 3}, "only one of them"),
    ],
)
def test_what_a_task_cannot_mean_is_refused_where_it_is_declared(
    app: Celery, options: dict[str, Any], complaint: str
) -> None:
    def work(a: Any, b: Any = 2) -> None: ...

    with pytest.raises(ImproperlyConfigured, match=complaint):
        app.task(name="work", **options)(work).bind(app)


def test_tasks_that_share_a_flow_must_agree_on_its_limits(app: Celery) -> None:
    shared = Flow("bank", concurrency=2)
    for name in ("one", "two"):
        app.task(name=name, flow=shared)(lambda: None).bind(app)
    assert declared_flows(app)["bank"] == shared

    app.task(name="three", flow=Flow("bank", concurrency=3))(lambda: None).bind(app)

    with pytest.raises(ImproperlyConfigured, match="Flow 'bank' has"):
        declared_flows(app)


# -- keys


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("key", "args", "kwargs", "expected"),
    [
        ("tenant", ("a", 1), {}, "a"),
        ("tenant", (), {"tenant": "a", "order": 1}, "a"),
        ("order", ("a",), {}, "7"),  # the default
        ("order.id", ("a", {"id": 3}), {}, "3"),
        (("tenant", "order"), ("a", 1), {}, '["a", 1]'),
        (lambda tenant, order: tenant.upper(), ("a", 1), {}, "A"),
        ("tenant", (UUID(int=5),), {}, str(UUID(int=5))),
        ("tenant", (Decimal("1.50"),), {}, "1.50"),
        ("tenant", (date(2026, 1, 2),), {}, "2026-01-02"),
        ("tenant", (Colour.RED,), {}, "red"),
        ("tenant", (None,), {}, "null"),
        ("tenant", ("x" * 300,), {}, None),
    ],
)
def test_a_key_is_the_same_text_however_the_arguments_are_passed(
    app: Celery, key: Any, args: Any, kwargs: Any, expected: str | None
) -> None:
    @app.task(flow=Flow(key=key, concurrency=1))
    def work(tenant: Any, order: Any = 7) -> None: ...

    found = work.flow.key_of(work, args, kwargs)

    assert found == expected if expected is not None else found.startswith("sha256 ")


def test_a_bound_task_has_its_key_from_what_its_callers_pass(app: Celery, conn: Conn) -> None:
    @app.task(bind=True, name="bound", flow=Flow(key="tenant", concurrency=1))
    def work(self: Any, tenant: str) -> None: ...

    work.delay("a")

    assert held(conn) == [("bound", "a")]


@pytest.mark.parametrize(
    ("key", "arg", "error", "complaint"),
    [
        ("tenant", object(), TypeError, "which is no key"),
        ("tenant", b"raw", TypeError, "a bytes has no such form"),
        ("tenant", "a\0b", ValueError, "NUL"),
        ("tenant.id", {"no": 1}, ValueError, "has no 'id'"),
        (lambda tenant: 1 / 0, "a", ZeroDivisionError, "division"),
    ],
)
def test_a_key_that_cannot_be_made_is_an_error_of_the_call(
    app: Celery, conn: Conn, key: Any, arg: Any, error: type[Exception], complaint: str
) -> None:
    @app.task(flow=Flow(key=key, concurrency=1), serializer="pickle")
    def work(tenant: Any) -> None: ...

    with pytest.raises(error, match=complaint):
        work.delay(arg)

    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (0,)


def test_a_call_may_have_a_key_of_its_own(app: Celery, conn: Conn) -> None:
    @app.task(name="work", flow=Flow(key="tenant", concurrency=1))
    def work(tenant: str) -> None: ...

    work.apply_async(("a",), flow_key="other")
    group(work.s("b").set(flow_key="other"), work.s("c"))()

    assert held(conn) == [("work", "other"), ("work", "other"), ("work", "c")]


def test_a_key_for_a_task_without_a_flow_is_refused(app: Celery) -> None:
    @app.task
    def work() -> None: ...

    with pytest.raises(ImproperlyConfigured, match="has no flow"):
        work.apply_async(flow_key="a")
    with pytest.raises(ImproperlyConfigured, match="not registered here"):
        app.send_task("elsewhere", unique=True)


def test_tasks_without_limits_go_the_way_they_always_went(app: Celery, conn: Conn) -> None:
    @app.task
    def work() -> None: ...

    work.delay()

    assert held(conn) == []
    assert conn.execute("SELECT count(*) FROM pgtasks.ready").fetchone() == (1,)


# -- unique


def test_a_second_call_gives_the_first_ones_result_in_every_way_to_call(app: Celery, conn: Conn) -> None:
    @app.task(unique="order")
    def work(order: int, note: str = "") -> None: ...

    first = work.delay(1)
    assert work.delay(1, "again").id == first.id
    assert work.apply_async((1,), countdown=60).id == first.id
    assert [result.id for result in work.delay_many([1, 1])] == [first.id, first.id]
    assert work.apply_async((1,), unique=False).id != first.id
    assert work.apply_async((1,), unique=Unique("note")).id != first.id
    assert work.delay(2).id != first.id

    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (4,)


def test_uniqueness_is_part_of_the_callers_transaction(app: Celery, database_url: str, conn: Conn) -> None:
    @app.task(unique=True)
    def work(order: int) -> None: ...

    with psycopg.connect(database_url) as mine:
        first = work.apply_async((1,), conn=mine)
        assert work.apply_async((1,), conn=mine).id == first.id
        mine.rollback()

    second = work.delay(1)
    assert second.id != first.id
    with psycopg.connect(database_url) as mine:
        assert work.apply_async((1,), conn=mine).id == second.id
    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (1,)


@pytest.fixture
def sent(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the statements that go to the database."""
    names: list[str] = []
    run = OwnConnection.run

    def noted(own: OwnConnection, query: Any) -> Any:
        names.append(query.statement.name)
        return run(own, query)

    monkeypatch.setattr(OwnConnection, "run", noted)
    return names


def many_in_each_way(work: Any, how: str, conn: Conn) -> list[str]:
    """Ten calls, half of which have a key that another one of them has, and one that of a task before them."""
    calls = [(n // 2,) for n in range(10)]
    match how:
        case "plainly":
            results = work.delay_many(calls)
        case "by a coroutine":
            results = asyncio.run(work.adelay_many(calls))
        case _:
            with conn.transaction():
                results = work.apply_async_many([(args, {}) for args in calls], conn=conn)
    return [result.id for result in results]


@pytest.mark.parametrize("how", ["plainly", "by a coroutine", "in a transaction"])
def test_many_unique_calls_go_together_and_each_gets_the_task_that_stands_for_it(
    app: Celery, conn: Conn, sent: list[str], how: str
) -> None:
    @app.task(unique=True, name="work")
    def work(order: int) -> None: ...

    first = work.delay(3)
    sent.clear()

    ids = many_in_each_way(work, how, conn)

    assert ids[6] == ids[7] == first.id
    assert [ids[n] == ids[n + 1] for n in range(0, 10, 2)] == [True] * 5
    assert len(set(ids)) == 5
    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (5,)
    assert sent == ([] if how == "in a transaction" else ["take_each", "enqueue"])
    assert [result.id for result in work.delay_many(range(5))] == ids[::2], "all are taken now"


def test_of_many_unique_calls_those_that_are_another_task_are_not_announced(app: Celery) -> None:
    @app.task(unique=True, name="work")
    def work(order: int) -> None: ...

    announced: list[str] = []
    noted = lambda headers=None, **_: announced.append(headers["id"])  # noqa: E731
    signals.after_task_publish.connect(noted)
    try:
        first = work.delay(0)
        results = work.delay_many([0, 1, 1])
    finally:
        signals.after_task_publish.disconnect(noted)

    assert announced == [first.id, results[1].id]


def test_many_calls_that_ask_for_an_error_are_all_sent_or_none_and_take_no_keys(app: Celery, conn: Conn) -> None:
    @app.task(unique=Unique(on_conflict="raise"), name="work")
    def work(order: int) -> None: ...

    first = work.delay(2)

    with pytest.raises(AlreadyEnqueued) as raised:
        work.delay_many(range(4))
    with pytest.raises(AlreadyEnqueued), conn.transaction():
        work.apply_async_many([((n,), {}) for n in range(4)], conn=conn)

    assert raised.value.task_id == first.id
    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (1,)
    assert len(set(work.delay_many([0, 1, 3]).results)) == 3


def test_debounced_calls_in_bulk_still_become_the_one_that_waits(app: Celery, conn: Conn) -> None:
    @app.task(debounce=Debounce(30, key="document"))
    def index(document: str, version: int) -> None: ...

    results = index.delay_many([("a", 1), ("a", 2), ("b", 1)])

    assert results[0].id == results[1].id != results[2].id
    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (2,)


async def _twice(work: Any) -> list[str]:
    return [(await work.adelay(1)).id, (await work.adelay(1)).id]


def test_coroutines_get_the_first_ones_result_too(app: Celery) -> None:
    @app.task(unique=True)
    def work(order: int) -> None: ...

    first, second = asyncio.run(_twice(work))

    assert first == second


def test_a_call_may_ask_for_an_error_instead(app: Celery) -> None:
    @app.task(unique=Unique(on_conflict="raise"))
    def work() -> None: ...

    first = work.delay()

    with pytest.raises(AlreadyEnqueued, match=f"task {first.id} stands for this call") as raised:
        work.delay()
    assert raised.value.task_id == first.id


def test_a_canvas_with_a_unique_task_that_is_there_already_is_not_sent_at_all(app: Celery, conn: Conn) -> None:
    @app.task(unique=True)
    def work(order: int) -> None: ...

    @app.task
    def other() -> None: ...

    first = chain(work.si(1), other.si())()
    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (2,)

    for canvas in (chain(other.si(), work.si(1)), group(work.si(2), work.si(1)), group(work.si(3), work.si(3))):
        with pytest.raises(AlreadyEnqueued):
            canvas()

    assert first.parent is not None
    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (2,)
    group(work.si(2), work.si(3))()  # their keys are free


# -- debounce


def test_debounced_calls_become_one_with_the_last_words(app: Celery, conn: Conn) -> None:
    @app.task(debounce=Debounce(timedelta(seconds=30), key="document"))
    def index(document: str, version: int) -> None: ...

    results = [index.delay("a", 1), index.delay("a", 2), index.delay("b", 1)]

    assert results[0].id == results[1].id != results[2].id
    payloads = [row[0] for row in conn.execute("SELECT payload FROM pgtasks.tasks ORDER BY payload")]
    assert [payload.partition("]")[0] for payload in payloads] == ['[["a", 2', '[["b", 1']
    assert conn.execute("SELECT count(*) FROM pgtasks.scheduled").fetchone() == (2,)


def test_a_debounced_call_has_no_time_of_its_own_and_is_no_part_of_a_canvas(app: Celery) -> None:
    @app.task(debounce=30)
    def index() -> None: ...

    with pytest.raises(ValueError, match="leave out countdown and eta"):
        index.apply_async(countdown=3)
    with pytest.raises(ValueError, match="cannot be part of a canvas"):
        group(index.s(), index.s())()
    assert index.apply_async(debounce=False, countdown=3).id != index.delay().id


# -- looking


def test_views_show_what_is_held_and_why(app: Celery, conn: Conn) -> None:
    @app.task(name="work", flow=Flow(key="tenant", concurrency=1))
    def work(tenant: str) -> None: ...

    app.database.run(flows.declare("work", work.flow.limits()))
    results = [work.delay("a"), work.delay("a")]

    assert conn.execute("SELECT task_id, id::text, flow, key, why FROM pgtasks.held_tasks").fetchall() == [
        (None, results[1].id, "work", "a", "1 of its key are let in: concurrency")
    ]
    assert conn.execute("SELECT state FROM pgtasks.tasks ORDER BY id").fetchall() == [("READY",), ("HELD",)]
    assert conn.execute("SELECT ready, held FROM pgtasks.queues").fetchall() == [(1, 1)]
    assert conn.execute("SELECT name, concurrency, let_in, held FROM pgtasks.flows").fetchall() == [("work", 1, 1, 1)]
    assert app.database.run(tasks.purge(["celery"], b"{}")) == 2
