"""How late workflows wake that sleep, and what it costs to put them to sleep and to wake them.

    python -m loadtest.sleepers                             10,000 runs, woken within 100 s: four minutes
    python -m loadtest.sleepers --runs 20000 --wake 90      222 a second

All are sent at once to one worker, sleep long enough for all of them to be asleep before the first one is due, and wake at
random times. How late is by the server's clock, from the due time to the claim. Commits are those of the whole database,
with those that only read.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

import psycopg

from loadtest import bench, jobs
from loadtest.measure import Figures, children_of, per_task_us, process_cpu_s, spent

#: Or awake again, if they had not enough time.
_ASLEEP = "SELECT (SELECT count(*) FROM pgtasks.scheduled) + (SELECT count(*) FROM pgtasks.result)"
_AWAKE = "SELECT count(*) FROM pgtasks.result"
_LATE = """
SELECT percentile_cont(ARRAY[0.5, 0.9, 0.99, 1]) WITHIN GROUP (ORDER BY extract(epoch FROM r.claimed_at - s.due)::float8)
FROM pgtasks.result r JOIN pgtasks.step s ON s.run = r.id
"""


class Sleepers:
    """A database with a worker, and what they have used so far."""

    def __init__(self, conn: psycopg.Connection[Any], worker: int, runs: int) -> None:
        self.conn, self.worker, self.runs = conn, worker, runs
        self.before = self._used()

    def phase(self) -> Figures:
        """What was used since the last phase, per run."""
        now, before = self._used(), self.before
        self.before = now
        cost = now["server"] - before["server"]
        return {
            "commits": (now["commits"] - before["commits"]) / self.runs,
            "wal_bytes": cost.wal_bytes / self.runs,
            "server_us": per_task_us([cost.cpu_s], self.runs),
            "worker_us": per_task_us([now["worker_s"] - before["worker_s"]], self.runs),
        }

    def _used(self) -> Figures:
        time.sleep(1.1)  # backends count once a second
        return {
            "commits": self.one("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"),
            "server": spent(self.conn),
            "worker_s": sum(map(process_cpu_s, [self.worker, *children_of(self.worker)])),
        }

    def one(self, query: str) -> Any:
        row = self.conn.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]

    def await_all(self, query: str) -> float:
        """Wait until a query counts all runs; gives the seconds that took."""
        began_at = time.monotonic()
        while self.one(query) < self.runs:
            time.sleep(0.1)
        return time.monotonic() - began_at


def run(server_url: str | None, runs: int, sleep_s: float, wake_s: float) -> Figures:
    """Put so many to sleep, and wait until they have woken."""
    with ExitStack() as stack:
        server, _ = stack.enter_context(bench._server(server_url))
        url = stack.enter_context(bench._database(server))
        os.environ["PGTASKS_DATABASE_URL"] = jobs.app.conf.broker_url = url
        jobs.app.database.ping()
        conn = stack.enter_context(psycopg.connect(url, autocommit=True))
        command = [sys.executable, "-m", "pgtasks", "-A", "loadtest.jobs", "worker", "-l", "ERROR", "-c", "2"]
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(bench._stop, [worker], 30)
        while conn.execute("SELECT FROM pgtasks.idle LIMIT 1").fetchone() is None:
            if worker.poll() is not None:
                raise SystemExit(f"The worker ended with status {worker.returncode} before it had begun.")
            time.sleep(0.1)
        sleepers = Sleepers(conn, worker.pid, runs)
        jobs.nap.delay_many([sleep_s + random.uniform(0, wake_s) for _ in range(runs)])
        took_s = sleepers.await_all(_ASLEEP)
        asleep = sleepers.phase()
        sleepers.await_all(_AWAKE)
        awake, late_s = sleepers.phase(), sleepers.one(_LATE)
        jobs.app.close()
    return {"asleep": asleep, "awake": awake, "asleep_per_s": runs / took_s, "late_s": late_s}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.sleepers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a server with nothing else to do; a database is made on it and dropped")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--sleep", type=float, default=150.0, help="seconds until the first may wake")
    parser.add_argument("--wake", type=float, default=100.0, help="seconds from then until the last")
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} before")
    found = run(options.url, options.runs, options.sleep, options.wake)
    print(f"{options.runs:,} runs went to sleep, {found['asleep_per_s']:,.0f} a second")
    for phase, said in (("asleep", "to sleep"), ("awake", "to wake")):
        cost = found[phase]
        server = "?" if cost["server_us"] is None else f"{cost['server_us']:,.0f}"
        print(
            f"{said}: {cost['commits']:.2f} commits, {cost['wal_bytes']:,.0f} bytes of WAL, {server} us of the server's CPU,"
            f" {cost['worker_us']:,.0f} us of the worker's"
        )
    late = ", ".join(f"{name} {late_s:.2f} s" for name, late_s in zip(("p50", "p90", "p99", "max"), found["late_s"], strict=True))
    print(f"{options.runs / options.wake:,.0f} a second were due; late: {late}")


if __name__ == "__main__":
    main()
