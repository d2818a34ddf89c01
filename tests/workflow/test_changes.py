"""Code that changes under a run: tolerated and logged, refused until it is mended, or left to the version it began with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pgtasks import Celery
from pgtasks.exceptions import ImproperlyConfigured
from tests.workflow import flows
from tests.workflow.conftest import Desk


def deploy(desk: Desk, **code: Any) -> None:
    (desk.stage.directory / "code.json").write_text(json.dumps(code))


def divergences(desk: Desk) -> list[tuple[Any, ...]]:
    return desk.conn.execute("SELECT mode, found, recorded FROM pgtasks.divergences ORDER BY seq, found").fetchall()


CHANGES = {
    "inserted": (["a", "new", "b", "c"], ["a", "b", "c", "new"], [("tolerant", "new", "b#0")]),
    "removed": (["a", "c"], ["a", "b", "c"], [("tolerant", "the end", "b#0"), ("tolerant", "c", "b#0")]),
    "reordered": (
        ["b", "a", "c"],
        ["a", "b", "c"],
        [("tolerant", "b", "a#0"), ("tolerant", "a", "c#0"), ("tolerant", "c", "nothing")],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_tolerant_run_goes_on_by_the_names_of_its_steps_and_logs_what_differs(desk: Desk, change: str) -> None:
    after, effects, logged = CHANGES[change]
    result = flows.changing.delay()
    desk.drain()
    deploy(desk, before=after)

    result.signal("deployed")

    assert desk.get(result) == [*after, "d"]
    assert desk.effects() == [*effects, "d"]
    assert set(divergences(desk)) >= set(logged[:1])


@pytest.mark.parametrize("change", CHANGES)
def test_a_strict_run_is_left_alone_until_its_code_is_mended(desk: Desk, change: str) -> None:
    after, _, _ = CHANGES[change]
    result = flows.changing_strictly.delay()
    desk.drain()
    deploy(desk, before=after)
    result.signal("deployed")

    for _ in range(3):
        desk.drain()
        assert desk.is_suspended(result)
        desk.travel(61)
    assert divergences(desk)[0][0] == "strict"
    deploy(desk, before=["a", "b", "c"])

    assert desk.get(result) == ["a", "b", "c", "d"]
    assert desk.effects() == ["a", "b", "c", "d"]


def test_steps_that_only_a_new_release_has_after_the_history_are_no_divergence(desk: Desk) -> None:
    result = flows.changing_strictly.delay()
    desk.drain()
    deploy(desk, after=["d", "e"])

    result.signal("deployed")

    assert desk.get(result) == ["a", "b", "c", "d", "e"]
    assert divergences(desk) == []


def test_a_pinned_run_waits_for_a_worker_of_its_version(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    result = flows.pinned.delay()
    desk.drain()
    task = type(flows.app.tasks[flows.pinned.name])

    with monkeypatch.context() as patch:
        patch.setattr(task, "version", "2")
        result.signal("go")
        desk.drain()
        assert desk.is_suspended(result)
    desk.travel(61)

    assert desk.get(result) == "done"


def test_patched_is_false_for_a_run_that_came_by_before_the_change(desk: Desk) -> None:
    result = flows.patching.delay()
    desk.drain()
    deploy(desk, new=True, newer=True)

    result.signal("go")

    assert desk.get(result) == [False, True]
    assert divergences(desk) == []


def test_patched_is_true_for_a_run_that_begins_after_the_change_and_stays_so(desk: Desk) -> None:
    deploy(desk, new=True, newer=True)
    result = flows.patching.delay()
    desk.drain()

    result.signal("go")

    assert desk.get(result) == [True, True]


def test_a_workflow_whose_code_is_gone_fails_readably(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    result = flows.waiter.delay("packed")
    desk.drain()
    monkeypatch.delitem(flows.app.tasks, flows.waiter.name)

    result.signal("packed")
    desk.drain()

    assert desk.standing(result) == ["FAILURE"]
    assert result.result.args == (flows.waiter.name,)


def test_a_mode_that_is_not_known_is_refused_where_it_is_written() -> None:
    app = Celery("unfit", set_as_current=False)

    with pytest.raises(ImproperlyConfigured, match="mode='lenient'"):
        app.workflow(lambda: 1, name="lenient", mode="lenient", shared=False, lazy=False)
    with pytest.raises(ImproperlyConfigured, match="no version="):
        app.workflow(lambda: 1, name="unversioned", mode="pin", shared=False, lazy=False)
