"""Looking after runs: lists, timelines, redrive, fork, rewind, replay, and the commands for them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from pgtasks.bin.base import cli
from pgtasks.exceptions import RunNotFound, TaskRevokedError, WorkflowError
from pgtasks.message import id_of, new_id
from pgtasks.workflow import operations, replaying
from tests.workflow import flows
from tests.workflow.conftest import Desk
from tests.workflow.test_changes import deploy


def said(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(cli, ["-A", "tests.workflow.flows:app", *arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.output


# -- again


def test_a_redrive_runs_only_what_failed(desk: Desk) -> None:
    path = desk.stage.directory / "tries"
    result = flows.frail.delay(str(path))
    with pytest.raises(flows.Refused):
        desk.get(result)
    path.write_text("xx")

    assert operations.redrive(flows.app, [result.id]) == [id_of(result.id)]

    result._cache = None
    assert desk.get(result) == 2
    assert desk.effects() == ["kept", "flaky", "flaky"]


def test_a_redrive_of_a_run_redrives_the_child_it_stumbled_over(desk: Desk) -> None:
    path = desk.stage.directory / "tries"
    result = flows.with_frail_child.delay(str(path))
    with pytest.raises(flows.Refused):
        desk.get(result)
    path.write_text("xx")

    assert len(operations.redrive(flows.app, [result.id])) == 2

    result._cache = None
    assert desk.get(result) == 2
    assert desk.effects() == ["kept", "flaky", "flaky"]


def test_a_run_that_was_undone_or_has_succeeded_is_not_redriven(desk: Desk) -> None:
    undone, succeeded = flows.undoing.delay(True), flows.five.delay(1)
    desk.drain()

    assert operations.redrive(flows.app, [undone.id, succeeded.id]) == []


@pytest.mark.parametrize("step", [3, "tests.workflow.flows.effect", "effect#2"])
def test_a_fork_goes_on_from_a_step_with_what_was_before_it(desk: Desk, step: Any) -> None:
    result = flows.five.delay(0)
    desk.drain()
    if step == "tests.workflow.flows.effect":
        with pytest.raises(WorkflowError, match="has no step"):
            operations.fork(flows.app, result.id, step)
        return

    copy = flows.app.AsyncResult(operations.fork(flows.app, result.id, step))

    assert desk.get(copy) == 5
    assert desk.effects() == [f"step {i}" for i in (0, 1, 2, 3, 4, 2, 3, 4)]
    assert result.get(timeout=0) == 5


def test_a_fork_before_a_wait_gets_the_signal_again(desk: Desk) -> None:
    result = flows.waits.delay(["a", "b"])
    result.signal("a", 1)
    result.signal("b", 2)
    assert desk.get(result) == [1, 2]

    copy = flows.app.AsyncResult(operations.fork(flows.app, result.id, "wait b"))

    assert desk.get(copy) == [1, 2]


def test_a_rewound_run_goes_on_under_its_id(desk: Desk) -> None:
    result = flows.five.delay(0)
    desk.drain()

    operations.rewind(flows.app, result.id, 4)

    assert desk.get(result) == 5
    assert desk.effects() == [f"step {i}" for i in (0, 1, 2, 3, 4, 3, 4)]


def test_a_suspended_run_can_be_rewound_and_a_running_one_cannot(desk: Desk) -> None:
    result = flows.waits.delay(["a", "b"])
    result.signal("a", 1)
    desk.drain()
    operations.rewind(flows.app, result.id)
    (claim,) = desk.claim()

    with pytest.raises(WorkflowError, match="is STARTED"):
        operations.rewind(flows.app, result.id)

    desk.settle(desk.run(claim))
    result.signal("b", 2)
    assert desk.get(result) == [1, 2]


# -- looking


def test_runs_are_found_by_name_state_and_age(desk: Desk) -> None:
    done, waits = flows.five.delay(1), flows.waiter.delay("packed", 60)
    desk.drain()

    def found(**filters: Any) -> list[str]:
        return [run.public_id for run in operations.find(flows.app, **filters)]

    assert found() == [waits.id, done.id]
    assert found(states=["SUSPENDED"]) == [waits.id]
    assert found(flows=[flows.five.name]) == [done.id]
    assert found(states=["SUCCESS"], since=datetime.now(UTC) - timedelta(hours=1)) == [done.id]
    assert found(states=["SUCCESS"], since=datetime.now(UTC) + timedelta(hours=1)) == []
    assert operations.find(flows.app, states=["SUSPENDED"])[0].waits_for == ["packed"]


def test_the_views_show_runs_steps_and_signals(desk: Desk) -> None:
    result = flows.waiter.delay("packed")
    desk.drain()
    row = desk.conn.execute("SELECT state, steps, waits_for, wakes_at FROM pgtasks.runs").fetchone()
    assert row == ("SUSPENDED", 1, ["packed"], None)

    result.signal("packed", {"a": 1})

    assert desk.conn.execute("SELECT name, is_taken, value FROM pgtasks.signals").fetchall() == [
        ("packed", False, '{"a": 1}')
    ]
    desk.drain()
    assert desk.conn.execute("SELECT is_taken FROM pgtasks.signals").fetchone() == (True,)
    assert desk.conn.execute("SELECT state FROM pgtasks.runs").fetchone() == ("SUCCESS",)


def test_an_unknown_run_is_told_apart(desk: Desk) -> None:
    with pytest.raises(RunNotFound, match="result_expires"):
        operations.look(flows.app, str(new_id()))


# -- replay


def test_a_replay_of_unchanged_code_fits_and_does_nothing(desk: Desk) -> None:
    ended, waits = flows.five.delay(0), flows.waits.delay(["a", "b"])
    waits.signal("a", 1)
    desk.drain()
    asynchronous = flows.afive.delay(0)
    desk.drain()
    effects = desk.effects()

    verdicts = [replaying.replay(flows.app, each.id) for each in (ended, waits, asynchronous)]

    assert [verdict.fits for verdict in verdicts] == [True] * 3
    assert [verdict.end for verdict in verdicts] == ["returned", "at the end of the history", "returned"]
    assert desk.effects() == effects


def test_a_replay_of_changed_code_says_where_it_diverges(desk: Desk) -> None:
    result = flows.changing.delay()
    desk.drain()
    exported = operations.export(flows.app, result.id)
    deploy(desk, before=["a", "c"])

    for verdict in (replaying.replay(flows.app, result.id), replaying.replay_document(flows.app, exported)):
        assert not verdict.fits
        assert verdict.divergences == ["at 2: the code comes to c, recorded is b#0"]
    assert desk.effects() == ["a", "b", "c"]


# -- commands


def test_the_commands_show_talk_and_run_again(desk: Desk) -> None:
    result = flows.waiter.delay("packed")
    desk.drain()

    assert "waits for packed" in said("workflow", "list", "--state", "SUSPENDED")
    assert "SUSPENDED" in said("workflow", "show", result.id)
    assert "█" in said("workflow", "show", result.id)
    assert [json.loads(line)["name"] for line in said("workflow", "steps", result.id).splitlines()] == [
        "effect",
        "wait packed",
    ]
    assert said("workflow", "signal", result.id, "packed", '{"by": "cli"}') == "sent\n"
    assert desk.get(result) == {"by": "cli"}
    assert "fits" in said("replay", result.id)
    copy = said("workflow", "fork", result.id, "--from", "wait packed").strip()
    assert desk.get(flows.app.AsyncResult(copy)) == {"by": "cli"}
    assert said("workflow", "rewind", result.id) == "rewound 1 run\n"
    assert desk.get(result) == {"by": "cli"}


def test_the_commands_say_what_is_wrong_in_a_line(desk: Desk) -> None:
    result = flows.five.delay(1)
    desk.drain()

    assert "has ended and takes no signals" in said("workflow", "signal", result.id, "packed", status=1)
    assert "No run" in said("workflow", "show", str(new_id()), status=1)
    assert "is not JSON" in said("workflow", "signal", result.id, "packed", "{", status=2)
    assert "None of these has failed" in said("workflow", "redrive", result.id, status=1)
    assert "choose them by" in said("workflow", "redrive", status=2)
    assert said("workflow", "cancel", result.id) == "cancelled 0 runs; 1 had ended before\n"
    assert "No run nonsense" in said("workflow", "cancel", "nonsense", status=1)
    assert "No run nonsense" in said("workflow", "signal", "nonsense", "packed", status=1)
    assert "No workflow is named flows.fvie here" in said("workflow", "cancel", "--name", "flows.fvie")
    assert "'SUSPENDD' is not one of" in said("workflow", "list", "--state", "SUSPENDD", status=2)
    assert "has no step '99'. Its steps: 1 effect" in said("workflow", "fork", result.id, "--from", "99", status=1)
    assert "there may be more" in said("workflow", "cancel", "--state", "SUCCESS", "--limit", "1", "--dry-run")
    for text in ("xx", '{"a": 1}', "[]"):
        file = desk.stage.directory / "run.json"
        file.write_text(text)
        assert "This is no exported run" in said("replay", str(file), status=1)


def test_many_runs_are_redriven_by_a_filter_and_a_dry_run_does_nothing(desk: Desk) -> None:
    path = desk.stage.directory / "tries"
    results = [flows.frail.delay(str(path)), flows.fails.delay()]
    desk.drain()

    dry = said("workflow", "redrive", "--name", flows.frail.name, "--dry-run")
    assert results[0].id in dry
    assert results[1].id not in dry
    assert desk.drain() == 0

    assert said("workflow", "redrive", "--name", flows.frail.name) == "1 task runs again\n"
    assert desk.drain() == 1


def test_many_runs_are_cancelled_by_a_filter(desk: Desk) -> None:
    results = [flows.waiter.delay("packed") for _ in range(3)]
    desk.drain()

    said("workflow", "cancel", "--name", flows.waiter.name, "--since", "1h")
    desk.drain()

    for result in results:
        with pytest.raises(TaskRevokedError):
            result.get(timeout=0)


def test_a_replay_that_diverges_fails_the_command(desk: Desk) -> None:
    result = flows.changing.delay()
    desk.drain()
    deploy(desk, before=["a", "c"])

    assert "DIVERGES" in said("replay", result.id, status=1)
