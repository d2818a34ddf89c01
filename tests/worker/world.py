"""One worker of one pool, which serves all tests of a module: at the end it must still be the same one, and hold nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgtasks.exceptions import TimeoutError as PatienceOver
from pgtasks.message import id_of
from tests.support import postgres
from tests.support.hands import standing
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
