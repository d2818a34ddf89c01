"""One result, by the rules of Celery, with the same expectations of both libraries."""

from __future__ import annotations

import copy
import io
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from tests.support.results import ended, led_to, unfinished

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
