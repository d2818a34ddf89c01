"""Results, by the rules of Celery: what can be asked of both is asked of both, with the same expectations."""

from __future__ import annotations

import asyncio
import copy
import io
import pickle
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import celery
import celery.exceptions
import celery.result
import pytest

import pgtasks.exceptions
import pgtasks.result
from pgtasks.app.base import Celery


@pytest.fixture
def app(database_url: str) -> Iterator[Any]:
    app = Celery("results", broker=database_url, set_as_current=False)
    yield app
    app.close()


@pytest.fixture(params=["celery", "pgtasks"])
def kit(request: pytest.FixtureRequest) -> SimpleNamespace:
    """An app with a result backend, and the modules that belong to it: Celery's own, or ours."""
    if request.param == "celery":
        app = celery.Celery("results", broker="memory://", backend="cache+memory://", set_as_current=False)
        return SimpleNamespace(name="celery", app=app, result=celery.result, exceptions=celery.exceptions)
    app = request.getfixturevalue("app")
    return SimpleNamespace(name="pgtasks", app=app, result=pgtasks.result, exceptions=pgtasks.exceptions)


def ended(kit: SimpleNamespace, value: Any = None, state: str = "SUCCESS", **kwargs: Any) -> Any:
    """The result of a task that has ended."""
    result = kit.app.AsyncResult(str(uuid4()))
    kit.app.backend.store_result(result.id, value, state, **kwargs)
    return result


def unfinished(kit: SimpleNamespace) -> Any:
    return kit.app.AsyncResult(str(uuid4()))


# -- one result


def test_an_unknown_id_is_pending_and_does_not_exist(kit: SimpleNamespace) -> None:
    result = unfinished(kit)

    assert (result.state, result.status, result.result, result.info) == ("PENDING", "PENDING", None, None)
    assert (result.ready(), result.successful(), result.failed(), result.exists()) == (False,) * 4
    assert result.children is result.traceback is result.date_done is result.name is None


def test_a_success_gives_its_value_at_once_and_as_often_as_asked(kit: SimpleNamespace) -> None:
    result = ended(kit, {"a": [1, None, "ü"]})

    assert result.get(timeout=0) == result.get() == result.wait() == result.result == {"a": [1, None, "ü"]}
    assert (result.ready(), result.successful(), result.failed(), result.exists()) == (
        True,
        True,
        False,
        True,
    )
    assert result.date_done.tzinfo is not None


def test_a_failure_raises_the_exception_that_the_task_raised(kit: SimpleNamespace) -> None:
    result = ended(kit, KeyError("gone", 3), "FAILURE", traceback="Traceback ...")

    with pytest.raises(KeyError) as raised:
        result.get(timeout=0)
    assert raised.value.args == ("gone", 3)
    assert (result.failed(), result.successful(), result.traceback) == (True, False, "Traceback ...")
    value = result.get(propagate=False)
    assert type(value) is KeyError
    assert value.args == ("gone", 3)
    assert repr(result.maybe_throw(propagate=False)) == repr(value)


def test_a_revoked_task_raises_that_it_was_revoked(kit: SimpleNamespace) -> None:
    result = unfinished(kit)

    kit.app.backend.mark_as_revoked(result.id, "terminated")

    with pytest.raises(kit.exceptions.TaskRevokedError, match="terminated"):
        result.get(timeout=0)
    assert (result.ready(), result.failed(), result.successful()) == (True, False, False)


def test_a_retry_keeps_its_exception_and_is_not_an_end(kit: SimpleNamespace) -> None:
    result = ended(kit, ValueError("not yet"), "RETRY")

    assert (result.state, result.ready(), repr(result.result)) == ("RETRY", False, "ValueError('not yet')")
    assert result.date_done is None
    assert repr(result.maybe_throw()) == "ValueError('not yet')"


def test_progress_is_replaced_by_newer_progress_and_then_by_the_end(kit: SimpleNamespace) -> None:
    result = ended(kit, {"done": 1}, "PROGRESS")
    assert (result.state, result.info) == ("PROGRESS", {"done": 1})

    kit.app.backend.store_result(result.id, {"done": 2}, "PROGRESS")
    assert result.info == {"done": 2}

    kit.app.backend.store_result(result.id, "all", "SUCCESS")
    assert (result.state, result.info) == ("SUCCESS", "all")


def test_an_end_is_remembered_and_no_longer_asked_for(kit: SimpleNamespace) -> None:
    result = ended(kit, 1)
    assert result.get(timeout=0) == 1

    kit.app.backend.forget(result.id)

    assert (result.get(timeout=0), result.state) == (1, "SUCCESS")


def test_a_success_is_never_overwritten_by_a_late_failure(kit: SimpleNamespace) -> None:
    result = ended(kit, 1)

    kit.app.backend.store_result(result.id, ValueError("a lost worker came back"), "FAILURE")

    assert result.get(timeout=0) == 1


def test_asking_once_with_timeout_0_raises_celerys_timeout_error_instead_of_waiting(
    kit: SimpleNamespace,
) -> None:
    with pytest.raises(kit.exceptions.TimeoutError):
        unfinished(kit).get(timeout=0)

    assert not issubclass(kit.exceptions.TimeoutError, TimeoutError)


def test_the_callback_gets_the_id_and_the_value(kit: SimpleNamespace) -> None:
    calls: list[Any] = []
    result = ended(kit, 5)

    result.get(callback=lambda *args: calls.append(args))
    result.get(callback=lambda *args: calls.append(args))

    assert calls == [(result.id, 5)] * 2


def test_the_callback_is_not_called_when_the_error_is_raised(kit: SimpleNamespace) -> None:
    calls: list[Any] = []
    result = ended(kit, ValueError("no"), "FAILURE")

    with pytest.raises(ValueError, match="no"):
        result.get(callback=lambda *args: calls.append(args))

    assert calls == []


def test_an_ignored_result_is_none_without_a_wait(kit: SimpleNamespace) -> None:
    result = unfinished(kit)
    assert result.ignored is False

    result.ignored = True

    assert result.get() is None


def test_forget_makes_the_id_unknown_with_those_of_the_steps_before(kit: SimpleNamespace) -> None:
    parent, result = ended(kit, 1), ended(kit, 2)
    result.parent = parent
    assert result.get() == 2

    result.forget()

    assert [(r.state, r.exists()) for r in (result, parent)] == [("PENDING", False)] * 2


def test_get_raises_the_error_of_the_earliest_step_that_failed(kit: SimpleNamespace) -> None:
    first = ended(kit, KeyError("first"), "FAILURE")
    second = ended(kit, ValueError("second"), "FAILURE")
    third = ended(kit, TypeError("third"), "FAILURE")
    second.parent, third.parent = first, second

    with pytest.raises(KeyError, match="first"):
        third.get(timeout=0)
    with pytest.raises(TypeError, match="third"):
        third.get(timeout=0, follow_parents=False)


def test_get_does_not_wait_for_a_step_whose_predecessor_failed(kit: SimpleNamespace) -> None:
    result = unfinished(kit)
    result.parent = ended(kit, KeyError("before"), "FAILURE")

    with pytest.raises(KeyError, match="before"):
        result.get(timeout=60)


def test_get_raises_the_error_of_a_member_of_the_group_before(kit: SimpleNamespace) -> None:
    body = unfinished(kit)
    body.parent = kit.app.GroupResult("g", [ended(kit, 1), ended(kit, KeyError("member"), "FAILURE")])

    with pytest.raises(KeyError, match="member"):
        body.get(timeout=60)


def test_an_error_in_on_interval_ends_the_wait(kit: SimpleNamespace) -> None:
    class Enough(Exception):
        pass

    def give_up() -> None:
        raise Enough

    with pytest.raises(Enough):
        unfinished(kit).get(timeout=60, interval=0.01, on_interval=give_up)


# -- may a task wait?


def test_waiting_within_a_task_is_refused_unless_it_is_said_to_be_safe(kit: SimpleNamespace) -> None:
    result, group = ended(kit, 1), kit.app.GroupResult("g", [ended(kit, 2)])
    eager = kit.result.EagerResult("id", 3, "SUCCESS")

    with kit.result.denied_join_result():
        for one in (result, group, eager):
            with pytest.raises(RuntimeError, match=r"Never call result\.get\(\) within a task"):
                one.get(timeout=0)
        with pytest.raises(RuntimeError, match="Never call"):
            group.join(timeout=0)
        assert result.get(timeout=0, disable_sync_subtasks=False) == 1
        with kit.result.allow_join_result():
            assert [one.get(timeout=0) for one in (result, group, eager)] == [1, [2], 3]
        with pytest.raises(RuntimeError, match="Never call"):
            kit.result.assert_will_not_block()

    assert result.get() == 1


# -- identity


def test_results_are_equal_by_id_also_to_the_id_itself(kit: SimpleNamespace) -> None:
    one, same, other = (kit.app.AsyncResult(id) for id in ("a", "a", "b"))

    assert one == same == "a"
    assert one != other
    assert one != 1
    assert len({one, same, other}) == 2
    assert (str(one), repr(one), one.task_id) == ("a", "<AsyncResult: a>", "a")


def test_a_result_needs_an_id(kit: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="requires valid id"):
        kit.app.AsyncResult(None)


def test_results_survive_tuples_with_their_parents_and_members(kit: SimpleNamespace) -> None:
    header = kit.app.GroupResult("g", [kit.app.AsyncResult("m1"), kit.app.AsyncResult("m2")])
    body = kit.app.AsyncResult("body", parent=header)
    last = kit.app.AsyncResult("last", parent=body)

    as_tuple = last.as_tuple()

    assert as_tuple == (
        ("last", (("body", (("g", None), [(("m1", None), None), (("m2", None), None)])), None)),
        None,
    )
    again = kit.result.result_from_tuple(as_tuple, app=kit.app)
    assert again.as_tuple() == as_tuple
    assert again.parent.parent == header
    assert again.parent.parent.children == header.results
    assert kit.result.result_from_tuple(again) is again
    assert kit.result.result_from_tuple(("id", None), app=kit.app) == "id"


def test_as_list_names_the_chain_from_its_end(kit: SimpleNamespace) -> None:
    chain = kit.app.AsyncResult("c", parent=kit.app.AsyncResult("b", parent=kit.app.AsyncResult("a")))

    assert chain.as_list() == ["c", "b", "a"]


def test_a_copy_keeps_id_app_and_parent(kit: SimpleNamespace) -> None:
    result = kit.app.AsyncResult("c", parent=kit.app.AsyncResult("b"))

    twin = copy.copy(result)

    assert (twin, twin.parent, twin.app) == (result, result.parent, kit.app)


def test_a_group_is_restored_as_it_was_saved_until_it_is_deleted(kit: SimpleNamespace) -> None:
    inner = kit.app.GroupResult("inner", [kit.app.AsyncResult("b")])
    group = kit.app.GroupResult(str(uuid4()), [kit.app.AsyncResult("a"), inner])

    group.save()

    assert kit.app.GroupResult.restore(group.id) == group
    assert kit.result.GroupResult.restore(group.id, backend=kit.app.backend) == group
    group.delete()
    assert kit.app.GroupResult.restore(group.id) is None


# -- what a task led to


def led_to(kit: SimpleNamespace, value: Any, *children: Any) -> Any:
    request = SimpleNamespace(children=children, hostname=None, group=None, parent_id=None)
    result = unfinished(kit)
    kit.app.backend.store_result(result.id, value, "SUCCESS", request=request)
    return result


def test_collect_gives_the_values_of_the_whole_tree_level_by_level(kit: SimpleNamespace) -> None:
    leaf, other = led_to(kit, "leaf"), led_to(kit, "other")
    group = kit.app.GroupResult("g", [led_to(kit, "member")])
    root = led_to(kit, "root", led_to(kit, "middle", leaf), other, group)

    assert [value for _, value in root.collect()] == ["root", "middle", "other", ["member"], "leaf", "member"]
    assert root.get_leaf() == "member"
    assert root.children[1] == other
    assert root.children[2] == group


def test_collect_stops_at_a_task_that_has_not_ended(kit: SimpleNamespace) -> None:
    late = unfinished(kit)
    root = led_to(kit, "root", late)

    with pytest.raises(kit.exceptions.IncompleteStream):
        list(root.iterdeps())

    assert [node for _, node in root.iterdeps(intermediate=True)] == [root, late]


def test_the_graph_has_an_edge_from_each_task_to_those_it_called(kit: SimpleNamespace) -> None:
    leaf = led_to(kit, "leaf")
    root = led_to(kit, "root", leaf)

    graph = root.graph

    assert list(graph) == [root, leaf]
    assert graph[root] == [leaf]
    assert graph.topsort() == [leaf, root]
    out = io.StringIO()
    graph.to_dot(out)
    assert f'"{root.id}" -> "{leaf.id}"' in out.getvalue()


# -- being told


def test_then_calls_back_with_the_result_once_it_is_seen_to_be_ready(kit: SimpleNamespace) -> None:
    calls: list[Any] = []
    result = ended(kit, 1)

    result.then(calls.append)
    assert result.get() == 1

    assert calls == [result]
    result.then(calls.append)
    assert calls == [result, result]


def test_then_reports_an_error_that_was_raised(kit: SimpleNamespace) -> None:
    errors: list[Any] = []
    result = ended(kit, ValueError("no"), "FAILURE")

    with pytest.raises(ValueError, match="no"):
        result.get()
    result.then(lambda _: None, on_error=errors.append)

    assert [repr(error) for error in errors] == ["ValueError('no')"]


# -- several results


def test_a_group_gives_its_values_in_its_order(kit: SimpleNamespace) -> None:
    results = [ended(kit, n) for n in range(5)]
    group = kit.app.GroupResult("g", results)

    assert group.get(timeout=0) == group.join(timeout=0) == group.join_native(timeout=0) == [0, 1, 2, 3, 4]
    assert (group.ready(), group.waiting(), group.successful(), group.failed()) == (True, False, True, False)
    assert group.completed_count() == len(group) == 5
    assert (list(group), group[1], group.children) == (results, results[1], results)


def test_a_group_with_an_unfinished_member_is_neither_ready_nor_successful(kit: SimpleNamespace) -> None:
    group = kit.app.GroupResult("g", [ended(kit, 1), unfinished(kit)])

    assert (group.ready(), group.waiting(), group.successful(), group.failed()) == (False, True, False, False)
    assert group.completed_count() == 1
    for wait in (group.get, group.join, group.join_native):
        with pytest.raises(kit.exceptions.TimeoutError):
            wait(timeout=0)


def test_a_group_with_a_failed_member_raises_its_error_or_lists_it(kit: SimpleNamespace) -> None:
    group = kit.app.GroupResult("g", [ended(kit, 1), ended(kit, KeyError("k"), "FAILURE")])

    assert (group.ready(), group.successful(), group.failed(), group.completed_count()) == (
        True,
        False,
        True,
        1,
    )
    for wait in (group.get, group.join, group.join_native, group.maybe_throw):
        with pytest.raises(KeyError, match="k"):
            wait()
    for wait in (group.get, group.join, group.join_native):
        assert repr(wait(propagate=False)) == "[1, KeyError('k')]"


def test_a_callback_gets_every_value_instead_of_the_list(kit: SimpleNamespace) -> None:
    results = [ended(kit, n) for n in range(3)]
    group = kit.app.GroupResult("g", results)
    seen: dict[str, Any] = {}

    assert group.join_native(callback=seen.__setitem__) is None

    assert seen == {result.id: n for n, result in enumerate(results)}
    assert group.join(callback=lambda task_id, value: None) == []


def test_iter_native_gives_id_and_meta_as_tasks_end(kit: SimpleNamespace) -> None:
    results = [ended(kit, n) for n in range(3)]

    found = dict(kit.app.GroupResult("g", results).iter_native(timeout=0))

    assert {task_id: meta["result"] for task_id, meta in found.items()} == {
        result.id: n for n, result in enumerate(results)
    }


def test_a_group_within_a_group_gives_a_list_within_the_list(kit: SimpleNamespace) -> None:
    inner = kit.app.GroupResult("inner", [ended(kit, 1), ended(kit, 2)])
    outer = kit.app.GroupResult("outer", [ended(kit, 0), inner])

    assert outer.get() == outer.join() == [0, [1, 2]]
    assert (outer.ready(), outer.completed_count()) == (True, 2)


def test_an_empty_group_is_ready_and_gives_an_empty_list(kit: SimpleNamespace) -> None:
    group = kit.app.GroupResult("g", [])

    assert group.get() == group.join() == []
    assert (group.ready(), group.successful(), group.failed(), group.completed_count()) == (
        True,
        True,
        False,
        0,
    )


def test_a_group_is_true_equal_and_hashed_by_its_id(kit: SimpleNamespace) -> None:
    members = [kit.app.AsyncResult("a")]
    group = kit.app.GroupResult("g", members)

    assert group == kit.app.GroupResult("g", list(members)) == "g"
    assert group != kit.app.GroupResult("g", members, parent=kit.app.AsyncResult("p"))
    assert hash(group) == hash("g")
    assert (str(group), repr(group)) == ("g", "<GroupResult: g [a]>")
    assert [bool(kit.app.GroupResult(*args)) for args in ((), ("g",), (None, members))] == [False, True, True]


def test_members_come_and_go(kit: SimpleNamespace) -> None:
    a, b, c = (kit.app.AsyncResult(id) for id in "abc")
    results = kit.app.ResultSet([a])

    results.add(b)
    results.add(b)
    results.update([b, c])
    results.remove("a")
    results.discard("unknown")
    with pytest.raises(KeyError):
        results.remove("unknown")

    assert results == kit.app.ResultSet([b, c])
    assert repr(results) == "<ResultSet: [b, c]>"
    results.clear()
    assert len(results) == 0


def test_forgetting_a_group_forgets_its_members(kit: SimpleNamespace) -> None:
    group = kit.app.GroupResult("g", [ended(kit, 1), ended(kit, 2)])
    group.get()

    group.forget()

    assert [result.state for result in group] == ["PENDING"] * 2


@pytest.mark.parametrize("wait", [True, False])
def test_revoking_asks_control_for_all_members_at_once(
    kit: SimpleNamespace, wait: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    control = SimpleNamespace(revoke=lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setitem(vars(kit.app), "control", control)
    a, b = kit.app.AsyncResult("a"), kit.app.AsyncResult("b")

    kit.app.ResultSet([a, b]).revoke(terminate=True, signal="KILL", wait=wait, timeout=3)
    a.revoke()

    assert calls[0] == (
        (["a", "b"],),
        {"connection": None, "timeout": 3, "terminate": True, "signal": "KILL", "reply": wait},
    )
    assert calls[1][0] == ("a",)


# -- eager results


def test_an_eager_result_has_ended_without_a_backend(kit: SimpleNamespace) -> None:
    result = kit.result.EagerResult("id", 5, "SUCCESS", name="add")

    assert (result.get(), result.wait(), result.result, result.state, result.name) == (
        5,
        5,
        5,
        "SUCCESS",
        "add",
    )
    assert (result.ready(), result.successful(), result.failed()) == (True, True, False)
    assert result.supports_native_join is False
    assert repr(result) == "<EagerResult: id>"
    assert (copy.copy(result).get(), pickle.loads(pickle.dumps(result)).get()) == (5, 5)
    result.forget()


def test_an_eager_failure_raises_and_says_so(kit: SimpleNamespace) -> None:
    result = kit.result.EagerResult("id", KeyError("k"), "FAILURE", traceback="tb")

    with pytest.raises(KeyError, match="k"):
        result.get()
    assert repr(result.get(propagate=False)) == "KeyError('k')"
    assert (result.failed(), result.traceback) == (True, "tb")
    with pytest.raises(KeyError, match="k"):
        result.maybe_throw()


def test_an_eager_retry_gives_none(kit: SimpleNamespace) -> None:
    assert kit.result.EagerResult("id", ValueError("later"), "RETRY").get() is None


def test_revoking_an_eager_result_replaces_its_outcome(kit: SimpleNamespace) -> None:
    result = kit.result.EagerResult("id", 5, "SUCCESS", traceback="tb")

    result.revoke()

    assert (result.state, result.traceback) == ("REVOKED", None)
    with pytest.raises(kit.exceptions.TaskRevokedError):
        result.get()


def test_eager_results_join_as_a_group(kit: SimpleNamespace) -> None:
    group = kit.result.GroupResult("g", [kit.result.EagerResult(str(n), n, "SUCCESS") for n in range(3)])

    assert (group.get(), group.ready(), group.completed_count()) == ([0, 1, 2], True, 3)


def test_then_on_an_eager_result_calls_back_at_once(kit: SimpleNamespace) -> None:
    calls: list[Any] = []
    result = kit.result.EagerResult("id", 5, "SUCCESS")

    result.then(calls.append)

    assert calls == [result]


# -- beyond Celery


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
