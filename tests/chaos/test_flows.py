"""Workers under limits are killed again and again, and the journal says how many tasks ran at a time, and when they began.

The short one runs by default, eight workers for a minute with `pytest -m chaos`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest

from pgtasks.message import Limits
from pgtasks.store import flows
from pgtasks.store.flows import QueueLimit
from tests.support.flowcheck import most_at_once, starts_without_stamp, windows_broken
from tests.support.workers import Stage, WorkerProcess, eventually
from tests.worker import flow_jobs as jobs

Conn = psycopg.Connection[Any]
MODULE = "tests.worker.flow_jobs"
CONF = {"worker_lease": 2.0, "task_max_deliveries": 1000}

#: Every start that is counted, kept: what counts no more is otherwise forgotten.
AUDIT = """
CREATE TABLE IF NOT EXISTS public.started (id uuid, flow text, at timestamptz);
TRUNCATE public.started;
CREATE OR REPLACE FUNCTION public.note_start() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.started VALUES (NEW.id, NEW.flow, NEW.at); RETURN NULL; END $$;
CREATE OR REPLACE TRIGGER note_start AFTER INSERT ON pgtasks.stamp FOR EACH ROW EXECUTE FUNCTION public.note_start();
"""


@pytest.fixture
def audited(conn: Conn) -> Iterator[Conn]:
    conn.execute(AUDIT)
    yield conn
    conn.execute("DROP TRIGGER note_start ON pgtasks.stamp")


class Fleet:
    """Workers that die and are replaced."""

    def __init__(self, stage: Stage, count: int, seed: int) -> None:
        self.stage = stage
        self.random = random.Random(seed)
        self.workers = [self._start() for _ in range(count)]

    def _start(self) -> WorkerProcess:
        return WorkerProcess(self.stage.directory, "-Q", "celery,narrow", module=MODULE, concurrency=2, conf=CONF)

    def kill_one(self) -> None:
        victim = self.workers.pop(self.random.randrange(len(self.workers)))
        pids = victim.children()
        victim.kill()
        jobs.note("killed", pids=[victim.pid, *pids])
        self.workers.append(self._start())

    def kill_all(self) -> None:
        for worker in self.workers:
            worker.kill()


def torment(stage: Stage, conn: Conn, *, workers: int, seconds: float, seed: int) -> None:
    """Send while workers are killed, wait until all has ended, and judge."""
    jobs.app.database.run(flows.limit_queue(QueueLimit("narrow", jobs.IN_QUEUE, jobs.PER_WORKER, None, None)))
    fleet = Fleet(stage, workers, seed)
    results: list[Any] = []
    try:
        for worker in fleet.workers:
            worker.await_ready()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            results += [jobs.of_tenant.delay(tenant, fleet.random.uniform(0, 0.2)) for tenant in "aabbcc"]
            results += [jobs.rated.delay(fleet.random.uniform(0, 0.1))]
            results += [jobs.plain.apply_async((None, 0.05), queue="narrow") for _ in range(4)]
            stage.await_line("begin", len(stage.lines("begin")) + 2)
            fleet.kill_one()
        eventually(lambda: are_over(conn, len(results)), "every task ends")
    finally:
        fleet.kill_all()
    judge(stage, conn, [result.id for result in results])


def are_over(conn: Conn, count: int) -> bool:
    return conn.execute("SELECT count(*) FROM pgtasks.result").fetchone() == (count,)


def judge(stage: Stage, conn: Conn, sent: list[str]) -> None:
    lines = stage.lines()
    most = most_at_once(lines)
    assert max(most[tenant] for tenant in "abc") == jobs.CONCURRENCY  # never more, and as many as that at times
    assert most["all of abc"] <= jobs.TOTAL
    assert most["plain"] <= jobs.IN_QUEUE
    assert max(most[key] for key in most if key.startswith("plain of worker")) <= jobs.PER_WORKER

    stamps: list[tuple[str, datetime]] = conn.execute("SELECT id::text, at FROM public.started").fetchall()
    assert windows_broken([at for _, at in stamps], jobs.RATE, jobs.PERIOD_S) == []
    assert starts_without_stamp([line for line in lines if line.get("key") == "rated"], stamps) == []

    ended = conn.execute("SELECT id::text, state FROM pgtasks.result").fetchall()
    assert sorted(ended) == sorted((task_id, "SUCCESS") for task_id in sent)
    for table in ("slot", "held", "lane", "knock", "claim", "ready"):
        assert conn.execute(f"SELECT count(*) FROM pgtasks.{table}").fetchone() == (0,), table  # type: ignore[arg-type]


def test_limits_hold_while_workers_are_killed_and_no_place_is_lost(stage: Stage, audited: Conn) -> None:
    torment(stage, audited, workers=2, seconds=3, seed=1)


@pytest.mark.chaos
def test_limits_hold_over_eight_workers_under_kills_for_a_minute(
    stage: Stage, audited: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.workers.STUCK_S", 300)
    torment(stage, audited, workers=8, seconds=60, seed=2)


def test_the_judge_sees_a_limit_that_is_not_kept(stage: Stage, audited: Conn) -> None:
    """Without its limits, the same work breaks every rule that the judge knows."""
    unlimited = Limits(True, None, None, None, None, None, None)
    jobs.app.database.run(flows.declare(jobs.of_tenant.name, unlimited, by_hand=True))
    jobs.app.database.run(flows.declare(jobs.rated.name, unlimited._replace(is_keyed=False), by_hand=True))

    with pytest.raises(AssertionError):
        torment(stage, audited, workers=3, seconds=1, seed=3)
