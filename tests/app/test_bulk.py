"""Many calls at once: they are what as many `.delay()` would have made, for a tenth of the price."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgtasks import Celery, _state, group, signals
from pgtasks.app import bulk
from pgtasks.app.pattern import Pattern
from pgtasks.exceptions import EncodeError, OperationalError
from pgtasks.message import new_ids, slot_of
from pgtasks.result import GroupResult
from pgtasks.store import faults
from pgtasks.store.database import Database

COLUMNS = "name, queue, priority, root, parent, group_id, content_type, content_encoding, max_deliveries, task_id"


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    with Celery("bulk", broker=database_url, set_as_current=False) as app:
        yield app


@pytest.fixture
def add(app: Celery) -> Any:
    return app.task(lambda x, y=0: x + y, name="bulk.add", shared=False)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 10 and stretches of 40, for what happens at their ends to happen to few calls."""
    monkeypatch.setattr(bulk, "BATCH", 10)
    monkeypatch.setattr(bulk, "STRETCH", 40)
    monkeypatch.setattr(bulk, "FEW", 5)


def rows(conn: psycopg.Connection[Any], columns: str) -> list[tuple[Any, ...]]:
    """What is ready, in the order in which it will run."""
    return conn.execute(
        f"SELECT {columns} FROM pgtasks.message m JOIN pgtasks.ready r USING (id, queue) ORDER BY rank, seq"
    ).fetchall()


def arguments(conn: psycopg.Connection[Any]) -> list[Any]:
    return [json.loads(payload)[:2] for (payload,) in rows(conn, "payload")]


def ready(conn: psycopg.Connection[Any]) -> int:
    found = conn.execute("SELECT count(*) FROM pgtasks.ready").fetchone()
    assert found
    return int(found[0])


# -- what is sent


def test_a_tuple_is_the_arguments_of_a_call_and_anything_else_its_only_one(add: Any, conn: Any) -> None:
    add.delay_many([1, (2, 3), [4], "five", ((6,),), None])

    assert [args for args, _ in arguments(conn)] == [[1], [2, 3], [[4]], ["five"], [[6]], [None]]


@pytest.mark.parametrize("size", [1, 3, 5, 6, 10, 11, 40, 41, 95])
def test_every_call_is_there_once_and_in_order_whatever_fits_in_a_batch(
    size: int, add: Any, conn: Any, small_batches: None
) -> None:
    results = add.delay_many(iter(range(size)))

    assert arguments(conn) == [[[number], {}] for number in range(size)]
    assert [result.id for result in results] == [str(key) for (key,) in rows(conn, "id")]
    assert len(results) == len(set(results.ids())) == size


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"queue": "other", "priority": 7},
        {"expires": datetime(2100, 1, 1, tzinfo=UTC), "headers": {"tenant": "ü"}},
        {"serializer": "pickle", "compression": "gzip"},
        {"time_limit": 5, "soft_time_limit": 3, "ignore_result": True, "shadow": "add!", "tenant": 5},
        {"link_error": "handlers.failed", "max_deliveries": 2},
        {"countdown": 3600},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
@pytest.mark.parametrize("size", [3, 70])
def test_a_bulk_writes_what_as_many_single_calls_would(
    size: int, options: dict[str, Any], add: Any, conn: psycopg.Connection[Any]
) -> None:
    calls = [((number,), {"y": 1}) for number in range(size)]
    for args, kwargs in calls:
        add.apply_async(args, kwargs, **options)
    columns = f"payload, options, expires, countdown, due IS NULL, {COLUMNS}"
    singly = conn.execute(f"SELECT {columns} FROM pgtasks.message ORDER BY payload").fetchall()
    conn.execute("TRUNCATE pgtasks.message, pgtasks.ready, pgtasks.scheduled")

    add.apply_async_many(calls, **options)

    assert conn.execute(f"SELECT {columns} FROM pgtasks.message ORDER BY payload").fetchall() == singly


def test_a_group_writes_what_its_members_would_with_their_numbers(app: Celery, add: Any, conn: Any) -> None:
    members = [add.s(number, y=2).set(queue="many") for number in range(60)]
    by_plan = group([*members, add.s(1).set(queue="many", shadow="unlike the others")]).apply_async(priority=4)
    columns = f"payload, options, {COLUMNS.replace('group_id, ', '')}"
    planned = conn.execute(f"SELECT {columns} FROM pgtasks.message").fetchall()
    planned = [row for row in planned if b"unlike" not in row[1]]
    conn.execute("TRUNCATE pgtasks.message, pgtasks.ready")

    result = group(members).apply_async(priority=4)

    assert isinstance(by_plan, GroupResult)
    assert isinstance(result, GroupResult)
    assert sorted(conn.execute(f"SELECT {columns} FROM pgtasks.message").fetchall()) == sorted(planned)
    assert {found for (found,) in rows(conn, "group_id")} == {result.id}
    assert [each.id for each in result] == [str(key) for (key,) in rows(conn, "id")]
    assert [json.loads(options)["group_index"] for (options,) in rows(conn, "options")] == list(range(60))


def test_the_members_of_a_large_group_share_a_slot_and_are_all_or_nothing(add: Any, conn: Any) -> None:
    def members() -> Iterator[Any]:
        yield from (add.s(number) for number in range(2500))
        yield add.s(object())

    with pytest.raises(EncodeError, match=r"arguments of 'bulk\.add'"):
        group(members()).delay()
    assert ready(conn) == 0

    result = group(add.s(number) for number in range(2500)).delay()

    assert ready(conn) == 2500
    assert len({slot_of(UUID(each.id)) for each in result}) == 1


@pytest.mark.parametrize(
    "unlike",
    [
        lambda add: add.s(1).set(queue="other"),
        lambda add: add.s(1).set(task_id="mine"),
        lambda add: add.s(1).set(link=add.s(2)),
        lambda add: add.s(1) | add.s(2),
        lambda add: dict(add.s(1)),
        lambda add: add.app.signature("bulk.elsewhere", (1,)),
    ],
    ids=["options", "id", "callback", "chain", "dict", "name"],
)
def test_a_group_with_a_member_unlike_the_others_is_planned_as_ever(
    unlike: Callable[[Any], Any], add: Any, conn: psycopg.Connection[Any]
) -> None:
    result = group([*(add.s(number) for number in range(60)), unlike(add)]).delay()

    assert len(result) == 61
    assert ready(conn) == 61


# -- what can be in the way


def test_with_receivers_each_call_is_published_on_its_own_and_the_batches_stay(
    add: Any, conn: Any, small_batches: None
) -> None:
    before, after = [], []

    def see(body: Any, headers: Any, **_: Any) -> None:
        before.append(headers["id"])
        headers["stamp"] = body[0][0]

    def saw(headers: Any, **_: Any) -> None:
        after.append(headers["id"])

    signals.before_task_publish.connect(see)
    signals.after_task_publish.connect(saw)
    try:
        results = add.delay_many(range(25))
    finally:
        signals.before_task_publish.disconnect(see)
        signals.after_task_publish.disconnect(saw)

    assert before == after == list(results.ids()) == [str(key) for (key,) in rows(conn, "id")]
    assert [json.loads(options)["headers"]["stamp"] for (options,) in rows(conn, "options")] == list(range(25))
    moments = conn.execute("SELECT count(DISTINCT created_at) FROM pgtasks.message").fetchone()
    assert moments == (3,)


def test_a_router_that_looks_at_arguments_is_asked_for_every_call(app: Celery, add: Any, conn: Any) -> None:
    app.conf.task_routes = [lambda name, args, kwargs, options, **_: {"queue": "odd" if args[0] % 2 else "even"}]

    add.delay_many(range(10))

    found = conn.execute("SELECT queue, count(*) FROM pgtasks.ready GROUP BY queue ORDER BY queue").fetchall()
    assert found == [("even", 5), ("odd", 5)]


def test_a_route_may_say_how_arguments_are_written(app: Celery, add: Any, conn: psycopg.Connection[Any]) -> None:
    app.conf.task_routes = {"bulk.*": {"queue": "routed", "compression": "bzip2", "priority": 3}}
    written = "payload, queue, priority, content_type, content_encoding"
    add.apply_async((1,))
    (singly,) = rows(conn, written)

    add.delay_many([1] * 60)
    group([add.s(1) for _ in range(60)]).delay()

    assert singly[1:] == ("routed", 3, None, "utf-8;application/x-bz2")  # the task's own serializer wins
    assert set(rows(conn, written)) == {singly}


def test_an_overridden_apply_async_is_called_for_every_call(app: Celery, conn: Any) -> None:
    class Counting(app.Task):  # type: ignore[name-defined, misc]
        calls = 0

        def apply_async(self, *args: Any, **kwargs: Any) -> Any:
            type(self).calls += 1
            return super().apply_async(*args, **kwargs)

    task = app.task(lambda x: x, name="bulk.counting", base=Counting, shared=False)

    results = task.delay_many(range(7))

    assert len(results) == type(task._get_current_object()).calls == ready(conn) == 7


def test_eager_calls_run_here(app: Celery, add: Any, conn: Any) -> None:
    app.conf.task_always_eager = True

    assert add.delay_many([1, (2, 3)]).get() == [1, 5]
    assert asyncio.run(_adelay_many(add, [4])).get() == [4]
    assert ready(conn) == 0


async def _adelay_many(task: Any, calls: Any) -> Any:
    return await task.adelay_many(calls)


def test_one_id_for_many_calls_is_refused(add: Any) -> None:
    with pytest.raises(TypeError, match="task_id='mine' cannot be the id of many calls of 'bulk.add'"):
        add.apply_async_many([((1,), {})], task_id="mine")


@pytest.mark.parametrize("call", [("text", {}), ((1,), [1]), ((1, 2, 3), {})])
def test_arguments_that_a_call_cannot_take_are_refused_in_a_bulk_too(call: Any, add: Any, conn: Any) -> None:
    with pytest.raises(TypeError):
        add.apply_async_many([((1,), {})] * 60 + [call])

    assert ready(conn) == 0


# -- transactions


def test_a_bulk_in_the_callers_transaction_goes_when_that_is_rolled_back(add: Any, conn: Any) -> None:
    with pytest.raises(ZeroDivisionError), conn.transaction():
        add.apply_async_many([((number,), {}) for number in range(1500)], conn=conn)
        group(add.s(number) for number in range(1500)).apply_async(conn=conn)
        assert ready(conn) == 3000
        raise ZeroDivisionError

    assert ready(conn) == 0


def test_what_was_sent_before_an_error_in_the_source_stays_sent(add: Any, conn: Any, small_batches: None) -> None:
    def source() -> Iterator[int]:
        yield from range(100)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        add.delay_many(source())

    assert ready(conn) == 80


def test_the_source_is_read_between_transactions_only(
    add: Any, conn: psycopg.Connection[Any], database_url: str, small_batches: None
) -> None:
    open_ones = []

    def source() -> Iterator[int]:
        for number in range(100):
            found = conn.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND xact_start IS NOT NULL AND backend_type = 'client backend'"
            ).fetchone()
            open_ones.append(found)
            yield number

    add.delay_many(source())

    assert set(open_ones) == {(0,)}


def test_a_source_without_end_is_sent_as_it_goes(add: Any, conn: Any, small_batches: None) -> None:
    class EnoughError(Exception):
        pass

    def source() -> Iterator[int]:
        for number in count():
            if ready(conn) >= 120:
                raise EnoughError
            yield number

    with pytest.raises(EnoughError):
        add.delay_many(source())


def test_a_connection_that_is_lost_in_the_middle_of_a_bulk_costs_no_call_and_doubles_none(
    app: Celery, add: Any, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Pattern._payloads
    batches = count()

    def cut(self: Any, calls: Any) -> Any:
        if next(batches) == 2:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND application_name = 'pgtasks'"
            )
        return write(self, calls)

    monkeypatch.setattr(Pattern, "_payloads", cut)

    results = group(add.s(number) for number in range(5000)).delay()

    assert sorted(each.id for each in results) == sorted(str(key) for (key,) in rows(conn, "id"))
    assert sorted(args[0] for args, _ in arguments(conn)) == list(range(5000))


def test_a_bulk_that_is_sent_again_changes_nothing_even_while_the_first_one_is_under_way(
    app: Celery, add: Any, conn: psycopg.Connection[Any], database_url: str
) -> None:
    sending = bulk._Sending(app, add._get_current_object(), {})
    (query,) = sending.queries([((number,), None) for number in range(100)])
    app.database.run(query)
    app.database.run(query)
    assert ready(conn) == 100

    (again,) = sending.queries([((number,), None) for number in range(100)])
    with psycopg.connect(database_url) as slow:
        Database.run(app.database, again, slow)  # not committed yet: the resend waits for it
        resend = threading.Thread(target=app.database.run, args=(again,))
        resend.start()
        _await_lock(conn)
        slow.commit()
        resend.join()

    assert ready(conn) == 200


def _await_lock(conn: psycopg.Connection[Any]) -> None:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while not conn.execute(waiting).fetchone():
        pass


def test_only_ids_that_are_taken_make_a_violated_constraint_one_that_passes(
    conn: psycopg.Connection[Any],
) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation) as other:
        conn.execute("CREATE TEMP TABLE once (id int PRIMARY KEY); INSERT INTO once VALUES (1), (1)")

    assert not faults.is_passing(other.value)


def test_an_unreachable_database_is_said_to_be(monkeypatch: pytest.MonkeyPatch, add: Any, app: Celery) -> None:
    monkeypatch.setattr(app.database, "url", "postgresql:///x?host=/nowhere")
    monkeypatch.setattr(app.database, "patience_s", 0.0)
    app.database.close()

    with pytest.raises(OperationalError):
        add.delay_many(range(100))


# -- ids and results


def test_ids_made_together_are_sorted_unlike_each_other_and_of_version_7() -> None:
    made = list(new_ids(5000))

    assert made == sorted(set(made), key=lambda key: key.bytes)
    assert {(key.version, key.variant) for key in made} == {(7, "specified in RFC 4122")}
    assert len({slot_of(key) for key in made}) > 900
    assert {slot_of(key) for key in new_ids(300, made[0])} == {slot_of(made[0])}


def test_results_are_made_when_they_are_looked_at_and_then_stay_the_same(add: Any, app: Celery) -> None:
    results = add.delay_many(range(2000))

    assert len(results) == 2000
    assert "results" not in vars(results)
    assert results[5] is results[5]
    assert next(iter(results)).id == next(results.ids())
    assert results.app is app


# -- coroutines


def test_coroutines_send_many_too(app: Celery, add: Any, conn: Any, small_batches: None) -> None:
    async def send() -> Any:
        sent = await add.adelay_many(range(95))
        await add.aapply_async_many([((1,), {"y": 2})], queue="other")
        members = await group(add.s(number) for number in range(10)).aapply_async()
        await app.adatabase.close()
        return [*sent.ids()], members

    ids, members = asyncio.run(send())

    assert len(set(ids)) == 95
    assert len(members) == 10
    assert ready(conn) == 95 + 1 + 10


# -- threads, processes, and the end of them


def test_threads_can_send_at_once(add: Any, conn: Any) -> None:
    threads = [threading.Thread(target=add.delay_many, args=(range(1500),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ready(conn) == 6000
    assert len({key for (key,) in rows(conn, "id")}) == 6000


def test_a_forked_child_sends_on_connections_of_its_own(add: Any, conn: Any) -> None:
    add.delay_many(range(1500))
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=add.delay_many, args=(range(1500),)) for _ in range(2)]
    for child in children:
        child.start()
    add.delay_many(range(1500))
    for child in children:
        child.join(60)

    assert [child.exitcode for child in children] == [0, 0]
    assert ready(conn) == 6000


def test_a_program_that_sends_and_ends_leaves_nothing_behind_and_says_nothing(
    database_url: str, conn: psycopg.Connection[Any]
) -> None:
    program = """
from pgtasks import Celery
app = Celery("bulk")
@app.task(name="bulk.add")
def add(x): return x
add.delay_many(range(2500))
"""

    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, env=dict(os.environ)
    )

    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert ready(conn) == 2500


def test_a_task_that_sends_many_has_them_as_children_and_as_their_root(
    app: Celery, add: Any, conn: psycopg.Connection[Any]
) -> None:
    parent = "0190163d-8694-7000-8000-000000000007"
    task = app.task(lambda: None, name="bulk.parent", shared=False)
    task.push_request(id=parent, root_id=parent, called_directly=False, children=[])
    _state.push_current_task(task._get_current_object())
    try:
        results = add.delay_many(range(60))
        members = group(add.s(number) for number in range(60)).delay()
        children = list(task.request.children)
    finally:
        _state.pop_current_task()
        task.pop_request()

    assert children == [*results, members]
    assert set(rows(conn, "root, parent")) == {(UUID(parent), UUID(parent))}
    assert {slot_of(key) for (key,) in rows(conn, "id")} == {slot_of(UUID(parent))}


def test_members_of_a_group_know_a_root_whose_id_is_no_uuid(
    app: Celery, add: Any, conn: psycopg.Connection[Any]
) -> None:
    task = app.task(lambda: None, name="bulk.parent", shared=False)
    task.push_request(id="the parent", root_id="the root", called_directly=False, children=[])
    _state.push_current_task(task._get_current_object())
    try:
        group(add.s(number) for number in range(60)).delay()
    finally:
        _state.pop_current_task()
        task.pop_request()

    found = [json.loads(options) for (options,) in rows(conn, "options")]
    assert {(each["root_id"], each["parent_id"]) for each in found} == {("the root", "the parent")}


def test_an_expiry_counts_from_the_moment_of_the_enqueue(add: Any, conn: psycopg.Connection[Any]) -> None:
    add.apply_async_many([((number,), None) for number in range(60)], expires=100)

    (left,) = {expires - created for expires, created in rows(conn, "expires, created_at")}
    assert left == timedelta(seconds=100)


@pytest.mark.parametrize("item", ["x" * 1000, ({"deep": [["x" * 1000]]},)], ids=["a text", "a text within"])
def test_of_large_arguments_no_more_than_fit_in_memory_are_read_ahead_of_what_is_sent(
    add: Any, database_url: str, monkeypatch: pytest.MonkeyPatch, item: Any
) -> None:
    monkeypatch.setattr(bulk, "LARGE", 20_000)
    ahead = []

    def items() -> Iterator[Any]:
        for made in range(200):
            (sent,) = conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() or (0,)
            ahead.append(made - sent)
            yield item

    with psycopg.connect(database_url, autocommit=True) as conn:
        assert len(add.delay_many(items())) == 200

        assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (200,)
    assert max(ahead) <= 20


def test_a_group_of_large_calls_is_cut_into_statements_that_a_server_takes_and_is_all_or_nothing(
    app: Celery, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "LARGE", 20_000)
    statements = []
    run_all = app.database.run_all
    monkeypatch.setattr(app.database, "run_all", lambda sent: run_all(statements.append(each) or each for each in sent))

    result = group(add.s("x" * 1000, number) for number in range(60)).apply_async()

    assert len({each.id for each in result}) == 60
    assert len(statements) >= 3  # in one transaction
