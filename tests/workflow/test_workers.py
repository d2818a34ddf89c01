"""Workflows on real workers: takeover after `kill -9`, waiting without a slot, every pool."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgtasks.message import id_of
from tests.support.hands import standing
from tests.support.workers import STUCK_S, Stage, WorkerProcess, eventually, running
from tests.workflow import flows

LEASE = {"worker_lease": 1}


@pytest.fixture(autouse=True)
def _app(database_url: str) -> Any:
    flows.app.conf.database_url = database_url
    yield
    flows.app._close_parts()


def worker(directory: Path, **kwargs: Any) -> Any:
    return running(directory, module="tests.workflow.flows", **{"conf": LEASE, **kwargs})


def await_suspended(conn: psycopg.Connection[Any], result: Any) -> None:
    query = "SELECT 1 FROM pgtasks.scheduled WHERE id = %s AND is_suspended"
    eventually(lambda: conn.execute(query, [id_of(result.id)]).fetchone(), f"{result.id} is suspended")


@pytest.mark.parametrize("pool", ["prefork", "threads", "aio", "solo"])
def test_workflows_run_and_wait_in_every_pool(
    pool: str, stage: Stage, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    with worker(tmp_path, pool=pool, concurrency=1):
        waiting = [flows.waiter.delay("go"), flows.awaiting.delay("go"), flows.abranches.delay(["x", "y"])]
        for result in waiting:
            await_suspended(conn, result)
        # The only slot is free, though three runs are under way.
        assert flows.parent.delay(3).get(timeout=STUCK_S) == [0, 2, 4]
        assert flows.afive.delay(0).get(timeout=STUCK_S) == 5
        for name in ("x", "y"):
            waiting[2].signal(name, name)
        for result in waiting[:2]:
            result.signal("go", "on")

        assert waiting[0].get(timeout=STUCK_S) == "on"
        assert waiting[1].get(timeout=STUCK_S) == [3, "on", True]
        assert waiting[2].get(timeout=STUCK_S) == ["x", "y"]


@pytest.mark.parametrize("victim", ["parent", "child"])
def test_a_survivor_goes_on_where_a_killed_worker_was(
    victim: str, stage: Stage, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    result = flows.crashing.delay("here")
    first = WorkerProcess(tmp_path / "first", module="tests.workflow.flows", concurrency=1, conf=LEASE)
    try:
        first.await_ready()
        line = stage.await_line("at gate")
        os.kill(line["pid"] if victim == "child" else first.pid, signal.SIGKILL)
        if victim == "parent":
            first.kill()
        with worker(tmp_path / "second"):
            stage.await_line("at gate", 2)
            stage.open("here")
            value = result.get(timeout=STUCK_S)
    finally:
        first.kill()

    assert value[0] == 1
    assert value[2] == "here"
    effects = [each["name"] for each in stage.lines("effect")]
    assert effects == ["first"]
    assert len({each["key"] for each in stage.lines("at gate")}) == 1


def test_a_frozen_worker_that_wakes_up_after_its_lease_records_nothing(
    stage: Stage, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    result = flows.crashing.delay("here")
    first = WorkerProcess(tmp_path / "first", module="tests.workflow.flows", concurrency=1, conf=LEASE)
    try:
        first.await_ready()
        stage.await_line("at gate")
        os.killpg(first.pid, signal.SIGSTOP)
        with worker(tmp_path / "second"):
            stage.await_line("at gate", 2)
            stage.open("here")
            result.get(timeout=STUCK_S)
            os.killpg(first.pid, signal.SIGCONT)
            eventually(
                lambda: (
                    "results were not taken" in first.output()
                    or "another worker" in first.output()
                    or conn.execute("SELECT count(*) FROM pgtasks.claim").fetchone() == (0,)
                )
            )
    finally:
        first.kill()

    steps = conn.execute(
        "SELECT name, delivery FROM pgtasks.step WHERE run = %s ORDER BY seq", [id_of(result.id)]
    ).fetchall()
    assert steps == [("effect", 1), ("wf.uuid4", 1), ("second", 2)]
    assert standing(conn, id_of(result.id)) == ["SUCCESS"]


def test_runs_of_one_child_outlive_the_one_that_their_process_is_killed_for(
    stage: Stage, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    with worker(tmp_path, concurrency=1):
        for result in [flows.mostly_short.delay(n) for n in range(5)]:
            result.get(timeout=STUCK_S)  # its steps are known to be short by now

        stuck, *others = flows.mostly_short.apply_async_many([((0, "never"), {}), *(((n,), {}) for n in range(4))])
        stage.await_line("at gate")
        stuck.revoke(terminate=True, signal="SIGKILL")

        assert [result.get(timeout=STUCK_S) for result in others] == [3, 4, 5, 6]
        eventually(lambda: standing(conn, id_of(stuck.id)) == ["REVOKED"], "the one that was to be killed is revoked")
    steps = conn.execute("SELECT count(*), count(DISTINCT (run, name, ordinal)) FROM pgtasks.step WHERE name <> 'long'")
    assert steps.fetchone() == (10 * 3, 10 * 3)


def test_what_waits_behind_a_long_step_goes_on_in_another_child(
    stage: Stage, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    with worker(tmp_path, concurrency=2):
        for result in [flows.mostly_short.delay(n) for n in range(8)]:
            result.get(timeout=STUCK_S)

        stuck, *others = flows.mostly_short.apply_async_many([((0, "open"), {}), *(((n,), {}) for n in range(12))])
        stage.await_line("at gate")

        assert [result.get(timeout=STUCK_S) for result in others] == [n + 3 for n in range(12)]
        assert not stuck.ready()
        stage.open("open")
        assert stuck.get(timeout=STUCK_S) == 3
