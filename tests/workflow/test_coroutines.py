"""Workflows that are coroutine functions: the same promises, and branches that run and wait at the same time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pgtasks.execution import Site, aexecute
from tests.workflow import flows
from tests.workflow.conftest import Desk


class AsyncDesk(Desk):
    """Runs what it claims as the pool of coroutines does."""

    def run(self, claim: Any) -> Any:
        return asyncio.run(aexecute(Site(self.app, self.hand.id, "desk"), claim))


@pytest.fixture(params=[Desk, AsyncDesk], ids=["own loop", "shared loop"])
def any_desk(request: pytest.FixtureRequest, desk: Desk) -> Desk:
    desk.__class__ = request.param
    return desk


def test_an_asynchronous_workflow_runs_its_steps_once_and_returns(any_desk: Desk) -> None:
    result = flows.afive.delay(0)
    (claim,) = any_desk.claim()
    any_desk.run(claim)
    any_desk.die()

    assert any_desk.get(result) == 5
    assert any_desk.effects() == [f"step {i}" for i in range(5)]


def test_an_awaited_task_is_a_step(any_desk: Desk) -> None:
    result = flows.ainline.delay(1)

    assert any_desk.get(result) == 4
    assert any_desk.effects() == ["aadd", "aadd"]


def test_an_asynchronous_workflow_waits_for_signals_and_children(any_desk: Desk) -> None:
    result = flows.awaiting.delay("go")
    any_desk.drain()
    assert any_desk.is_suspended(result)

    result.signal("go", "now")

    assert any_desk.get(result) == [3, "now", True]
    assert any_desk.effects() == ["aadd"]


@pytest.mark.parametrize("order", [("x", "y", "z"), ("z", "x", "y")])
def test_branches_find_their_own_steps_whatever_order_they_finished_in(any_desk: Desk, order: tuple[str, ...]) -> None:
    result = flows.abranches.delay(["x", "y", "z"])
    any_desk.drain()
    assert any_desk.is_suspended(result)

    for name in order:
        result.signal(name, f"to {name}")
        any_desk.drain()

    assert any_desk.get(result) == ["to x", "to y", "to z"]
    assert sorted(any_desk.effects()) == ["begin"] * 3 + ["end"] * 3


def test_branches_in_a_task_group_sleep_together(any_desk: Desk) -> None:
    result = flows.asleeping.delay([10, 20])
    any_desk.drain()
    any_desk.travel(11)
    any_desk.drain()
    assert any_desk.effects() == ["woke"]
    any_desk.travel(10)

    assert any_desk.get(result) == [10, 20]
    assert any_desk.effects() == ["woke", "woke"]


def test_a_revoked_asynchronous_run_ends(any_desk: Desk) -> None:
    result = flows.awaiting.delay("go")
    any_desk.drain()

    result.revoke()
    any_desk.drain()

    assert any_desk.standing(result) == ["REVOKED"]
