"""One suite for every pool: tasks that are revoked, that end at their limits, that cannot be read; with a real worker."""

from __future__ import annotations

import math
import os
import pickle
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from pgtasks.exceptions import (
    EncodeError,
    NotRegistered,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
)
from pgtasks.store import tasks
from tests.support.hands import message, standing
from tests.support.links import Link
from tests.support.workers import eventually
from tests.worker import jobs
from tests.worker.world import World, _world, only, world

__all__ = ("_world", "world")


# -- revoked


def test_a_queued_task_that_is_revoked_never_runs(world: World) -> None:
    gate, held = world.occupy(world.slots)
    result = jobs.add.delay(1, 1)

    result.revoke()
    with pytest.raises(TaskRevokedError):
        world.get(result)
    world.stage.open(gate)
    for each in held:
        world.get(each)
    world.get(jobs.add.delay(1, 1))

    assert result.state == "REVOKED"
    assert not world.stage.lines("begin", id=result.id)


def test_a_scheduled_task_that_is_revoked_never_runs(world: World) -> None:
    result = jobs.add.apply_async((1, 1), countdown=3600)

    result.revoke()

    with pytest.raises(TaskRevokedError):
        world.get(result)


def test_revoking_a_running_task_without_terminate_lets_it_end(world: World) -> None:
    gate, (result,) = world.occupy(1)

    result.revoke()
    world.stage.open(gate)

    assert world.get(result) is None
    assert result.state == "SUCCESS"


@only("prefork", "gevent")
@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGKILL", "TERM", signal.SIGKILL, None])
def test_a_running_task_is_terminated_and_its_neighbour_is_not(world: World, signal_name: Any) -> None:
    gate, (doomed, neighbour) = world.occupy(2)

    doomed.revoke(terminate=True, signal=signal_name)
    with pytest.raises(TaskRevokedError, match="terminated"):
        world.get(doomed)
    world.stage.open(gate)

    assert world.get(neighbour) is None
    assert len(world.stage.lines("begin", id=neighbour.id)) == 1


@only("prefork")
def test_a_signal_that_does_not_kill_leaves_the_child_under_its_time_limits(world: World) -> None:
    """Revoked by a signal that it ignores, a task lives on; what its child runs later has limits as before."""
    blocked, held = world.occupy(1)
    gate = world.gate()
    deaf = jobs.shrug_off.delay(gate)
    world.stage.await_line("begin", id=deaf.id)
    world.stage.await_line("deaf")

    deaf.revoke(terminate=True, signal="SIGHUP")
    eventually(
        lambda: (
            world.conn.execute("SELECT revoke_signal FROM pgtasks.claim WHERE id = %s", [deaf.id]).fetchone()
            == ("SIGHUP",)
        )
    )
    get_when_ticked = jobs.add.apply_async((1, 1), countdown=1.2)  # a tick later the signal has been sent
    world.stage.open(gate)
    assert world.get(deaf) == "still here"
    world.get(get_when_ticked)

    with pytest.raises(TimeLimitExceeded):
        world.get(jobs.spin.apply_async(time_limit=0.3))
    world.stage.open(blocked)
    world.get(held[0])


@only("prefork")
def test_a_task_that_is_terminated_cleans_up_first(world: World) -> None:
    doomed = jobs.tidy.delay(world.gate())
    world.stage.await_line("begin", id=doomed.id)

    doomed.revoke(terminate=True)

    with pytest.raises(TaskRevokedError, match="terminated"):
        world.get(doomed)
    assert world.stage.lines("tidied")


@only("prefork")
def test_a_task_that_catches_its_termination_lives_and_so_does_its_child_which_can_be_told_again(world: World) -> None:
    blocked, held = world.occupy(world.slots - 1)
    survivor = jobs.swallow.delay(world.gate())
    world.stage.await_line("begin", id=survivor.id)
    survivor.revoke(terminate=True)
    assert world.get(survivor) == "still here"
    child = world.get(jobs.pid.delay())
    assert child == world.stage.lines("caught")[0]["pid"]

    doomed = jobs.tidy.delay(world.gate())
    world.stage.await_line("begin", id=doomed.id)
    doomed.revoke(terminate=True)

    with pytest.raises(TaskRevokedError, match="terminated"):
        world.get(doomed)
    assert world.stage.lines("tidied", pid=child)
    world.stage.open(blocked)
    [world.get(each) for each in held]


# -- time limits


def test_the_soft_limit_is_raised_in_the_task_and_can_be_caught(world: World) -> None:
    raised = jobs.spin.apply_async(soft_time_limit=0.2)
    with pytest.raises(SoftTimeLimitExceeded):
        world.get(raised)
    caught = jobs.spin.apply_async((True,), soft_time_limit=0.2)
    assert world.get(caught) == "cleaned up"
    for result in (raised, caught):
        world.worker.await_output(f"Soft time limit (0.2s) exceeded for tests.worker.jobs.spin[{result.id}]")


@only("prefork", "aio", "gevent", "solo")
def test_the_soft_limit_ends_a_coroutine(world: World) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        world.get(jobs.async_spin.apply_async(soft_time_limit=0.2))


@only("prefork", "threads", "aio", "gevent")
def test_the_hard_limit_ends_the_task(world: World) -> None:
    result = jobs.spin.apply_async(time_limit=0.3)

    with pytest.raises(TimeLimitExceeded):
        world.get(result)
    assert result.state == "FAILURE"


@only("prefork", "aio", "gevent")
def test_the_hard_limit_ends_a_coroutine(world: World) -> None:
    with pytest.raises(TimeLimitExceeded):
        world.get(jobs.async_spin.apply_async(time_limit=0.3))


@only("prefork")
def test_a_task_that_does_not_acknowledge_timeouts_runs_again_after_its_hard_limit(world: World) -> None:
    assert world.get(jobs.spin_at_first.delay()) == 2


def test_many_tasks_that_end_at_their_soft_limit_harm_no_other(world: World) -> None:
    """The alarm may come between the end of the task and the end of its limit."""
    results = [jobs.wait.apply_async((world.gate(),), soft_time_limit=0.01 + n / 5000) for n in range(20)]
    others = [jobs.add.delay(n, 0) for n in range(20)]

    for result in results:
        with pytest.raises(SoftTimeLimitExceeded):
            world.get(result)
    assert [world.get(each) for each in others] == list(range(20))


# -- payloads


@pytest.mark.parametrize(
    "value",
    [
        "nul \0 inside", "\ud800", 2**70, -(2**64), 1e16, -0.0, 1e-320, math.inf, "é漢🎉", "", [], {}, None, True,
        {"a": [{"b": None}]}, "x" * 10_000_000, [0] * 100_000,
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_a_value_arrives_and_comes_back_as_it_was(world: World, value: Any) -> None:
    back = world.get(jobs.echo.delay(value))

    assert back == value
    assert repr(back)[:100] == repr(value)[:100]


def test_not_a_number_comes_back_as_such(world: World) -> None:
    assert math.isnan(world.get(jobs.echo.delay(math.nan)))


def test_arguments_that_cannot_be_sent_are_an_error_to_who_sends_them(world: World) -> None:
    before = world.conn.execute("SELECT count(*) FROM pgtasks.message").fetchone()
    circle: list[Any] = []
    circle.append(circle)

    for value in (object(), circle, {1, object()}, jobs.deep(100_000)):
        with pytest.raises((EncodeError, RecursionError, ValueError, TypeError)):
            jobs.echo.delay(value)

    assert world.conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == before


@pytest.mark.parametrize("what", ["object", "circle", "deep"])
def test_a_result_that_cannot_be_stored_is_a_failure_that_says_so(world: World, what: str) -> None:
    result = jobs.make.delay(what)

    with pytest.raises(Exception):
        world.get(result)
    assert result.state == "FAILURE"
    assert len(world.stage.lines("begin", id=result.id)) == 1


def test_a_task_that_nobody_registered_fails_with_that(world: World) -> None:
    with pytest.raises(NotRegistered):
        world.get(jobs.app.send_task("no.such.task"))


@pytest.mark.parametrize(
    "fields",
    [
        {"payload": random.Random(7).randbytes(100)},
        {"payload": b""},
        {"payload": b"null"},
        {"payload": b"[]"},
        {"payload": b"[1, 2, 3]"},
        {"payload": b'[{"a": 1}, [], null]'},
        {"payload": b"[[], {}, 7]"},
        {"payload": b'[[], {"x": 1}, {"callbacks": 3, "chain": "no"}]'},
        {"payload": b"[[],{},{}]", "options": b"not json"},
        {"payload": b"[[],{},{}]", "options": b"[]"},
        {"payload": b'[["a"],{},{}]', "options": b'{"timelimit": "soon", "headers": 4, "stamps": 9}'},
        {"payload": b"[[],{},{}]", "content_type": "application/x-nothing"},
        {"payload": b"[[],{},{}]", "content_encoding": "utf-99"},
        {"payload": b"[[],{},{}]", "content_encoding": "utf-8;application/x-gzip"},
        {"payload": b"\x80\x04K\x01.", "content_type": "application/x-python-serialize", "content_encoding": "binary"},
        {"name": "n" * 10_000},
        {"name": ""},
        {"payload": b"[" * 200_000 + b"]" * 200_000},
    ],
    ids=lambda fields: repr(fields)[:50],
)
def test_no_message_is_bad_enough_to_harm_a_worker(world: World, fields: dict[str, Any]) -> None:
    bad = message(**{"name": "tests.worker.jobs.echo", **fields})
    jobs.app.database.run(tasks.enqueue([bad]))

    eventually(lambda: standing(world.conn, bad) == ["FAILURE"], f"it is {standing(world.conn, bad)}")
    row = world.conn.execute("SELECT delivery FROM pgtasks.result WHERE id = %s", [bad.id]).fetchone()
    assert row == (1,)
    assert jobs.app.AsyncResult(str(bad.id)).state == "FAILURE"


def test_pickle_is_refused_unless_it_is_accepted_by_name(world: World, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "exploded"),)

    body = pickle.dumps(([Bomb()], {}, {}))
    bad = message(
        "tests.worker.jobs.echo", payload=body, content_type="application/x-python-serialize", content_encoding="binary"
    )
    jobs.app.database.run(tasks.enqueue([bad]))

    with pytest.raises(Exception, match="pickle|application/x-python-serialize"):
        world.get(jobs.app.AsyncResult(str(bad.id)))
    assert not (tmp_path / "exploded").exists()


def test_an_unreadable_link_of_a_chain_fails_the_rest_of_it(world: World) -> None:
    bad, rest = message("tests.worker.jobs.echo", payload=b"\xff"), message("tests.worker.jobs.add", inputs="value")
    jobs.app.database.run(tasks.enqueue([bad, rest], [Link(rest.id, bad.id)]))

    eventually(lambda: standing(world.conn, rest) == ["FAILURE"])
