"""How fast pgtasks is here, beside what the database could do and beside what it shall reach.

    python -m loadtest.bench                 a private Postgres of its own, durable, gone afterwards
    python -m loadtest.bench --quick         fewer rounds and tasks: a first look
    python -m loadtest.bench --url URL       another server; makes a database on it and drops it

Every round runs all experiments in turn, each beside pgbench with the same statements in the same batches (see
`loadtest.ceiling`), so that a slow minute harms all of them alike. Figures are medians over the rounds, percentages
medians of the ratios within one round.

    enqueue   .delay() from one thread and from eight; delay_many; groups of 1,000
    drain     no-op tasks with stored results, by `pgtasks worker -c 2`, which finds the whole queue filled. From the
              database's timestamps, first claim to last result. Batches are counted by them as well: all rows of a
              statement have the same time. Every task must have run, once, by the word of the task itself
    latency   an idle worker: .delay().get(), and by the server's clock from the enqueue to the stored result
    idle      statements of a worker without work

CPU times are of whole processes: /proc for the worker and the server's backends, `process_time` for the caller. Nothing
else may run on the server. Figures of a machine that has other work say little, and the report says when it had.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import psycopg

from loadtest import ceiling, report
from loadtest.bench_tasks import QUEUE, app, follow, noop, total
from loadtest.bench_worker import BenchWorker
from loadtest.measure import (
    Figures,
    Spent,
    crowding,
    difference,
    fsyncs_per_s,
    is_local,
    machine,
    per_task_us,
    process_cpu_s,
    settings,
    spent,
)
from pgtasks import chain, chord, group
from pgtasks.message import Message, new_id
from pgtasks.store import fleet
from pgtasks.store.binaries import find_installs
from pgtasks.store.embedded import Server

CONCURRENCY = 2
BULK = 1000

_EMPTY = """TRUNCATE pgtasks.message, pgtasks.ready, pgtasks.scheduled, pgtasks.waiting, pgtasks.edge, pgtasks.claim,
pgtasks.result, pgtasks.progress, pgtasks.revoked, pgtasks.waiter"""


class NotVerified(Exception):
    """What ran is not what was asked for; its figures mean nothing."""


class Scale(NamedTuple):
    """How much of everything a round does."""

    rounds: int = 5
    tasks: int = 20_000
    singles: int = 2000
    bulks: int = 20
    calls: int = 200
    canvases: int = 20
    idle_s: float = 10.0


QUICK = Scale(rounds=1, tasks=5000, singles=500, bulks=5, calls=50, canvases=5, idle_s=4.0)
#: Enough to see that it works.
SMOKE = Scale(rounds=1, tasks=200, singles=16, bulks=3, calls=5, canvases=1, idle_s=0.1)


class Bench:
    """The database to measure on, and the experiments."""

    def __init__(
        self, url: str, pgbench: ceiling.Pgbench | None, scale: Scale, directory: Path, log: Path | None = None
    ) -> None:
        """`directory` is for the worker's files, `log` the server's if that is this run's own."""
        self.url = url
        self.scale = scale
        self.directory = directory
        self.pgbench = pgbench
        self.log = log
        self.conn = psycopg.connect(url, autocommit=True)

    def round(self) -> Figures:
        """Run all experiments once."""
        singles = self.scale.singles
        found: dict[str, Figures | None] = {}
        found["enqueue 1"] = self.enqueue(1, singles)
        found["ceiling enqueue 1"] = self.ceiling(ceiling.enqueue_one, 1, singles)
        found["enqueue 8"] = self.enqueue(8, singles * 2)
        found["ceiling enqueue 8"] = self.ceiling(ceiling.enqueue_one, 8, singles * 2 // 8)
        found["many"] = self.many()
        found["bulk"] = self.bulk()
        found["ceiling bulk"] = self.ceiling(partial(ceiling.enqueue_many, count=BULK), 1, self.scale.bulks, BULK)
        self.empty()
        worker = BenchWorker(self.conn, self.directory, CONCURRENCY, self.scale.tasks)
        try:
            found["drain"] = drained = self.drain(worker)
            found["latency"] = self.latency(worker)
            found["idle"] = self.idle(worker)
        finally:
            worker.stop()
        for clients in (1, 2, 4):
            found[f"ceiling drain {clients}"] = self.ceiling_of_drain(clients, drained["batch"])
        return found

    # -- enqueue

    def enqueue(self, threads: int, count: int) -> Figures:
        """Call `.delay()` from some threads, `count` times in all."""
        self.empty()
        app.close()
        each = count // threads

        def call(number: int) -> None:
            for at in range(each):
                noop.delay(at)

        with ThreadPoolExecutor(threads) as pool, self._costs(each * threads) as figures:
            list(pool.map(call, range(threads)))
        return figures | self._enqueued(each * threads)

    def many(self) -> Figures:
        """Send as many by one call, from a generator."""
        self.empty()
        count = BULK * self.scale.bulks
        with self._costs(count) as figures:
            noop.delay_many(number for number in range(count))
        return figures | self._enqueued(count)

    def bulk(self) -> Figures:
        """Send groups of a thousand, made beforehand."""
        self.empty()
        groups = [group(noop.s(number) for number in range(BULK)) for _ in range(self.scale.bulks)]
        for each in groups:
            len(each.tasks)  # read the generator
        with self._costs(BULK * self.scale.bulks) as figures:
            for each in groups:
                each.apply_async()
        return figures | self._enqueued(BULK * self.scale.bulks)

    def _enqueued(self, expected: int) -> Figures:
        """Check that all tasks are there; gives statements per task, told by the times that rows of one share."""
        tasks, ready, statements = self.row(
            "SELECT count(*), (SELECT count(*) FROM pgtasks.ready), count(DISTINCT created_at) FROM pgtasks.message"
        )
        if not tasks == ready == expected:
            raise NotVerified(f"{expected} tasks were enqueued, but {tasks} messages and {ready} ready rows are there.")
        return {"statements": statements / tasks}

    @contextmanager
    def _costs(self, tasks: int) -> Iterator[Figures]:
        """Measure a block in which this process sends so many tasks."""
        app.database.ping()
        figures: Figures = {}
        server, cpu_s, began_at = spent(self.conn), time.process_time(), time.perf_counter()
        yield figures
        took_s, cpu_s = time.perf_counter() - began_at, time.process_time() - cpu_s
        figures |= {"tasks_per_s": tasks / took_s, "client_us": cpu_s / tasks * 1e6}
        figures |= _of_server(spent(self.conn) - server, tasks)

    # -- what pgbench does

    def ceiling(
        self, script: Callable[[Message], str], clients: int, transactions: int, batch: int = 1
    ) -> Figures | None:
        """Enqueue by pgbench what the last experiment has enqueued."""
        if self.pgbench is None:
            return None
        name, payload, options = self.row("SELECT name, payload, options FROM pgtasks.message LIMIT 1")
        text = script(Message(id=new_id(), name=name, queue=QUEUE, payload=payload, options=options))
        self.empty()
        server = spent(self.conn)
        self.pgbench.run(text, clients, transactions)
        cost = spent(self.conn) - server
        count, took_s = self.row(
            "SELECT count(*), extract(epoch FROM max(created_at) - min(created_at))::float8 FROM pgtasks.message"
        )
        if count != clients * transactions * batch:
            raise NotVerified(f"pgbench was to enqueue {clients * transactions * batch} tasks and did {count}.")
        # From the first statement's start to the last one's: without the last of each client.
        return {"tasks_per_s": (count - clients * batch) / took_s, **_of_server(cost, count)}

    def ceiling_of_drain(self, clients: int, batch: float) -> Figures | None:
        """Settle and claim by pgbench as many tasks as the worker did, in batches of its size."""
        if self.pgbench is None:
            return None
        size = max(1, round(batch))
        self.fill(self.scale.tasks)
        for client in range(clients):
            app.database.run(
                fleet.enlist(
                    ceiling.worker_of(client), lease_s=3600, hostname="pgbench", machine="", pid=0, pool="", version="",
                    concurrency=1, queues=[QUEUE],
                )
            )  # fmt: skip
        server = spent(self.conn)
        # One more to settle the last batch, and some for clients that came second to a row.
        self.pgbench.run(ceiling.drain(QUEUE, size), clients, math.ceil(self.scale.tasks / size / clients) + 3)
        cost = spent(self.conn) - server
        done, took_s = self._drained()
        left, claimed = self.row("SELECT (SELECT count(*) FROM pgtasks.ready), count(*) FROM pgtasks.claim")
        self.conn.execute("DELETE FROM pgtasks.worker")
        # What a client claims at last it does not settle.
        if done + left + claimed != self.scale.tasks or done + clients * size < self.scale.tasks * 0.9:
            raise NotVerified(
                f"Of {self.scale.tasks} tasks pgbench settled {done}, and left {left} ready and {claimed} claimed."
            )
        return {"tasks_per_s": done / took_s, **_of_server(cost, done)}

    # -- drain

    def fill(self, count: int) -> None:
        """Have so many no-op tasks in the queue."""
        self.empty()
        for start in range(0, count, BULK):
            group(noop.s(number) for number in range(start, min(start + BULK, count))).apply_async()

    def drain(self, worker: BenchWorker) -> Figures:
        """Let a worker that is ready find a full queue."""
        count = self.scale.tasks
        with worker.frozen():
            self.fill(count)
            parts = {"parent": [worker.pid], "children": worker.children(), "backends": self._backends_of_worker()}
            server, cpu_s = spent(self.conn), {part: _cpu_s(pids) for part, pids in parts.items()}
        worker.await_runs(count)
        while self.row("SELECT count(*) FROM pgtasks.result")[0] < count:
            time.sleep(0.02)
        cost = spent(self.conn) - server
        cpu_s = {part: difference(_cpu_s(pids), cpu_s[part]) for part, pids in parts.items()}
        self._verify(worker, count)
        done, took_s = self._drained()
        statements, batch = self._batches()
        return {
            "tasks_per_s": done / took_s,
            **{f"{part}_us": per_task_us([seconds], count) for part, seconds in cpu_s.items()},
            "worker_us": per_task_us([cpu_s["parent"], cpu_s["children"]], count),
            "statements": statements / count,
            "batch": batch,
            **_of_server(cost, count),
        }

    def _backends_of_worker(self) -> list[int]:
        """The server's processes that serve neither this process nor nobody."""
        own = [self.conn.info.backend_pid]
        app.close()
        if not is_local(self.conn):
            return []
        found = self.conn.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
            " AND pid <> ALL (%s)", [own],
        )  # fmt: skip
        return [pid for (pid,) in found]

    def _drained(self) -> tuple[int, float]:
        """How many tasks have ended, and the seconds from the first claim to the last result."""
        count, took_s = self.row(
            "SELECT count(*), extract(epoch FROM max(done_at) - min(claimed_at))::float8 FROM pgtasks.result"
        )
        return count, took_s

    def _batches(self) -> tuple[int, float]:
        """How many statements claimed or settled, and how many tasks one that settled did."""
        statements, batch = self.row(
            "SELECT count(DISTINCT at) AS statements, count(*) FILTER (WHERE is_end)::float8"
            "       / count(DISTINCT at) FILTER (WHERE is_end)"
            " FROM (SELECT claimed_at AS at, false AS is_end FROM pgtasks.result"
            "       UNION ALL SELECT done_at, true FROM pgtasks.result) r"
        )
        return statements, batch

    def _verify(self, worker: BenchWorker, count: int) -> None:
        """Every task ran once, has its own result, and is nowhere else."""
        again = worker.runs_other_than_one()
        good, others, left = self.row(
            "SELECT count(*) FILTER (WHERE r.state = 'SUCCESS' AND r.retries = 0"
            "         AND convert_from(r.value, 'UTF8') = (convert_from(m.payload, 'UTF8')::jsonb -> 0 ->> 0)),"
            "       count(*), (SELECT count(*) FROM pgtasks.claim) + (SELECT count(*) FROM pgtasks.ready)"
            " FROM pgtasks.result r JOIN pgtasks.message m ON m.id = r.id"
        )
        if again or (good, others, left) != (count, count, 0):
            raise NotVerified(
                f"Of {count} tasks {again} did not run exactly once; {good} of {others} results are right, {left} tasks"
                " are still claimed or ready."
            )

    # -- latency

    def latency(self, worker: BenchWorker) -> Figures:
        """Time calls and canvases on an idle worker, one after the other."""
        self.empty()
        worker.await_idle()
        trips = [_timed_ms(lambda: follow.delay(1).get(timeout=60), 2) for _ in range(self.scale.calls)]
        (by_server_ms,) = self.row(
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM r.done_at - m.created_at) * 1000)"
            " FROM pgtasks.result r JOIN pgtasks.message m ON m.id = r.id"
        )
        link = [follow.s(0), *[follow.s() for _ in range(9)]]
        chains = [_timed_ms(lambda: chain(*link).delay().get(timeout=60), 10) for _ in range(self.scale.canvases)]
        header = [follow.s(number) for number in range(100)]
        chords = [_timed_ms(lambda: chord(header)(total.s()).get(timeout=60), 5050) for _ in range(self.scale.canvases)]
        return {
            "round_trip_p50_ms": statistics.median(trips),
            "round_trip_p95_ms": statistics.quantiles(trips, n=20)[-1],
            "stored_p50_ms": by_server_ms,
            "chain_p50_ms": statistics.median(chains),
            "chord_p50_ms": statistics.median(chords),
        }

    # -- idle

    def idle(self, worker: BenchWorker) -> Figures:
        """Have the server log what the worker asks while nothing happens; only where the server is this run's own.

        The counters of the database would not do: they come late, and count what autovacuum does.
        """
        if self.log is None:
            return {"statements_per_s": None}
        app.close()
        worker.await_idle()
        time.sleep(1)  # soon after falling asleep a worker looks a few times more
        backends, start = self._backends_of_worker(), self.log.stat().st_size
        self._log_statements("all")
        time.sleep(self.scale.idle_s)
        self._log_statements("none")
        with self.log.open(errors="replace") as log:
            log.seek(start)
            found = re.findall(r"\[(\d+)\] LOG:  (?:execute|statement)", log.read())
        return {"statements_per_s": sum(int(pid) in backends for pid in found) / self.scale.idle_s}

    def _log_statements(self, which: str) -> None:
        self.conn.execute(f"ALTER SYSTEM SET log_statement = '{which}'")
        self.conn.execute("SELECT pg_reload_conf()")

    # -- the database

    def empty(self) -> None:
        """Remove all tasks; workers stay."""
        for left in range(9, -1, -1):
            try:
                self.conn.execute(_EMPTY)
                return
            except psycopg.errors.DeadlockDetected:
                # The worker's tick holds one table and wants another; it will be done in a moment.
                if not left:
                    raise

    def row(self, query: str) -> Any:
        """The only row of a query."""
        return self.conn.execute(query).fetchone()


def _of_server(cost: Spent, tasks: int) -> Figures:
    return {"wal_bytes": cost.wal_bytes / tasks, "server_us": per_task_us([cost.cpu_s], tasks)}


def _cpu_s(pids: Sequence[int]) -> float | None:
    """The CPU time of some processes; None for those that are not to be found here."""
    return sum(map(process_cpu_s, pids)) if pids else None


def _timed_ms(call: Callable[[], Any], expected: Any) -> float:
    began_at = time.perf_counter()
    found = call()
    took_ms = (time.perf_counter() - began_at) * 1000
    if found != expected:
        raise NotVerified(f"A task returned {found!r} in the place of {expected!r}.")
    return took_ms


# -- the run ---------------------------------------------------------------------------------------------------


@contextmanager
def _server(url: str | None) -> Iterator[tuple[str, Path | None]]:
    """The URL of the server to use, the one that was named or a private one for this run, with its log."""
    if url is not None:
        yield url, None
        return
    # Below /tmp, since a long TMPDIR makes the socket's name too long.
    with tempfile.TemporaryDirectory(prefix="pgtasks-bench-", dir="/tmp", ignore_cleanup_errors=True) as home:
        os.chmod(home, 0o755)
        server = Server.at(Path(home))
        try:
            yield server.start(), server.log
        finally:
            server.stop("immediate")


def _stop(processes: Sequence[subprocess.Popen[bytes]], patience_s: float) -> None:
    """Terminate processes together, and kill those that take longer than this."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def _database(server_url: str) -> Iterator[str]:
    """Make a database for this run, give its URL, and drop it."""
    name = f"pgtasks_bench_{os.getpid()}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        try:
            if conn.info.server_version < 180000:
                with psycopg.connect(_on(server_url, name), autocommit=True) as own:
                    own.execute(ceiling.UUIDV7)
            yield _on(server_url, name)
        finally:
            app.close()
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _on(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def _pgbench(url: str) -> ceiling.Pgbench | None:
    programs = [install.bin / "pgbench" for install in find_installs()]
    found = next((program for program in programs if os.access(program, os.X_OK)), None)
    return None if found is None else ceiling.Pgbench(found, url)


def run(server_url: str | None, scale: Scale) -> Figures:
    """Run all rounds; gives everything that was found, as it goes into the JSON."""
    found: Figures = {"machine": machine(), "fsyncs_per_s": fsyncs_per_s(), "crowding": crowding()}
    found |= {"scale": scale._asdict(), "rounds": []}
    with ExitStack() as stack:
        server, log = stack.enter_context(_server(server_url))
        url = stack.enter_context(_database(server))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        os.environ["PGTASKS_DATABASE_URL"] = url
        app.database.ping()
        bench = Bench(url, _pgbench(url), scale, Path(directory), log)
        found["settings"] = settings(bench.conn)
        bench.enqueue(1, 50)  # imports, plans and caches are not what is measured
        for number in range(scale.rounds):
            print(f"round {number + 1} of {scale.rounds}", file=sys.stderr, flush=True)
            found["rounds"].append(bench.round())
        bench.conn.close()
    found["load_average_after"] = os.getloadavg()[0]
    return found


def main() -> None:
    """Measure, print the table, and write everything as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where all figures of all rounds go")
    parser.add_argument("--quick", action="store_true", help="one round with few tasks")
    parser.add_argument("--smoke", action="store_true", help="next to nothing: does it work?")
    parser.add_argument("--url", help="a server with nothing else to do; a database is made on it and dropped")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--tasks", type=int, help="how many tasks a drain has")
    options = parser.parse_args()
    scale = SMOKE if options.smoke else QUICK if options.quick else Scale()
    scale = scale._replace(**{name: value for name in ("rounds", "tasks") if (value := getattr(options, name))})
    found = run(options.url, scale)
    table = report.table(found["rounds"])
    print(report.text(found, table))
    if options.json:
        options.json.write_text(json.dumps({**found, "table": [row.as_dict() for row in table]}, indent=1))


if __name__ == "__main__":
    main()
