"""What the gevent pool is for, and what its tasks meet that tasks of no other pool do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgtasks.exceptions import TaskRevokedError, TimeLimitExceeded
from tests.support.workers import STUCK_S, Stage, WorkerProcess, running
from tests.worker import green_jobs as jobs

pytest.importorskip("gevent", reason="the gevent pool is an extra: pip install 'pgtasks[gevent]'")


@pytest.fixture
def worker(database_url: str, stage: Stage, tmp_path: Path) -> Iterator[WorkerProcess]:
    with running(tmp_path, pool="gevent", concurrency=100, module="tests.worker.green_jobs") as worker:
        yield worker


def test_a_hundred_tasks_wait_in_one_process_which_needs_a_few_connections(
    worker: WorkerProcess, stage: Stage, conn: psycopg.Connection
) -> None:
    results = [jobs.gather_at.delay("together") for _ in range(100)]

    stage.await_line("waits", count=100)
    (of_pgtasks,) = conn.execute(  # type: ignore[misc]
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgtasks' AND datname = current_database()"
    ).fetchone()
    stage.open("together")

    assert len({result.get(timeout=STUCK_S) for result in results}) == 1
    assert of_pgtasks < 40
    assert len(worker.children()) == 1


def test_a_task_that_is_stopped_meets_what_it_would_in_celery_and_its_neighbours_go_on(
    worker: WorkerProcess, stage: Stage
) -> None:
    neighbour = jobs.gather_at.delay("later")
    doomed = [jobs.tell_what_ends_it.delay(), jobs.tell_what_ends_it.apply_async(time_limit=0.2)]
    stage.await_line("waits", id=doomed[0].id)

    doomed[0].revoke(terminate=True)

    for result, error in zip(doomed, (TaskRevokedError, TimeLimitExceeded), strict=True):
        with pytest.raises(error):
            result.get(timeout=STUCK_S)
    assert stage.await_line("ended by", id=doomed[0].id)["error"] == "GreenletExit"
    assert stage.await_line("ended by", id=doomed[1].id)["error"] == "Timeout"
    stage.open("later")
    neighbour.get(timeout=STUCK_S)


def test_a_task_that_does_not_acknowledge_timeouts_runs_again(worker: WorkerProcess, stage: Stage) -> None:
    result = jobs.sleep_at_first.delay()

    assert result.get(timeout=STUCK_S) == worker.children()[0]
    assert len(stage.lines("waits", id=result.id)) == 2


def test_it_has_more_slots_or_fewer_when_it_is_told_to(database_url: str, stage: Stage, tmp_path: Path) -> None:
    with running(tmp_path, pool="gevent", concurrency=1, module="tests.worker.green_jobs") as worker:
        jobs.app.control.pool_grow(2, reply=True, timeout=STUCK_S)
        together = [jobs.gather_at.delay("together") for _ in range(3)]
        stage.await_line("waits", count=3)

        (reply,) = jobs.app.control.pool_shrink(5, reply=True, timeout=STUCK_S)
        stage.open("together")
        assert {result.get(timeout=STUCK_S) for result in together} == set(worker.children())
        (stats,) = jobs.app.control.inspect(timeout=STUCK_S).stats().values()
        assert [jobs.after_a_while.delay(n).get(timeout=STUCK_S) for n in range(3)] == [0, 1, 2]

    assert list(reply.values()) == [{"ok": "pool will shrink"}]
    assert stats["pool"]["max-concurrency"] == 1


def test_tasks_wait_for_tasks_and_coroutines_beside_each_other(worker: WorkerProcess) -> None:
    results = [jobs.ask_another.delay(n) for n in range(10)]

    assert [result.get(timeout=STUCK_S) for result in results] == list(range(10))
