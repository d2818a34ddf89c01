"""Several results as one, and eager ones, by the rules of Celery."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.results import ended, unfinished

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
