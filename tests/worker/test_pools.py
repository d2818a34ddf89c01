"""One suite for every pool: what a task can do, and what can be done to it, with a real worker.

One worker serves all tests of a pool: at the end it must still be the same one, and hold nothing.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgtasks import chain, chord, group
from pgtasks.exceptions import (
    ChordError,
    EncodeError,
    NotRegistered,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from pgtasks.exceptions import TimeoutError as PatienceOver
from pgtasks.message import id_of
from pgtasks.store import tasks
from tests.support import postgres
from tests.support.hands import message, standing
from tests.support.links import Link
from tests.support.workers import STUCK_S, Stage, WorkerProcess, eventually
from tests.worker import jobs

POOLS = ("prefork", "threads", "aio", "gevent", "solo")
SLOTS = 2


def only(*pools: str) -> Any:
    """For what not every pool can do."""
    return pytest.mark.parametrize("_world", pools, indirect=True)


class World:
    """One worker with its stage, seen by a test."""

    def __init__(self, pool: str, url: str, directory: Path) -> None:
        self.pool, self.url = pool, url
        self.stage = Stage(directory)
        self.slots = 1 if pool == "solo" else SLOTS
        self.conn = psycopg.connect(url, autocommit=True)
        self.gates: list[str] = []
        self.start_worker()

    def start_worker(self) -> None:
        self.worker = WorkerProcess(
            self.stage.directory, pool=self.pool, concurrency=SLOTS,
            environ={"PGTASKS_DATABASE_URL": self.url, **self.stage.environ()},
        )  # fmt: skip
        self.worker.await_ready()

    def get(self, result: Any) -> Any:
        """The value of a task, or its exception; fails at once when the worker has ended."""
        deadline = time.monotonic() + STUCK_S
        while True:
            try:
                return result.get(timeout=0.5)
            except PatienceOver:
                assert self.worker.process.poll() is None, f"the worker ended:\n{self.worker.output()[-3000:]}"
                assert time.monotonic() < deadline, f"{result.id} is {self.standing(result)}"

    def standing(self, result: Any) -> list[str]:
        return standing(self.conn, id_of(result.id))

    def await_standing(self, result: Any, *places: str) -> None:
        eventually(lambda: self.standing(result) == list(places), f"{result.id} is {places}")

    def gate(self) -> str:
        """The name of a gate that is opened at the end of the test at the latest."""
        self.gates.append(uuid4().hex)
        return self.gates[-1]

    def occupy(self, slots: int) -> tuple[str, list[Any]]:
        """Have so many slots wait at a gate; gives the gate and the results."""
        gate = self.gate()
        results = [jobs.wait.delay(gate) for _ in range(slots)]
        for result in results:
            self.stage.await_line("begin", id=result.id)
        return gate, results


@pytest.fixture(scope="module", params=POOLS)
def _world(request: pytest.FixtureRequest, _database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if request.param == "gevent":
        pytest.importorskip("gevent", reason="the gevent pool is an extra: pip install 'pgtasks[gevent]'")
    postgres.empty(_database)
    world = World(request.param, _database, tmp_path_factory.mktemp(request.param))
    patch = pytest.MonkeyPatch()
    patch.setenv("PGTASKS_DATABASE_URL", _database)
    patch.setenv("JOBS_STAGE", str(world.stage.directory))
    try:
        yield world
        assert world.worker.stop() == 0, world.worker.output()[-3000:]
        assert "Traceback" not in world.worker.output().partition("worker: Warm shutdown")[2]
        assert world.conn.execute("SELECT count(*) FROM pgtasks.claim").fetchone() == (0,)
        assert world.conn.execute("SELECT count(*) FROM pgtasks.worker").fetchone() == (0,)
    finally:
        patch.undo()
        world.worker.kill()
        world.conn.close()


@pytest.fixture
def world(_world: World) -> Iterator[World]:
    if _world.worker.process.poll() is not None:
        _world.start_worker()
    yield _world
    for gate in _world.gates:
        _world.stage.open(gate)
    # Whatever the test did to it, the worker works.
    assert _world.get(jobs.add.delay(20, 3)) == 23


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
