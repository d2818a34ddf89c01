"""One suite for every pool: what a task can do, with a real worker."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from pgtasks import chain, chord, group
from pgtasks.exceptions import (
    ChordError,
    TaskRevokedError,
    WorkerLostError,
)
from tests.support.workers import STUCK_S, eventually
from tests.worker import jobs
from tests.worker.world import POOLS, World, _world, only, world

__all__ = ("_world", "world")


# -- what a task can do


def test_a_task_returns_its_value(world: World) -> None:
    assert world.get(jobs.add.delay(2, y=3)) == 5
    jobs.app.set_current()  # of which shared tasks are here; another test may have made its own the current one
    assert world.get(jobs.shared.delay(4)) == 4


def test_a_task_fails_with_its_own_exception_and_a_traceback(world: World) -> None:
    result = jobs.fail.delay("what happened")

    with pytest.raises(ValueError, match="what happened"):
        world.get(result)
    assert result.state == "FAILURE"
    assert "raise ValueError(text)" in result.traceback


@pytest.mark.parametrize("text", ["with \0 inside", "\ud800 alone", "é漢🎉", "x" * 1_000_000, "%s %d {}", "\x1b[31m"])
def test_no_message_of_an_exception_is_too_strange(world: World, text: str) -> None:
    with pytest.raises(ValueError) as raised:
        world.get(jobs.fail.delay(text))

    assert raised.value.args == (text,)


@pytest.mark.parametrize("job", ["fail_unspeakably", "fail_pickily"])
def test_no_exception_is_too_strange(world: World, job: str) -> None:
    result = getattr(jobs, job).delay()

    with pytest.raises(Exception):
        world.get(result)
    assert result.state == "FAILURE"


@pytest.mark.parametrize("kind", ["MemoryError"])
def test_running_out_of_memory_fails_the_task_and_not_the_worker(world: World, kind: str) -> None:
    with pytest.raises(MemoryError):
        world.get(jobs.leave.delay(kind))


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt"])
def test_a_task_that_leaves_its_process_has_failed_and_is_not_run_again(world: World, kind: str) -> None:
    result = jobs.leave.delay(kind)

    with pytest.raises(WorkerLostError, match="exited prematurely"):
        world.get(result)
    assert world.get(jobs.add.delay(1, 1)) == 2


def test_an_error_that_is_no_exception_fails_the_task_and_not_the_worker(world: World) -> None:
    with pytest.raises(jobs.Wild):
        world.get(jobs.leave.delay("Wild"))

    assert world.get(jobs.add.delay(1, 1)) == 2


def test_endless_recursion_fails_the_task_and_not_the_worker(world: World) -> None:
    with pytest.raises(RecursionError):
        world.get(jobs.recurse.delay())


def test_a_task_is_retried_with_its_count_until_it_succeeds(world: World) -> None:
    result = jobs.retry_until.delay(3)

    assert world.get(result) == 3
    assert [line["retries"] for line in world.stage.lines("begin", id=result.id)] == [0, 1, 2, 3]


def test_a_task_that_is_retried_too_often_fails_with_its_reason(world: World) -> None:
    result = jobs.retry_until.delay(10)

    with pytest.raises(KeyError, match="not yet"):
        world.get(result)
    assert len(world.stage.lines("begin", id=result.id)) == 4


def test_a_retry_without_delay_runs_at_once(world: World) -> None:
    assert world.get(jobs.retry_until.delay(3, countdown=0)) == 3


@pytest.mark.parametrize(
    "options",
    [{"queue": "nul\0"}, {"queue": "\ud800"}, {"priority": 10**6}, {"countdown": 1e300}, {"expires": 1e300}],
    ids=str,
)
def test_a_retry_that_no_database_takes_fails_the_task_and_not_the_worker(
    world: World, options: dict[str, Any]
) -> None:
    result = jobs.retry_as.delay(**options)

    with pytest.raises(Exception):
        world.get(result)
    assert result.state == "FAILURE"


def test_an_ignored_task_ends_without_a_state(world: World) -> None:
    result = jobs.ignore.delay()

    world.await_standing(result, "IGNORED")
    assert result.state == "PENDING"


def test_a_rejected_task_is_run_again_only_if_it_says_so(world: World) -> None:
    again, never = jobs.reject.delay(requeue_once=True), jobs.reject.delay()

    if world.pool != POOLS[0]:
        (world.stage.directory / "rejected").unlink(missing_ok=True)
    assert world.get(again) == "second time"
    eventually(lambda: world.standing(never) not in (["ready"], ["claimed"]))
    assert len(world.stage.lines("begin", id=never.id)) == 1


def test_a_forgotten_result_is_not_kept(world: World) -> None:
    result = jobs.forgotten.delay()

    world.await_standing(result, "SUCCESS")
    assert result.state == "PENDING"
    assert world.conn.execute("SELECT value FROM pgtasks.result WHERE id = %s", [result.id]).fetchone() == (None,)


def test_a_running_task_shows_a_state_of_its_own(world: World) -> None:
    gate = world.gate()
    result = jobs.progress.delay(gate)

    eventually(lambda: result.state == "HALFWAY")
    assert result.info == {"done": 50}
    world.stage.open(gate)
    assert world.get(result) == "all the way"


def test_a_tracked_task_shows_that_it_started(world: World) -> None:
    gate = world.gate()
    result = jobs.tracked.delay(gate)

    eventually(lambda: result.state == "STARTED")
    assert result.info["hostname"].startswith("celery@")
    world.stage.open(gate)
    world.get(result)


def test_a_task_sends_tasks(world: World) -> None:
    sent = world.get(jobs.spawn.delay(10))

    assert [world.get(jobs.app.AsyncResult(each)) for each in sent] == [n + n for n in range(10)]


def test_what_a_task_logs_and_prints_is_in_the_workers_log(world: World) -> None:
    text = uuid4().hex
    result = jobs.speak.delay(text)
    world.get(result)

    world.worker.await_output(f"spoken: {text}")
    world.worker.await_output(f"printed: {text}")


def test_a_thousand_small_tasks_run_once_each(world: World) -> None:
    results = [jobs.add.delay(n, 1) for n in range(300)]

    assert [world.get(result) for result in results] == [n + 1 for n in range(300)]
    begun = [line["id"] for line in world.stage.lines("begin", name="tests.worker.jobs.add")]
    assert all(begun.count(result.id) == 1 for result in results)


def test_canvas_works_through(world: World) -> None:
    assert world.get(chain(jobs.add.s(1, 1), jobs.add.s(2), jobs.add.s(3))()) == 7
    assert world.get(group(jobs.add.s(n, n) for n in range(5))()) == [0, 2, 4, 6, 8]
    assert world.get(chord([jobs.add.s(n, n) for n in range(5)])(jobs.tsum.s())) == 20
    body = chord([jobs.add.s(1, 1), jobs.fail.s()])(jobs.tsum.s())
    with pytest.raises(ValueError, match="boom"):  # as in Celery, the header's error is seen first
        world.get(body)
    assert isinstance(body.result, ChordError)
    with pytest.raises(ValueError, match="boom"):
        world.get(chain(jobs.fail.si(), jobs.add.s(1))())


# -- coroutines, on every pool


def test_a_coroutine_function_is_a_task_like_any_other(world: World) -> None:
    assert world.get(jobs.async_add.delay(1, 2)) == 3
    with pytest.raises(ValueError, match="async boom"):
        world.get(jobs.async_fail.delay())


# -- when


def test_a_countdown_is_counted_by_the_databases_clock(world: World) -> None:
    result = jobs.add.apply_async((1, 1), countdown=0.3)

    assert world.get(result) == 2
    assert world.conn.execute(
        "SELECT r.claimed_at >= m.created_at + interval '300 ms' FROM pgtasks.message m JOIN pgtasks.result r USING (id)"
        " WHERE id = %s",
        [result.id],
    ).fetchone() == (True,)


def test_an_eta_that_has_passed_is_now(world: World) -> None:
    assert world.get(jobs.add.apply_async((1, 1), eta=datetime.now(UTC) - timedelta(days=1))) == 2


def test_an_expired_task_never_runs(world: World) -> None:
    result = jobs.add.apply_async((1, 1), expires=-1)

    with pytest.raises(TaskRevokedError, match="expired"):
        world.get(result)
    assert result.state == "REVOKED"
    assert not world.stage.lines("begin", id=result.id)


def test_a_task_that_expires_while_it_waits_for_its_time_never_runs(world: World) -> None:
    result = jobs.add.apply_async((1, 1), countdown=0.2, expires=0.1)

    with pytest.raises(TaskRevokedError, match="expired"):
        world.get(result)
    assert not world.stage.lines("begin", id=result.id)


@only("prefork", "solo")  # threads and coroutines that have taken their task may begin it in any order
def test_the_urgent_run_first_and_equals_in_their_order(world: World) -> None:
    for priority in (0, 9):  # lanes of priorities seen before are looked at together
        world.get(jobs.add.apply_async((1, 1), priority=priority))
    gate, held = world.occupy(world.slots)

    low = [jobs.add.apply_async((1, n), priority=0) for n in range(4)]
    high = [jobs.add.apply_async((1, n), priority=9) for n in range(4)]
    for result in (*low, *high):  # what the worker has taken in advance goes back when no slot gets free
        world.await_standing(result, "ready")
    # One that was taken in advance has gone back behind its equals.
    rows = world.conn.execute("SELECT id::text FROM pgtasks.ready ORDER BY rank, seq").fetchall()
    queued = [row[0] for row in rows if row[0] in {result.id for result in (*low, *high)}]
    assert set(queued[:4]) == {result.id for result in high}
    assert set(queued[4:]) == {result.id for result in low}
    world.stage.open(gate)
    for result in (*held, *low, *high):
        world.get(result)

    place = {task_id: n for n, task_id in enumerate(queued)}
    lines = [line for line in world.stage.lines("begin") if line["id"] in place]
    for pid in {line["pid"] for line in lines}:
        order = [place[line["id"]] for line in lines if line["pid"] == pid]
        assert order == sorted(order)


@only("prefork", "threads", "aio", "gevent")
def test_short_tasks_do_not_wait_behind_a_long_one(world: World) -> None:
    gate, held = world.occupy(1)

    assert [world.get(jobs.add.delay(n, 0)) for n in range(30)] == list(range(30))

    world.stage.open(gate)
    world.get(held[0])


# -- hooks and receivers that raise


@pytest.mark.parametrize("job", ["clumsy_success", "clumsy_failure", "clumsy_before"])
def test_a_hook_that_raises_neither_hangs_the_task_nor_runs_it_twice(world: World, job: str) -> None:
    result = getattr(jobs, job).delay()

    eventually(lambda: world.standing(result) in (["SUCCESS"], ["FAILURE"]))
    assert len(world.stage.lines("begin", id=result.id)) <= 1


def test_a_receiver_that_raises_changes_nothing(world: World) -> None:
    world.stage.open("stumble")
    try:
        assert world.get(jobs.add.delay(1, 1)) == 2
        assert world.get(jobs.retry_until.delay(1)) == 1
        with pytest.raises(ValueError):
            world.get(jobs.fail.delay())
    finally:
        (world.stage.directory / "gate-stumble").unlink()


# -- logs


def test_the_log_lines_are_celerys(world: World) -> None:
    good, bad, again = jobs.add.delay(1, 2), jobs.fail.delay("loud"), jobs.retry_until.delay(1)
    for result in (good, bad, again):
        result.get(timeout=STUCK_S, propagate=False)

    for line in (
        f"Task tests.worker.jobs.add[{good.id}] received",
        f"Task tests.worker.jobs.add[{good.id}] succeeded in ",
        f"Task tests.worker.jobs.fail[{bad.id}] raised unexpected: ValueError('loud')",
        f"Task tests.worker.jobs.retry_until[{again.id}] retry: Retry in 0.01s: KeyError('not yet')",
    ):
        world.worker.await_output(line)


def test_a_thing_that_a_task_leaves_behind_is_not_seen_by_the_next(world: World) -> None:
    """The request belongs to one call."""
    lines = [json.dumps(world.get(jobs.echo.apply_async(([n],), headers={"n": n}))) for n in range(5)]

    assert lines == [f"[{n}]" for n in range(5)]


@only("prefork", "threads", "aio", "gevent")
def test_a_signal_to_a_child_from_outside_is_a_death_like_any_other(world: World) -> None:
    gate, (result,) = world.occupy(1)
    (pid,) = {line["pid"] for line in world.stage.lines("begin", id=result.id)}

    os.kill(pid, signal.SIGKILL)
    world.stage.await_line("begin", count=2, id=result.id)
    world.stage.open(gate)

    assert world.get(result) is None
