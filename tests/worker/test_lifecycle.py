"""How workers begin, recycle their children, stop, die and are taken over."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psycopg
import pytest

from pgtasks.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded, WorkerLostError
from pgtasks.message import id_of
from pgtasks.store.database import Database
from pgtasks.worker.supervisor import Worker
from tests.support.hands import Hand, standing
from tests.support.workers import STUCK_S, Stage, WorkerProcess, eventually, running
from tests.worker import jobs

Conn = psycopg.Connection[Any]
Start = Callable[..., AbstractContextManager[WorkerProcess]]

pytestmark = pytest.mark.usefixtures("database_url")


@pytest.fixture
def start(stage: Stage) -> Start:
    """Start workers on the test's stage."""
    return lambda *options, **kwargs: running(stage.directory, *options, **kwargs)


@pytest.fixture(autouse=True)
def _let_go(stage: Stage) -> Iterator[None]:
    yield
    jobs.app.database.close()


def get(result: Any) -> Any:
    return result.get(timeout=STUCK_S)


def places(conn: Conn, *results: Any) -> list[list[str]]:
    return [standing(conn, id_of(result.id)) for result in results]


def column(conn: Conn, table: str, name: str, result: Any) -> Any:
    row = conn.execute(f"SELECT {name} FROM pgtasks.{table} WHERE id = %s", [id_of(result.id)]).fetchone()
    return row and row[0]


# -- what it says


def test_it_speaks_of_tasks_by_the_loggers_that_filters_for_celery_name(start: Start) -> None:
    with start("--log-format", "json") as worker:
        jobs.app.send_task("no.such.task")
        for limit in ("soft_time_limit", "time_limit"):
            with pytest.raises((SoftTimeLimitExceeded, TimeLimitExceeded)):
                get(jobs.spin.apply_async(**{limit: 0.1}))
        revoked = jobs.add.apply_async((1, 2), countdown=1_000_000)
        revoked.revoke()
        with pytest.raises(TaskRevokedError):
            get(revoked)
        get(jobs.add.delay(1, 2))
        worker.await_output("succeeded in")

        lines = [json.loads(line) for line in worker.output().splitlines() if line.startswith("{")]
        said = {(line["logger"], line["message"][:15]) for line in lines}

    assert said >= {
        ("celery.worker.consumer.connection", "Connected to po"),
        ("celery.worker.strategy", "Task tests.work"),
        ("celery.worker.consumer.consumer", "Received unregi"),
        ("celery.worker.request", "Soft time limit"),
        ("celery.worker.request", "Hard time limit"),
        ("celery.worker.request", "Discarding revo"),
        ("celery.app.trace", "Task tests.work"),
    }


def test_each_pool_process_has_a_log_file_of_its_own_which_its_successor_goes_on_with(stage: Stage) -> None:
    logs = stage.directory / "logs"
    logs.mkdir()
    worker = WorkerProcess(
        stage.directory, "-f", str(logs / "%n%I.log"), "--max-tasks-per-child=1", concurrency=1
    )
    try:
        assert [get(result) for result in [jobs.add.delay(1, n) for n in range(3)]] == [1, 2, 3]
        assert worker.stop() == 0
    finally:
        worker.kill()

    ours, theirs = ((logs / name).read_text() for name in ("celery.log", "celery-1.log"))
    assert len(list(logs.iterdir())) == 2
    assert (ours.count("received"), ours.count("succeeded")) == (3, 0)
    assert (theirs.count("received"), theirs.count("succeeded")) == (0, 3)


# -- a child dies


def test_a_task_whose_process_is_killed_runs_again(start: Start, stage: Stage, conn: Conn) -> None:
    with start():
        result = jobs.die.delay(1)

        assert get(result) == "lived"
    assert len(stage.lines("begin", id=result.id)) == 2
    assert column(conn, "result", "delivery", result) == 2


def test_a_poison_task_is_given_up_after_its_deliveries_and_its_neighbours_are_not_charged(
    start: Start, stage: Stage, conn: Conn
) -> None:
    with start("--", "task.max_deliveries=3", concurrency=1) as worker:
        before = [jobs.add.delay(n, 0) for n in range(20)]
        poison = jobs.die.delay()
        after = [jobs.add.delay(n, 0) for n in range(20)]

        with pytest.raises(WorkerLostError, match="exited prematurely: signal 9"):
            get(poison)
        assert [get(result) for result in (*before, *after)] == [*range(20), *range(20)]
        assert "will be run again" in worker.output()
        assert "failed for good after 3 such deaths" in worker.output()
    assert len(stage.lines("begin", id=poison.id)) == 3
    for neighbour in (*before, *after):
        assert len(stage.lines("begin", id=neighbour.id)) == 1


def test_a_task_may_ask_for_its_own_number_of_deliveries(start: Start, stage: Stage) -> None:
    with start():
        poison = jobs.die.apply_async(max_deliveries=1)

        with pytest.raises(WorkerLostError):
            get(poison)
    assert len(stage.lines("begin", id=poison.id)) == 1


def test_a_task_that_does_not_acknowledge_timeouts_still_does_not_time_out_for_ever(start: Start, stage: Stage) -> None:
    with start("--", "task.max_deliveries=2") as worker:
        result = jobs.spin_at_first.delay(1_000_000)

        with pytest.raises(TimeLimitExceeded):
            get(result)
        assert "It will be run again, since its acks_on_timeout is False." in worker.output()
    assert (stage.directory / f"spins-{result.id}").read_text() == "xx"


def test_an_at_most_once_task_whose_process_dies_has_failed_and_never_runs_again(start: Start, stage: Stage) -> None:
    with start():
        result = jobs.die_at_most_once.delay()

        with pytest.raises(WorkerLostError):
            get(result)
        get(jobs.add.delay(1, 1))
    assert len(stage.lines("begin", id=result.id)) == 1


def test_a_task_that_retries_when_its_process_dies_does_so_until_it_has_run_out(start: Start, stage: Stage) -> None:
    with start():
        assert get(jobs.die_until_retried.delay(2)) == 2

        in_vain = jobs.die_until_retried.delay(3)
        with pytest.raises(WorkerLostError, match="exited prematurely: signal 9"):
            get(in_vain)
    assert len(stage.lines("begin", id=in_vain.id)) == 3


def test_a_task_that_must_not_be_delivered_again_when_its_process_dies_has_failed(start: Start, stage: Stage) -> None:
    with start():
        result = jobs.die_once.delay()

        with pytest.raises(WorkerLostError):
            get(result)
    assert len(stage.lines("begin", id=result.id)) == 1


def test_a_process_that_exits_by_itself_is_lost_with_its_exit_code(start: Start) -> None:
    with start("--", "task.max_deliveries=1"):
        with pytest.raises(WorkerLostError, match="exitcode 3"):
            get(jobs.exit_process.delay(3))


@pytest.mark.parametrize("pool", ["threads", "aio"])
def test_a_task_that_kills_a_pool_of_many_slots_does_not_cost_its_neighbours_their_lives(
    start: Start, stage: Stage, pool: str
) -> None:
    """The others die with it, which counts, but they live on after it has been given up."""
    with start("--", "task.max_deliveries=5", pool=pool, concurrency=4):
        neighbour = jobs.wait.delay("go")
        stage.await_line("begin", id=neighbour.id)
        poison = jobs.die.apply_async(max_deliveries=2)

        with pytest.raises(WorkerLostError):
            get(poison)
        stage.open("go")
        assert get(neighbour) is None


def test_children_that_are_killed_are_replaced_one_for_one(start: Start, stage: Stage) -> None:
    with start(concurrency=3) as worker:
        for _ in range(4):
            before = eventually(lambda: len(found := worker.children()) == 3 and found)
            os.kill(before[0], signal.SIGKILL)
            os.kill(before[2], signal.SIGKILL)
            eventually(lambda: not {before[0], before[2]} & set(worker.children()) and len(worker.children()) == 3)
        assert get(jobs.add.delay(1, 1)) == 2
        assert worker.stop() == 0


# -- recycling


@pytest.mark.parametrize("pool", ["prefork", "threads", "aio"])
def test_children_are_replaced_after_their_number_of_tasks(start: Start, stage: Stage, pool: str) -> None:
    with start("--max-tasks-per-child", "3", pool=pool) as worker:
        pids = [get(jobs.pid.delay()) for _ in range(20)]
        results = [jobs.pid.delay() for _ in range(40)]
        pids += [get(result) for result in results]
        assert worker.stop() == 0

    counts = [pids.count(pid) for pid in set(pids)]
    # In a pool of threads, others may be under way when the third ends.
    assert max(counts) <= (3 if pool == "prefork" else 4), counts
    assert len(stage.lines("begin", name="tests.worker.jobs.pid")) == 60


def test_a_child_that_uses_too_much_memory_is_replaced(start: Start, stage: Stage) -> None:
    with start("--max-memory-per-child", "200000", concurrency=1):
        hog = get(jobs.hoard.delay(400))
        others = [get(jobs.pid.delay()) for _ in range(3)]

    assert hog not in others
    assert len(set(others)) == 1


# -- stopping


@pytest.mark.parametrize("pool", ["prefork", "threads", "aio"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_warm_shutdown_ends_what_runs_and_returns_the_rest_at_once(
    start: Start, stage: Stage, conn: Conn, pool: str, signum: int
) -> None:
    with start(pool=pool, concurrency=2) as worker:
        [get(jobs.add.delay(1, 1)) for _ in range(5)]  # it knows now that tasks are short, and claims ahead
        gates = [jobs.wait.delay("go", n) for n in range(2)]
        for gate in gates:
            stage.await_line("begin", id=gate.id)
        queued = [jobs.add.delay(n, 0) for n in range(30)]
        worker.send(signum)

        worker.await_output("worker: Warm shutdown (MainProcess)")
        eventually(lambda: places(conn, *queued) == [["ready"]] * 30, "the rest went back")
        assert worker.process.poll() is None, "what runs must be allowed to end"
        stage.open("go")
        assert worker.join() == (1 if signum == signal.SIGINT else 0)

    assert [get(gate) for gate in gates] == [0, 1]
    assert not [line for result in queued for line in stage.lines("begin", id=result.id)]
    assert all(column(conn, "ready", "losses", result) == 0 for result in queued)
    assert conn.execute("SELECT count(*) FROM pgtasks.worker").fetchone() == (0,)


def test_an_idle_worker_stops_at_once(start: Start, conn: Conn) -> None:
    for pool in ("prefork", "threads", "aio", "solo"):
        with start(pool=pool) as worker:
            assert worker.stop() == 0
    assert conn.execute("SELECT count(*) FROM pgtasks.worker").fetchone() == (0,)
    assert conn.execute("SELECT count(*) FROM pgtasks.idle").fetchone() == (0,)


def test_a_worker_that_runs_tasks_itself_waits_for_no_child_to_leave() -> None:
    worker = Mock(spec=Worker, crew=Mock(children=[Mock(pid=0)]), _reactor=Mock())
    worker.crew.kill.return_value = []

    assert Worker._release_children(worker) == []

    worker._reactor.sleep.assert_not_called()


@pytest.mark.parametrize("pool", ["prefork", "threads", "aio"])
@pytest.mark.parametrize("signals", [(signal.SIGQUIT,), (signal.SIGINT, signal.SIGINT)], ids=["QUIT", "INT twice"])
def test_a_cold_shutdown_returns_what_runs_uncharged_and_another_worker_runs_it(
    start: Start, stage: Stage, conn: Conn, pool: str, signals: tuple[int, ...]
) -> None:
    with start(pool=pool) as worker:
        running_tasks = [jobs.wait.delay("go", n) for n in range(2)]
        for each in running_tasks:
            stage.await_line("begin", id=each.id)
        for signum in signals:
            worker.send(signum)
            worker.await_output("shutdown (MainProcess)")
        assert worker.join() == 0

    assert places(conn, *running_tasks) == [["ready"]] * 2
    assert [column(conn, "ready", "losses", each) for each in running_tasks] == [0, 0]
    stage.open("go")
    with start():
        assert [get(each) for each in running_tasks] == [0, 1]


def test_a_cold_shutdown_lets_tasks_clean_up(start: Start, stage: Stage, conn: Conn) -> None:
    with start() as worker:
        tidy = jobs.tidy.delay("never")
        stage.await_line("begin", id=tidy.id)
        assert worker.stop(signal.SIGQUIT) == 0

    assert len(stage.lines("tidied")) == 1
    assert places(conn, tidy) == [["ready"]]
    assert column(conn, "ready", "losses", tidy) == 0


def test_a_cold_shutdown_that_is_asked_for_again_waits_for_no_cleaning_up(
    start: Start, stage: Stage, conn: Conn
) -> None:
    with start() as worker:
        stubborn = jobs.tidy.delay("never", "never")
        stage.await_line("begin", id=stubborn.id)
        worker.send(signal.SIGQUIT)
        stage.await_line("tidied")
        worker.send(signal.SIGQUIT)
        while worker.process.poll() is None:  # some people press it until it is gone
            worker.send(signal.SIGQUIT)
            time.sleep(0.001)
        assert worker.process.returncode == 0

    assert places(conn, stubborn) == [["ready"]]
    assert column(conn, "ready", "losses", stubborn) == 0


def test_a_cold_shutdown_fails_an_at_most_once_task_and_what_waits_for_it(
    start: Start, stage: Stage, conn: Conn
) -> None:
    from pgtasks import chain

    with start() as worker:
        alone = jobs.wait_at_most_once.delay("never")
        rest = chain(jobs.wait_at_most_once.si("never"), jobs.add.si(1, 1))()
        stage.await_line("begin", count=2)
        worker.stop(signal.SIGQUIT)

    with start():
        for result in (alone, rest.parent, rest):
            with pytest.raises(WorkerLostError):
                get(result)
    assert len(stage.lines("begin")) == 2


def test_a_soft_shutdown_gives_what_runs_its_time_first(start: Start, stage: Stage, conn: Conn) -> None:
    with start("--", "worker.soft_shutdown_timeout=20") as worker:
        result = jobs.wait.delay("go", 5)
        stage.await_line("begin", id=result.id)
        worker.send(signal.SIGQUIT)
        worker.await_output("Initiating Soft Shutdown, terminating in 20.0 seconds")
        stage.open("go")
        worker.join()

    assert get(result) == 5


def test_a_soft_shutdown_whose_time_is_over_returns_what_runs(start: Start, stage: Stage, conn: Conn) -> None:
    with start("--", "worker.soft_shutdown_timeout=0.3") as worker:
        result = jobs.wait.delay("go", 5)
        stage.await_line("begin", id=result.id)
        worker.stop(signal.SIGQUIT)

    assert places(conn, result) == [["ready"]]
    assert worker.output().index("Initiating Soft Shutdown") < worker.output().index("Cold shutdown")


def test_a_second_signal_during_a_warm_shutdown_makes_it_cold(start: Start, stage: Stage, conn: Conn) -> None:
    with start() as worker:
        result = jobs.wait.delay("go", 5)
        stage.await_line("begin", id=result.id)
        worker.send(signal.SIGTERM)
        worker.await_output("Warm shutdown")
        worker.send(signal.SIGQUIT)
        worker.join()

    assert places(conn, result) == [["ready"]]


def test_a_child_that_dies_during_a_warm_shutdown_does_not_hang_it(start: Start, stage: Stage, conn: Conn) -> None:
    with start() as worker:
        result = jobs.wait.delay("go")
        line = stage.await_line("begin", id=result.id)
        worker.send(signal.SIGTERM)
        worker.await_output("Warm shutdown")
        os.kill(line["pid"], signal.SIGKILL)

        assert worker.join() == 0
    assert places(conn, result) == [["ready"]]


def test_a_worker_that_is_told_to_restart_comes_back_and_strands_nothing(
    start: Start, stage: Stage, conn: Conn
) -> None:
    with start() as worker:
        result = jobs.wait.delay("go", 4)
        stage.await_line("begin", id=result.id)
        queued = [jobs.add.delay(n, 0) for n in range(5)]
        worker.send(signal.SIGHUP)
        stage.open("go")

        worker.await_output(" ready.", count=2)
        assert get(result) == 4
        assert [get(each) for each in queued] == list(range(5))
        assert worker.stop() == 0
    assert len(stage.lines("begin", id=result.id)) == 1


# -- the worker dies


def test_what_a_killed_worker_ran_is_run_by_another_when_its_lease_is_over(
    start: Start, stage: Stage, conn: Conn
) -> None:
    with start(conf={"worker_lease": 1.0}) as doomed:
        results = [jobs.wait.delay("go", n) for n in range(2)]
        for result in results:
            stage.await_line("begin", id=result.id)
        doomed.kill()
        stage.open("go")
        with start(conf={"worker_lease": 1.0}) as heir:
            assert [get(result) for result in results] == [0, 1]
            heir.await_output("Took over 2 tasks from workers that are gone")
    for result in results:
        assert len(stage.lines("begin", id=result.id)) == 2


def test_the_children_of_a_killed_worker_die_with_it(start: Start, stage: Stage) -> None:
    with start() as worker:
        result = jobs.wait.delay("go")
        stage.await_line("begin", id=result.id)
        children = worker.children()
        assert len(children) == 2
        os.kill(worker.pid, signal.SIGKILL)  # the parent alone

        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "children are gone")


def test_a_worker_of_the_same_name_strands_nothing(start: Start, stage: Stage, conn: Conn) -> None:
    """A rolling restart: the next incarnation has the same hostname and another id."""
    options = ("-n", "one@host")
    with start(*options, conf={"worker_lease": 1.0}) as first:
        result = jobs.wait.delay("go", 1)
        stage.await_line("begin", id=result.id)
        first.kill()
        stage.open("go")
        with start(*options, conf={"worker_lease": 1.0}):
            assert get(result) == 1
            row = conn.execute("SELECT count(*) FROM pgtasks.worker WHERE hostname = 'one@host'").fetchone()
            assert row == (1,)


def test_a_frozen_worker_finds_its_lease_lost_and_nothing_that_it_did_is_kept(
    start: Start, stage: Stage, conn: Conn
) -> None:
    lease = {"worker_lease": 1.0}
    with start(conf=lease, concurrency=1) as frozen:
        result = jobs.wait.delay("go", "value")
        line = stage.await_line("begin", id=result.id)
        os.kill(frozen.pid, signal.SIGSTOP)
        with start(conf=lease) as heir:
            heir.await_output("Took over 1 tasks")
            stage.await_line("begin", count=2, id=result.id)
            stage.open("go")
            assert get(result) == "value"
            stage.await_line("end", id=result.id, pid=line["pid"])  # the zombie's child ended it too
            os.kill(frozen.pid, signal.SIGCONT)

            frozen.await_output("lost its lease: its tasks go to other workers, and it starts over")
            eventually(lambda: frozen.children() and line["pid"] not in frozen.children(), "it has new children")
            assert heir.stop() == 0
        assert get(jobs.add.delay(1, 2)) == 3, "it works again"
        assert frozen.stop() == 0
    assert column(conn, "result", "delivery", result) == 2


def test_a_frozen_at_most_once_task_is_not_run_a_second_time(start: Start, stage: Stage, conn: Conn) -> None:
    lease = {"worker_lease": 1.0}
    with start(conf=lease) as frozen:
        result = jobs.wait_at_most_once.delay("go")
        stage.await_line("begin", id=result.id)
        os.killpg(frozen.pid, signal.SIGSTOP)
        with start(conf=lease):
            with pytest.raises(WorkerLostError):
                get(result)
            stage.open("go")
            os.killpg(frozen.pid, signal.SIGCONT)
            frozen.await_output("lost its lease")
    assert len(stage.lines("begin", id=result.id)) == 1
    assert places(conn, result) == [["FAILURE"]]


def test_a_worker_whose_registration_was_removed_starts_over(start: Start, stage: Stage, conn: Conn) -> None:
    with start() as worker:
        conn.execute("DELETE FROM pgtasks.worker")

        worker.await_output("it starts over")
        assert get(jobs.add.delay(1, 2)) == 3


# -- the claims of others


def test_a_task_claimed_by_a_dead_hand_is_run(start: Start, conn: Conn, database_url: str) -> None:
    result = jobs.add.delay(1, 2)
    hand = Hand(Database(database_url), lease_s=0.1)
    hand.claim()
    with start():
        assert get(result) == 3


def test_workers_of_other_queues_move_and_take_over_what_is_not_theirs(
    start: Start, stage: Stage, conn: Conn, database_url: str
) -> None:
    hand = Hand(Database(database_url), lease_s=0.1)
    jobs.add.delay(1, 2)
    hand.claim()
    jobs.add.apply_async((1, 2), countdown=0.1)
    with start("-Q", "elsewhere"):
        eventually(lambda: conn.execute("SELECT count(*) FROM pgtasks.ready").fetchone() == (2,))
    assert not stage.lines()


def test_a_purging_worker_ends_what_waited_for_it(start: Start, stage: Stage, conn: Conn) -> None:
    results = [jobs.add.delay(1, 1) for _ in range(5)]
    with start("--purge") as worker:
        assert get(jobs.add.delay(1, 1)) == 2
        worker.await_output("Erased 5 messages")
    assert places(conn, *results) == [["REVOKED"]] * 5
    assert len(stage.lines("begin")) == 1
