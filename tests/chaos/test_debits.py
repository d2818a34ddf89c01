"""Debits of 1, by transactional tasks and steps, while workers die and COMMITs are not answered: the sum is exact.

Run by `pytest -m chaos`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.proxy import FaultProxy
from tests.support.workers import STUCK_S, Stage, WorkerProcess
from tests.workflow import flows

pytestmark = pytest.mark.chaos

Conn = psycopg.Connection[Any]
ACCOUNTS = [f"account {n}" for n in range(16)]
#: Debits in one run.
TIMES = 10
CONF = {"worker_lease": 2.0, "task_max_deliveries": 1000}


@pytest.fixture(autouse=True)
def money(conn: Conn, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in Stage(tmp_path).environ().items():
        monkeypatch.setenv(name, value)
    flows.app.conf.database_url = database_url
    conn.execute("CREATE TABLE money (account text PRIMARY KEY, balance int NOT NULL DEFAULT 0)")
    conn.execute("INSERT INTO money (account) SELECT unnest(%s::text[])", [ACCOUNTS])
    yield
    conn.execute("DROP TABLE money")
    flows.app._close_parts()


class Crew:
    """Two workers behind a proxy that cuts their COMMITs, and that are killed and replaced."""

    def __init__(self, directory: Path, proxy: FaultProxy, seed: int) -> None:
        self.directory = directory
        self.proxy = proxy
        self.random = random.Random(seed)
        self.faults = 0
        self.workers = [self._start(), self._start()]

    def _start(self) -> WorkerProcess:
        return WorkerProcess(
            self.directory, module="tests.workflow.flows", concurrency=2, conf=CONF,
            environ={"PGTASKS_DATABASE_URL": self.proxy.url},
        )  # fmt: skip

    def torment(self) -> None:
        """Cut the connection of one of those who commit next, before or after that is done; now and then kill a worker."""
        cut = self.random.choice([self.proxy.cut_before, self.proxy.cut_after])
        cut(b"COMMIT", skip=self.random.randrange(5, 30)).wait(5)
        self.faults += 1
        if self.faults % 10 == 0:
            victim = self.workers.pop(self.random.randrange(2))
            victim.kill()
            self.workers.append(self._start())

    def kill_all(self) -> None:
        for worker in self.workers:
            worker.kill()


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", ["tasks", "steps"])
@pytest.mark.parametrize("count", [400, 10_000])
def test_the_sum_of_many_debits_is_exact(
    kind: str, count: int, conn: Conn, database_url: str, tmp_path: Path
) -> None:
    if kind == "tasks":
        sent = flows.debit.delay_many((ACCOUNTS[n % 16], 1) for n in range(count))
    else:
        sent = flows.paying_off.delay_many((ACCOUNTS[n % 16], TIMES) for n in range(count // TIMES))

    deadline = time.monotonic() + max(3 * STUCK_S, count / 5)
    with FaultProxy(database_url) as proxy:
        crew = Crew(tmp_path, proxy, seed=count)
        try:
            while conn.execute("SELECT count(*) FROM pgtasks.result").fetchone() != (len(sent),):
                assert time.monotonic() < deadline, "it does not end"
                crew.torment()
        finally:
            crew.kill_all()

    assert conn.execute("SELECT state, count(*) FROM pgtasks.result GROUP BY state").fetchall() == [("SUCCESS", len(sent))]
    assert conn.execute("SELECT sum(balance) FROM money").fetchone() == (-count,)
    assert crew.faults > 1
