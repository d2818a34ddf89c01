"""Many calls at once: they are what as many `.delay()` would have made, for a tenth of the price."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgtasks import Celery, group, signals
from pgtasks.exceptions import EncodeError
from pgtasks.message import slot_of
from pgtasks.result import GroupResult
from tests.app.bulks import add, app, arguments, ready, rows, small_batches

__all__ = ("add", "app", "small_batches")

COLUMNS = "name, queue, priority, root, parent, group_id, content_type, content_encoding, max_deliveries, task_id"


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
