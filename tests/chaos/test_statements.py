"""A worker killed right before or right after each kind of statement that it sends: a peer finishes everything.

The proxy in front of the doomed worker does the killing, when the statement comes by or when its answer does. With `child`
it is the child process that dies, at a statement that it sends itself. Run by `pytest -m chaos`, not by default.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest

from tests.chaos.arena import Arena
from tests.support.proxy import FaultProxy
from tests.support.workers import STUCK_S, WorkerProcess

pytestmark = pytest.mark.chaos

#: A part of each kind of statement, by which the proxy knows it.
BY_THE_WORKER = {
    "enlist": b"INSERT INTO pgtasks.worker",
    "claim": b"UPDATE SKIP LOCKED\n  ) r",
    "finish": b"json_build_array",
    "settle": b"let_go AS",
    "tick": b"heartbeat_at = pgtasks.clock()",
    "reap": b"WITH stale AS",
    "idle": b"INSERT INTO pgtasks.idle",
    "charge": b"SET losses = a.losses",
    "ack": b"SET acked = true",
    "listen": b"LISTEN",
}
#: What has a worker send those that the producer's requests seldom cause.
CAUSES: dict[str, list[tuple[str, dict[str, str]]]] = {
    "ack": [("once", {})] * 30,
    "charge": [("chord", {"crash": "child"})] * 10,
}
PASS_ON = b"w.delivery + 1 AS delivery, -m.priority"
MARK = b"WITH noted AS (\n  INSERT INTO pgtasks.progress"


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    """One arena for all, with an heir that is always there."""
    with Arena(lease_s=2.0) as arena:
        arena.start_worker(through_proxy=False).await_ready()
        arena.start_producers(1, pause_s=0.02, through_proxy=False)
        yield arena


def kill(pid: int) -> Callable[[], None]:
    def strike() -> None:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    return strike


@contextmanager
def alone(arena: Arena, worker: WorkerProcess) -> Iterator[None]:
    """For the time being the others are frozen: what somebody must do this worker does, or nobody."""
    others = [each for each in arena.workers if each is not worker]
    for each in others:
        os.killpg(each.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in others:
            os.killpg(each.pid, signal.SIGCONT)


def doom(arena: Arena) -> tuple[WorkerProcess, FaultProxy]:
    worker = arena.start_worker(concurrency=2)
    return worker, arena.proxies[worker.pid]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("statement", BY_THE_WORKER)
def test_a_worker_killed_at(arena: Arena, statement: str, when: str) -> None:
    worker, proxy = doom(arena)

    sprung = getattr(proxy, when)(BY_THE_WORKER[statement], kill(worker.pid))
    with alone(arena, worker) if statement in CAUSES else nullcontext():
        arena.requests(CAUSES.get(statement, []))

        assert sprung.wait(STUCK_S), f"it has never sent {statement}:\n{worker.output()}"
        worker.process.wait(STUCK_S)
    arena.bury(worker)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_child_killed_while_it_notes_that_a_task_has_started(arena: Arena, when: str) -> None:
    worker, proxy = doom(arena)
    worker.await_ready()

    def strike() -> None:
        for pid in worker.children():
            os.kill(pid, signal.SIGKILL)

    sprung = getattr(proxy, when)(MARK, strike)
    arena.requests([("flaky", {})] * 30)

    assert sprung.wait(STUCK_S)
    worker.await_output("will be run again")
    worker.kill()
    arena.bury(worker)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_child_killed_while_it_settles_a_link_and_takes_the_next(arena: Arena, when: str) -> None:
    worker, proxy = doom(arena)
    worker.await_ready()

    def strike() -> None:
        for pid in worker.children():
            os.kill(pid, signal.SIGKILL)

    sprung = getattr(proxy, when)(PASS_ON, strike, skip=3)
    arena.requests([("chain", {"size": 10})] * 30)

    assert sprung.wait(STUCK_S)
    worker.await_output("will be run again")
    worker.kill()
    arena.bury(worker)


def test_after_all_that_every_promise_was_kept(arena: Arena) -> None:
    assert arena.judge() == []
