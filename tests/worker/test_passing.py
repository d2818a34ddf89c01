"""Chains whose links a child settles by itself, which nobody must notice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgtasks import chain
from pgtasks.message import id_of
from tests.support.hands import standing
from tests.support.proxy import FaultProxy
from tests.support.workers import STUCK_S, Stage, WorkerProcess, eventually, running
from tests.worker import jobs

Conn = psycopg.Connection[Any]
#: A part of the statement by which a link is settled and the next one taken.
PASS_ON = b"w.delivery + 1 AS delivery, -m.priority"

pytestmark = pytest.mark.usefixtures("database_url")


@pytest.fixture
def proxy(database_url: str) -> Iterator[FaultProxy]:
    with FaultProxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def worker(stage: Stage, proxy: FaultProxy) -> Iterator[WorkerProcess]:
    """A worker behind the proxy, at rest: nothing has to be decided."""
    with running(stage.directory, environ={"PGTASKS_DATABASE_URL": proxy.url}) as worker:
        jobs.add.delay(0, 0).get(timeout=STUCK_S)
        yield worker
    jobs.app.database.close()


def settled_by_children(worker: WorkerProcess, conn: Conn) -> bool:
    """Is it the last statement of a session? Not of the parent's, which sends others all the time."""
    found = conn.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND position(%s IN query) > 0"
        " AND application_name = 'pgtasks'",
        [PASS_ON.decode()],
    ).fetchone()
    return found != (0,)


def counting(length: int) -> Any:
    """A chain that counts."""
    return chain(jobs.add.s(0, 1), *(jobs.add.s(1) for _ in range(length - 1)))


def ran(stage: Stage, result: Any) -> list[int]:
    """How often each task of a chain has begun, first to last."""
    ids = []
    while result is not None:
        ids.append(result.id)
        result = result.parent
    return [len(stage.lines("begin", id=task_id)) for task_id in reversed(ids)]


def test_a_child_goes_on_with_the_chain_whose_link_it_has_settled(
    worker: WorkerProcess, stage: Stage, conn: Conn
) -> None:
    result = counting(10).delay()

    assert result.get(timeout=STUCK_S) == 10
    assert settled_by_children(worker, conn)
    assert ran(stage, result) == [1] * 10
    assert worker.output().count("] received") == 11
    assert worker.stop() == 0
    assert conn.execute("SELECT count(*) FROM pgtasks.claim").fetchone() == (0,)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_child_that_dies_while_it_passes_on_loses_nothing_and_what_it_had_taken_is_found(
    worker: WorkerProcess, stage: Stage, conn: Conn, proxy: FaultProxy, when: str
) -> None:
    def strike() -> None:
        for pid in worker.children():
            os.kill(pid, signal.SIGKILL)

    sprung = getattr(proxy, when)(PASS_ON, strike, skip=2)
    result = counting(6).delay()

    assert result.get(timeout=STUCK_S) == 6
    assert sprung.is_set()
    assert ran(stage, result) in ([1, 1, 1, 1, 1, 1], [1, 1, 2, 1, 1, 1])
    assert conn.execute("SELECT count(*) FROM pgtasks.claim").fetchone() == (0,)


@pytest.mark.parametrize("fault", ["cut_before", "cut_after"])
def test_a_link_whose_answer_a_child_loses_is_settled_once(
    worker: WorkerProcess, stage: Stage, conn: Conn, proxy: FaultProxy, fault: str
) -> None:
    sprung = getattr(proxy, fault)(PASS_ON, skip=2)
    result = counting(6).delay()

    assert result.get(timeout=STUCK_S) == 6
    assert sprung.is_set()
    assert ran(stage, result) == [1] * 6


def test_a_rate_limit_keeps_children_from_going_on_by_themselves(
    worker: WorkerProcess, stage: Stage, conn: Conn
) -> None:
    jobs.app.control.rate_limit("tests.worker.jobs.echo", "100/s", reply=True, timeout=STUCK_S)

    assert counting(5).delay().get(timeout=STUCK_S) == 5
    # The parent's own last statement is another one by now.
    assert eventually(lambda: not settled_by_children(worker, conn))


def test_a_link_that_must_run_at_most_once_is_noted_before_it_begins(
    worker: WorkerProcess, stage: Stage, conn: Conn
) -> None:
    result = chain(jobs.add.s(0, 1), jobs.wait_at_most_once.si("go"), jobs.add.si(1, 1)).delay()
    second = result.parent
    stage.await_line("begin", id=second.id)

    acked = conn.execute("SELECT acked FROM pgtasks.claim WHERE id = %s", [id_of(second.id)]).fetchone()
    stage.open("go")

    assert acked == (True,)
    assert result.get(timeout=STUCK_S) == 2


def test_a_worker_that_is_told_to_stop_in_the_middle_of_a_chain_leaves_the_rest_to_others(
    worker: WorkerProcess, stage: Stage, conn: Conn, proxy: FaultProxy
) -> None:
    result = chain(jobs.add.s(0, 1), jobs.wait.si("go"), jobs.add.si(1, 1), jobs.add.s(1)).delay()
    waiting = result.parent.parent
    stage.await_line("begin", id=waiting.id)

    worker.process.terminate()
    worker.await_output("Warm shutdown")
    stage.open("go")

    assert worker.join() == 0
    assert standing(conn, id_of(waiting.id)) == ["SUCCESS"]
    assert standing(conn, id_of(result.parent.id)) == ["ready"]
    with running(stage.directory, environ={"PGTASKS_DATABASE_URL": proxy.url}):
        assert result.get(timeout=STUCK_S) == 3


def test_a_chain_goes_on_with_a_workflow_and_with_a_coroutine(worker: WorkerProcess, stage: Stage, conn: Conn) -> None:
    assert counting(3).delay().get(timeout=STUCK_S) == 3  # a child has its connection now

    result = chain(jobs.add.s(0, 1), jobs.walk.s(), jobs.async_add.s(1), jobs.add.s(1)).delay()

    assert result.get(timeout=STUCK_S) == 3
