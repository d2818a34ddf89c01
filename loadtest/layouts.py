"""Which tables should hold a task? Measure the candidates of `layouts_sql` on a Postgres of your own.

    python -m loadtest.layouts --url "host=/tmp/pg dbname=bench user=postgres" --json layouts.json

Four experiments, each with its candidates interleaved so that a noisy machine harms all of them alike:

    cycle     enqueue + claim + settle with a stored result; `keep` 2 means that half of the hand finishes at
              each step, as with real workers
    pinned    one client while an old snapshot keeps vacuum from removing anything, with and without the hint
    step      latency and client CPU of settle + claim at batch 1: two pipelined statements or one fused
    enqueue   one task per statement, with ON CONFLICT DO NOTHING or without

Figures are medians over the rounds, per task: `backend_us` is the CPU of the clients' own backends,
`server_us` that of the whole server with vacuum and WAL writer (both from /proc; None when the server is not
here), `client_us` the CPU of the clients. WAL is the whole server's, so run nothing else on it. Rates
depend on the machine; trust ratios and bytes. The schema `layouts_bench` is dropped and created.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.numeric import Int2, Int8

from loadtest.layouts_sql import ENQUEUE_IDEMPOTENT, ENQUEUE_PLAIN, LAYOUTS, Layout
from loadtest.measure import Figures, backend_cpu_s, difference, medians, per_task_us, ratios, spent

PAYLOAD = os.urandom(200)
RESULT = b'{"ok": true, "took": 1}'
FIRST = (-(2**15), 0)  # below every (rank, seq): a claim from here is a sweep of the whole queue
SWEEP_EVERY_S = 1.0


def new_id() -> uuid.UUID:
    """Make a version 7 uuid (RFC 9562, 5.7)."""
    ms = time.time_ns() // 1_000_000
    return uuid.UUID(int=ms << 80 | 7 << 76 | random.getrandbits(12) << 64 | 2 << 62 | random.getrandbits(62))


def connect(url: str) -> psycopg.Connection[Any]:
    """Connect as a pgtasks process does: autocommit, every statement prepared at its first use."""
    conn = psycopg.connect(url, autocommit=True, prepare_threshold=0)
    conn.execute("SET search_path = layouts_bench")
    conn.execute("SET plan_cache_mode = force_generic_plan")
    return conn


# -- a worker of one layout ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Hand:
    """One client: enqueues, and steps through a hand of claimed tasks."""

    conn: psycopg.Connection[Any]
    layout: Layout
    use_hint: bool = True
    worker: uuid.UUID = field(default_factory=uuid.uuid4)
    tasks: list[tuple[uuid.UUID, int, int]] = field(default_factory=list)  # id, delivery, retries
    lease: int = 0
    hint: tuple[int, int] = FIRST
    swept_at: float = 0.0
    settled: int = 0
    cursors: list[psycopg.Cursor[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.cursors = [self.conn.cursor(binary=True) for _ in range(2)]

    def enqueue(self, count: int) -> None:
        """Send `count` tasks in one statement."""
        values: dict[str, Any] = {"name": "shop.tasks.charge", "queue": "celery", "rank": Int2(0)}
        if count == 1:
            values |= {"id": new_id(), "payload": PAYLOAD}
            self.cursors[0].execute(self.layout.enqueue_one, values)
        else:
            values |= {"ids": [new_id() for _ in range(count)], "payloads": [PAYLOAD] * count}
            self.cursors[0].execute(self.layout.enqueue_many, values)

    def step(self, finish: int, size: int) -> None:
        """Settle `finish` tasks of the hand, chosen by chance, and claim up to a hand of `size` again."""
        if finish < len(self.tasks):
            random.shuffle(self.tasks)
        done, kept = self.tasks[:finish], self.tasks[finish:]
        claimed = self._run(self._values(done, kept, size - len(kept)))

        self.tasks = kept + [(row[3], row[4], row[5]) for row in claimed if row[3] is not None]
        self.lease = claimed[0][0] or 0 if claimed else 0
        if self.use_hint:
            self.hint = self._next_hint(claimed)
        self.settled += len(done)

    def _values(self, done: list[Any], kept: list[Any], free: int) -> dict[str, Any]:
        rank, seq = self.hint
        return {
            "worker": self.worker,
            "queue": "celery",
            "hint_rank": Int2(rank),
            "hint_seq": Int8(seq),
            "limit": Int8(-(-free // self.layout.chunk) if free > 0 else 0),
            "lease": Int8(self.lease),
            "ids": [task[0] for task in done],
            "deliveries": [task[1] for task in done],
            "values": [RESULT] * len(done),
            "kept_ids": [task[0] for task in kept],
            "kept_deliveries": [task[1] for task in kept],
            "kept_retries": [task[2] for task in kept],
        }

    def _run(self, values: dict[str, Any]) -> list[Any]:
        finished, claimed = self.cursors
        if len(self.layout.step) == 1:
            return claimed.execute(self.layout.step[0], values).fetchall()
        settle, claim = self.layout.step
        with self.conn.pipeline():
            if values["ids"]:
                finished.execute(settle, values)
            claimed.execute(claim, values)
        return claimed.fetchall()

    def _next_hint(self, claimed: list[Any]) -> tuple[int, int]:
        """Move on to the last row claimed; sweep from the start now and then, and when nothing was found."""
        last = [(row[1], row[2]) for row in claimed if row[3] is not None]
        now = time.monotonic()
        if not last or now - self.swept_at > SWEEP_EVERY_S:
            self.swept_at = now
            return FIRST
        return max(last)


# -- tables -------------------------------------------------------------------------------------------------


def create_tables(url: str, layout: Layout) -> None:
    """Start afresh, with tables grown, emptied and vacuumed, as after hours of work.

    Tables of one page would teach the planner to read them from end to end, and prepared plans persist.
    """
    with connect(url) as conn:
        conn.execute("DROP SCHEMA IF EXISTS layouts_bench CASCADE; CREATE SCHEMA layouts_bench", prepare=False)
        conn.execute(layout.tables, prepare=False)
        hand = Hand(conn, layout)
        for _ in range(60):
            hand.enqueue(100)
            hand.step(len(hand.tasks), 100)
        hand.step(len(hand.tasks), 0)
        conn.execute("VACUUM ANALYZE")


# -- experiments ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ran:
    """What one client did between the starting signal and the deadline."""

    settled: int
    cpu_s: float
    backend_cpu_s: float | None
    ended_at: float
    settled_ever: int = 0  # with warming up and winding down


class Stopwatch:
    """Waits for the starting signal, then measures one client and its backend until `stop`."""

    def __init__(self, conn: psycopg.Connection[Any], start_at: float, seconds: float) -> None:
        time.sleep(max(0.0, start_at - time.monotonic()))
        self.conn = conn
        self.deadline = start_at + seconds
        self.backend_cpu_s = backend_cpu_s(conn)
        self.cpu_s = time.process_time()

    def is_running(self) -> bool:
        return time.monotonic() < self.deadline

    def stop(self, settled: int) -> Ran:
        cpu_s = time.process_time() - self.cpu_s
        backend = difference(backend_cpu_s(self.conn), self.backend_cpu_s)
        return Ran(settled, cpu_s, backend, time.monotonic())


def _client(url: str, name: str, batch: int, keep: int, start_at: float, seconds: float) -> Ran:
    """Cycle until the deadline; then settle what is in hand, so that results can be counted."""
    with connect(url) as conn:
        hand = Hand(conn, LAYOUTS[name])
        hand.enqueue(batch * keep)
        for _ in range(5):
            hand.enqueue(batch)
            hand.step(batch, batch * keep)

        watch, before = Stopwatch(conn, start_at, seconds), hand.settled
        while watch.is_running():
            hand.enqueue(batch)
            hand.step(batch if keep > 1 else len(hand.tasks), batch * keep)
        ran = watch.stop(hand.settled - before)

        hand.step(len(hand.tasks), 0)
        return replace(ran, settled_ever=hand.settled)


def _enqueuer(url: str, statement: str, start_at: float, seconds: float) -> Ran:
    with connect(url) as conn:
        hand = Hand(conn, Layout("enqueue", "", statement, "", ()))
        hand.enqueue(1)
        watch, count = Stopwatch(conn, start_at, seconds), 0
        while watch.is_running():
            hand.enqueue(1)
            count += 1
        return watch.stop(count)


class Bench:
    """Owns the client processes and one connection for tables and counters."""

    def __init__(self, url: str, clients: int) -> None:
        self.url = url
        self.conn = connect(url)
        self.pool = ProcessPoolExecutor(clients, mp_context=get_context("spawn"))
        list(self.pool.map(time.sleep, [0.5] * clients))

    def _together(
        self, clients: int, seconds: float, job: Callable[..., Ran], *arguments: Any
    ) -> tuple[dict[str, Any], list[Ran]]:
        start_at = time.monotonic() + 0.4
        futures = [self.pool.submit(job, self.url, *arguments, start_at, seconds) for _ in range(clients)]
        time.sleep(start_at - time.monotonic())
        before = spent(self.conn)
        ran = [future.result() for future in futures]
        cost = spent(self.conn) - before
        tasks = sum(one.settled for one in ran)
        figures = {
            "tasks_per_s": tasks / (max(one.ended_at for one in ran) - start_at),
            "backend_us": per_task_us([one.backend_cpu_s for one in ran], tasks),
            "server_us": per_task_us([cost.cpu_s], tasks),
            "client_us": sum(one.cpu_s for one in ran) / tasks * 1e6,
            "wal_bytes": cost.wal_bytes / tasks,
        }
        return figures, ran

    def cycle(self, name: str, batch: int, keep: int, clients: int, seconds: float) -> dict[str, Any]:
        """Run whole cycles for `seconds`; every settled task must have its result."""
        create_tables(self.url, LAYOUTS[name])
        stored, read = self._results(LAYOUTS[name]), self._rows_read_in_full_scans()
        figures, ran = self._together(clients, seconds, _client, name, batch, keep)
        stored, settled = self._results(LAYOUTS[name]) - stored, sum(one.settled_ever for one in ran)
        if stored != settled:
            raise AssertionError(f"{name} stored {stored} results for {settled} settled tasks")
        return figures | {"scanned_rows": (self._rows_read_in_full_scans() - read) / settled}

    def enqueue(self, statement: str, clients: int, seconds: float) -> dict[str, Any]:
        """Send tasks one by one."""
        create_tables(self.url, LAYOUTS["E-claims"])
        return self._together(clients, seconds, _enqueuer, statement)[0]

    def step(self, name: str, count: int) -> dict[str, Any]:
        """Time `count` steps of one task each on an otherwise idle server."""
        create_tables(self.url, LAYOUTS[name])
        walls, cpu_s = [], 0.0
        with connect(self.url) as conn:
            hand = Hand(conn, LAYOUTS[name])
            for at in range(-20, count):  # below zero: warming up
                hand.enqueue(1)
                started, cpu_started = time.perf_counter(), time.process_time()
                hand.step(len(hand.tasks), 1)
                if at >= 0:
                    walls.append(time.perf_counter() - started)
                    cpu_s += time.process_time() - cpu_started
        return {"wall_us": statistics.median(walls) * 1e6, "client_us": cpu_s / count * 1e6}

    def pinned(self, name: str, use_hint: bool, total: int, window: int) -> dict[str, Any]:
        """Cycle through `total` tasks in batches of 100 while an old snapshot stays open.

        Returns the microseconds of its backend and of the wall clock per task, one figure per `window` tasks.
        """
        create_tables(self.url, LAYOUTS[name])
        backend_us, wall_us = [], []
        with connect(self.url) as old, connect(self.url) as conn:
            old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            old.execute("SELECT txid_current()")
            hand = Hand(conn, LAYOUTS[name], use_hint)
            while hand.settled < total:
                until, before, started = hand.settled + window, backend_cpu_s(conn), time.monotonic()
                while hand.settled < until:
                    hand.enqueue(100)
                    hand.step(len(hand.tasks), 100)
                wall_us.append((time.monotonic() - started) / window * 1e6)
                backend_us.append(per_task_us([difference(backend_cpu_s(conn), before)], window))
            old.execute("ROLLBACK")
        return {"backend_us": backend_us, "wall_us": wall_us}

    def _rows_read_in_full_scans(self) -> int:
        """Return how many rows sequential scans have read: many per task means a plan gone wrong."""
        row = self.conn.execute(
            """SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables
               WHERE schemaname = 'layouts_bench' AND relname IN ('message', 'ready', 'claim', 'lease')"""
        ).fetchone()
        assert row is not None
        return int(row[0])

    def _results(self, layout: Layout) -> int:
        row = self.conn.execute(layout.results, prepare=False).fetchone()
        assert row is not None
        return int(row[0])


# -- series --------------------------------------------------------------------------------------------------

COMPARED = ("tasks_per_s", "backend_us", "client_us", "wal_bytes")


def run_cycles(bench: Bench, options: argparse.Namespace) -> list[Figures]:
    """Run every layout in turn, round by round, and return one line of medians per case."""
    lines = []
    for keep, clients, batch in product(options.keep, options.clients, options.batches):
        runs: dict[str, list[Figures]] = defaultdict(list)
        for _ in range(options.rounds):
            for name in random.sample(options.layouts, len(options.layouts)):
                runs[name].append(bench.cycle(name, batch, keep, clients, options.seconds))
        for name in options.layouts:
            case = {"layout": name, "batch": batch, "clients": clients, "keep": keep}
            lines.append(case | medians(runs[name]) | ratios(runs[name], runs[options.layouts[0]], COMPARED))
            say(lines[-1])
    return lines


def run_enqueues(bench: Bench, options: argparse.Namespace) -> list[Figures]:
    """Compare the idempotent single-row enqueue with the plain one."""
    lines = []
    statements = {"on conflict do nothing": ENQUEUE_IDEMPOTENT, "plain": ENQUEUE_PLAIN}
    for clients in options.clients:
        runs: dict[str, list[Figures]] = defaultdict(list)
        for _ in range(options.rounds):
            for name, statement in statements.items():
                runs[name].append(bench.enqueue(statement, clients, options.seconds))
        for name in statements:
            lines.append({"enqueue": name, "clients": clients, **medians(runs[name])})
            say(lines[-1])
    return lines


def run_steps(bench: Bench, options: argparse.Namespace) -> list[Figures]:
    """Compare the latency of one step at batch 1."""
    runs: dict[str, list[Figures]] = defaultdict(list)
    for _ in range(options.rounds):
        for name in random.sample(options.layouts, len(options.layouts)):
            runs[name].append(bench.step(name, 300))
    lines = [{"step": name, **medians(runs[name])} for name in options.layouts]
    for line in lines:
        say(line)
    return lines


def run_pinned(bench: Bench, options: argparse.Namespace) -> list[Figures]:
    """Show how the cost of a task grows while nothing can be vacuumed."""
    lines = []
    for name, use_hint in (("E-claims", False), ("E-claims", True), ("E-lease", True)):
        figures = bench.pinned(name, use_hint, options.pinned_tasks, options.pinned_tasks // 6)
        lines.append({"pinned": name, "hint": use_hint, **figures})
        say(lines[-1])
    return lines


EXPERIMENTS = {"step": run_steps, "enqueue": run_enqueues, "pinned": run_pinned, "cycle": run_cycles}


def say(line: Figures) -> None:
    """Print one line of figures, short."""
    print("  ".join(f"{key}={_short(value)}" for key, value in line.items()), flush=True)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_short, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return str(value)


def main() -> None:
    """Run the experiments asked for and write their figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="a Postgres for this alone; schema layouts_bench is dropped")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 10, 100])
    parser.add_argument("--clients", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--keep", nargs="+", type=int, default=[1, 2], help="hand size over tasks finished per step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one run")
    parser.add_argument("--pinned-tasks", type=int, default=300_000)
    options = parser.parse_args()

    bench = Bench(options.url, max(options.clients))
    figures = {name: EXPERIMENTS[name](bench, options) for name in options.only}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
