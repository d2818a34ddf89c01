"""Waiting in threads and coroutines for results that are stored meanwhile."""

from __future__ import annotations

import asyncio
import pickle
import threading
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

import pgtasks.exceptions
import pgtasks.result
from pgtasks.app.waiting import Watch
from tests.support.results import ended


def test_on_interval_is_called_again_and_again(app: Any) -> None:
    calls: list[int] = []

    with pytest.raises(pgtasks.exceptions.TimeoutError):
        app.AsyncResult("unknown").get(timeout=0.2, interval=0.01, on_interval=lambda: calls.append(1))

    assert len(calls) > 1


def test_a_result_that_ends_while_it_is_waited_for_wakes_the_waiter(app: Any) -> None:
    result = app.AsyncResult("user's own id")
    is_waiting = threading.Event()

    def finish() -> None:
        is_waiting.wait(60)
        app.backend.store_result(result.id, 7, "SUCCESS")

    thread = threading.Thread(target=finish)
    thread.start()
    value = result.get(timeout=60, interval=0.01, on_interval=is_waiting.set)
    thread.join()

    assert value == 7


def test_members_that_end_in_any_order_are_listed_in_the_groups_order(app: Any) -> None:
    results = [app.AsyncResult(str(uuid4())) for _ in range(4)]
    arrived: list[Any] = []

    def finish_another() -> None:
        n = len(results) - 1 - len(arrived)
        app.backend.store_result(results[n].id, n, "SUCCESS")
        arrived.append(n)

    values = app.GroupResult("g", results).join_native(timeout=30, interval=0.01, on_interval=finish_another)

    assert values == [0, 1, 2, 3]


def test_a_group_is_told_when_its_last_member_is_seen_to_end(app: Any) -> None:
    kit = SimpleNamespace(app=app)
    calls: list[Any] = []
    group = app.GroupResult("g", [ended(kit, 1), ended(kit, 2)])
    group.then(lambda results: calls.append(len(results)))

    assert group[0].get() == 1
    assert calls == []
    assert group[1].get() == 2

    assert calls == [2]


def test_another_result_object_of_the_same_task_is_told_too(app: Any) -> None:
    calls: list[Any] = []
    result = ended(SimpleNamespace(app=app), 1)
    listener = app.AsyncResult(result.id)
    listener.then(calls.append)

    assert result.get() == 1

    assert calls == [listener]


def test_a_result_nobody_needs_any_more_can_be_collected_although_it_listens_weakly(app: Any) -> None:
    calls: list[Any] = []
    result = ended(SimpleNamespace(app=app), 1)
    app.AsyncResult(result.id).then(calls.append, weak=True)

    assert result.get() == 1

    assert calls == []


def test_coroutines_can_ask_and_wait_for_everything(app: Any) -> None:
    async def use() -> None:
        late, bad = app.AsyncResult(str(uuid4())), app.AsyncResult(str(uuid4()))
        assert not await late.aready()
        assert not await late.aexists()
        waiting = asyncio.create_task(late.aget(timeout=60))
        await app.backend.astore_result(late.id, 1, "SUCCESS")
        await app.backend.astore_result(bad.id, KeyError("k"), "FAILURE")
        assert await waiting == await late == 1
        with pytest.raises(KeyError, match="k"):
            await bad
        assert await bad.afailed()
        assert await late.asuccessful()
        group = app.GroupResult("g", [late, bad])
        assert await group.aready()
        assert not await group.asuccessful()
        assert repr(await group.aget(propagate=False)) == "[1, KeyError('k')]"
        with pytest.raises(KeyError, match="k"):
            await group
        assert {task_id async for task_id, _ in group.aiter_native(timeout=0)} == {late.id, bad.id}
        with pytest.raises(pgtasks.exceptions.TimeoutError):
            await app.AsyncResult("unknown").aget(timeout=0)
        await group.aforget()
        assert await late.astate() == "PENDING"
        await app.adatabase.close()

    asyncio.run(use())


def test_an_eager_result_can_be_awaited() -> None:
    async def use() -> Any:
        return await pgtasks.result.EagerResult("id", 5, "SUCCESS")

    assert asyncio.run(use()) == 5


def test_a_pickled_result_finds_the_backend_of_the_current_app(app: Any) -> None:
    app.set_current()
    result = app.AsyncResult("c", parent=app.AsyncResult("b"))
    plain = pgtasks.result.AsyncResult("c", parent=result.parent, app=app)

    again = pickle.loads(pickle.dumps(plain))

    assert (again, again.parent, again.backend) == (plain, plain.parent, app.backend)


def test_a_redriven_task_that_ends_between_two_looks_is_not_taken_for_one_without_a_result(app: Any) -> None:
    task_id = uuid4()
    watch = Watch([str(task_id)])
    watch.has_looked = True
    steps = app.backend._arrivals(watch)
    next(steps)
    app.backend.store_result(str(task_id), 7, "SUCCESS")

    # The word was about its earlier end. Nothing is found at first, and then that it has ended.
    steps.send({task_id: None})
    again = steps.send({})
    assert again.statement.name == "ended"
    late = steps.send({task_id})
    with pytest.raises(StopIteration) as end:
        steps.send(app.database.run(late))

    ((_, meta),) = end.value.value
    assert meta["result"] == 7
