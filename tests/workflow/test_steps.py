"""Steps: what a run remembers of what it did, and what it does again."""

from __future__ import annotations

from typing import Any

import pytest

from pgtasks.exceptions import EncodeError, WorkflowError
from pgtasks.message import id_of
from pgtasks.store import tasks, workflows
from tests.workflow import flows
from tests.workflow.conftest import Desk


def test_a_workflow_runs_its_steps_once_and_returns(desk: Desk) -> None:
    result = flows.five.delay(0)

    assert desk.get(result) == 5
    assert desk.effects() == [f"step {i}" for i in range(5)]


def test_a_step_of_a_lost_worker_is_not_done_again_once_it_is_recorded(desk: Desk) -> None:
    result = flows.five.delay(0)
    (claim,) = desk.claim()
    desk.run(claim)  # its outcome never arrives

    desk.die()

    assert desk.get(result) == 5
    assert desk.effects() == [f"step {i}" for i in range(5)]


def test_a_task_called_in_a_workflow_is_a_step(desk: Desk) -> None:
    result = flows.inline.delay(1)

    assert desk.get(result) == 4
    assert [name for name, *_ in desk.steps(result)] == ["tests.workflow.flows.add"] * 2


def test_a_failed_step_is_recorded_and_raises_the_same_type_in_a_replay(desk: Desk) -> None:
    result = flows.failing.delay(2)
    for _ in range(3):
        desk.drain()
        desk.travel(1)

    assert desk.get(result) == "went on"
    assert desk.effects() == ["refuse", "caught"]


def test_a_run_fails_with_the_error_of_its_step(desk: Desk) -> None:
    result = flows.fails.delay()

    with pytest.raises(flows.Refused, match="for good"):
        desk.get(result)


def test_the_retries_of_a_step_survive_the_death_of_its_worker(desk: Desk) -> None:
    path = str(desk.stage.directory / "tries")
    result = flows.stubborn.delay(path)
    desk.drain()
    assert desk.is_suspended(result)
    desk.die()

    desk.travel(1)
    desk.drain()
    desk.die()
    desk.travel(1)

    assert desk.get(result) == 2
    assert desk.effects() == ["flaky"] * 3
    assert desk.conn.execute("SELECT attempts, state FROM pgtasks.step").fetchall() == [(3, "SUCCESS")]


def test_what_a_worker_records_after_its_lease_is_refused(desk: Desk) -> None:
    result = flows.five.delay(0)
    (claim,) = desk.claim()
    zombie = desk.hand
    desk.die()
    desk.hand, successor = zombie, desk.hand

    outcome = desk.run(claim)

    assert outcome.kind == "gone"
    assert desk.steps(result) == []
    desk.hand = successor
    assert desk.get(result) == 5


def test_a_value_is_the_same_in_a_replay(desk: Desk) -> None:
    result = flows.moments.delay()
    desk.drain()
    before = desk.steps(result)

    result.signal("go")
    values = desk.get(result)

    assert [f'"{value}"' for value in values[1:2]] == [before[1][2]]
    assert values[2] == before[2][2]


def test_the_key_of_a_step_is_its_own_and_the_same_for_every_try(desk: Desk) -> None:
    result = flows.stubborn.delay(str(desk.stage.directory / "tries"))
    for _ in range(3):
        desk.drain()
        desk.travel(1)
    assert desk.get(result) == 2
    (tries,) = {line["key"] for line in desk.stage.lines("effect")}

    desk.get(flows.five.delay(1))

    keys = {line["key"] for line in desk.stage.lines("effect")}
    assert tries == f"{result.id}:flaky:0"
    assert len(keys) == 1 + 5


def test_a_workflow_called_in_a_workflow_is_part_of_it(desk: Desk) -> None:
    result = flows.nested.delay(1)

    assert desk.get(result) == 5
    assert len(desk.steps(result)) == 3


def test_steps_at_the_same_time_give_their_values_in_order(desk: Desk) -> None:
    result = flows.gathering.delay(4)

    assert desk.get(result) == [0, 2, 4, 6, "p"]


def test_of_steps_at_the_same_time_the_first_that_failed_raises_after_all_have_ended(desk: Desk) -> None:
    result = flows.gathering_failures.delay()

    with pytest.raises(flows.Refused, match="first"):
        desk.get(result)
    assert sorted(desk.effects()) == ["add", "add", "refuse"]


# -- what is wrong


def test_a_step_whose_value_cannot_be_written_fails_the_run_and_says_why(desk: Desk) -> None:
    result = flows.unwritable.delay()

    with pytest.raises(EncodeError, match="Step 'object' returned a object that cannot be written as json"):
        desk.get(result)


def test_a_step_within_a_step_is_refused(desk: Desk) -> None:
    result = flows.nesting_steps.delay()

    with pytest.raises(WorkflowError, match=r"wf\.step was called inside the step .*_steps_within"):
        desk.get(result)


def test_a_step_outside_a_workflow_is_refused(desk: Desk) -> None:
    result = flows.stepping_outside.delay()

    with pytest.raises(WorkflowError, match="outside a workflow"):
        desk.get(result)


def test_a_loop_of_ten_thousand_steps_is_read_at_once(desk: Desk) -> None:
    result = flows.looping.delay(10_000)
    desk.drain()

    result.signal("end")

    assert desk.get(result) == sum(range(10_000))


def test_the_first_recorded_outcome_of_a_step_is_the_outcome(desk: Desk) -> None:
    """As when a worker that has lost the run recorded a step at the very moment of the takeover."""
    result = flows.five.delay(0)
    desk.conn.execute(
        "INSERT INTO pgtasks.step (run, name, ordinal, seq, delivery, kind, state, value)"
        " VALUES (%s, 'effect', 1, 2, 1, 'step', 'SUCCESS', '100')",
        [id_of(result.id)],
    )

    assert desk.get(result) == 103


# -- what it costs


def test_a_step_is_one_statement_and_a_first_delivery_reads_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    run = desk.app.database.run

    def counted(query: Any, conn: Any = None) -> Any:
        sent.append(query.statement.name)
        return run(query, conn)

    flows.five.delay(0)
    (claim,) = desk.claim()
    with monkeypatch.context() as patch:
        patch.setattr(desk.app.database, "run", counted)
        desk.run(claim)

    assert sent == ["remember"] * 5


def test_a_step_writes_little(desk: Desk) -> None:
    flows.looping.delay(1)
    (claim,) = desk.claim()
    hold = workflows.Hold(claim.id, desk.hand.id, claim.delivery)
    sizes = []
    for seq in range(20):
        step = workflows.Step(
            place=workflows.Place("tests.flows.charge", seq, seq), kind="task", took_s=0.1, value=b'"paid"'
        )
        query = workflows.remember(hold, step)
        explain = f"EXPLAIN (ANALYZE, WAL, FORMAT JSON) {query.statement.sql}"
        (plan,), *_ = desk.conn.execute(explain.encode(), dict(query.values)).fetchall()
        sizes.append(sum(_wal_of(plan[0]["Plan"])))

    # Some of them write a whole page, the first time after a checkpoint. And a commit is 34 bytes.
    assert min(sizes) + 34 <= 300


def _wal_of(plan: dict[str, Any]) -> list[int]:
    """What the statement and the common table expressions in it have written."""
    own = plan["WAL Bytes"] if plan["Node Type"] == "ModifyTable" else 0
    return [own, *(each for child in plan.get("Plans", ()) for each in _wal_of(child))]


# -- retention


def test_retention_removes_a_run_with_all_it_remembers_and_keeps_what_a_live_run_needs(desk: Desk) -> None:
    ended, waiting = flows.five.delay(1), flows.late.delay(3600)
    desk.drain()
    for table, column in (("result", "done_at"),):
        desk.conn.execute(f"UPDATE pgtasks.{table} SET {column} = {column} - interval '2 days'".encode())

    desk.app.database.run(tasks.expire(86400))

    left = desk.conn.execute("SELECT DISTINCT run FROM pgtasks.step").fetchall()
    assert left == [(id_of(waiting.id),)]
    assert desk.standing(ended) == []
    desk.travel(3601)
    assert desk.get(waiting) == 3
