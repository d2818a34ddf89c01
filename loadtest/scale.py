"""Does size matter? What statements take with more and more ready, a long history, and an old snapshot open.

    python -m loadtest.scale              up to 1,000,000 ready and 10,000,000 finished; ten minutes, and 10 GB
    python -m loadtest.scale --small      up to 20,000 and 20,000: for CI
    python -m loadtest.scale --at-most 2  exit status 1 when a claim takes more than twice as long at the end

Three experiments on one database:

    sizes       at each size a worker settles and claims batches of a hundred, by `claim` as workers send it, first with
                nothing else open and then with a snapshot held open that was taken before the first of them, so that
                vacuum may not remove what they leave; at the smallest and the largest size the other statements as
                well, see `loadtest.probes`; and claims from one queue among a thousand
    churn       a million tasks go through one queue, with and without an old snapshot: what do they leave behind, and
                what do the first and the last hundred thousand take?
    capacity    what to plan with: bytes of disk and of WAL per task

Time is that of the server, from its own count of CPU for the backend, which another one's work does not lengthen much,
and by the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import psycopg

from loadtest import bench, probes
from loadtest.measure import Figures, backend_cpu_s, difference, machine, settings, spent
from pgtasks.message import Claim, Message, Outcome, new_id, new_ids
from pgtasks.store import database, fleet, tasks

BATCH = 100
QUEUE = "scale"


class Scale(NamedTuple):
    """Sizes, and how many batches are claimed at each."""

    ready: Sequence[int] = (1000, 10_000, 100_000, 1_000_000)
    finished: Sequence[int] = (0, 10_000_000)
    queues: int = 1000
    batches: int = 100
    churned: int = 1_000_000


SMALL = Scale(ready=(1000, 20_000), finished=(0, 20_000), queues=50, batches=8, churned=20_000)

_MESSAGES = """
INSERT INTO pgtasks.message (id, name, queue, options, payload)
SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(%(first)s + n), 12, '0'))::uuid, 'scale.noop', %(queue)s,
       '{"origin":"gen1@scale"}', convert_to(format('[[%%s], {}, {}]', n), 'UTF8')
FROM generate_series(1, %(count)s) n
"""
_READY = "INSERT INTO pgtasks.ready (id, queue, rank) SELECT id, queue, 0 FROM pgtasks.message WHERE queue = %(queue)s"
_RESULTS = """
INSERT INTO pgtasks.result (id, claimed_at, done_at, state, worker, value)
SELECT id, now() - interval '1 hour', now() - interval '1 hour', 'SUCCESS', 'w@scale', '12345'
FROM pgtasks.message WHERE queue = %(queue)s
"""


class Ladder:
    """One database, filled step by step, and the worker that claims from it."""

    def __init__(self, url: str, scale: Scale) -> None:
        self.scale = scale
        self.conn = psycopg.connect(url, autocommit=True)
        self.own = database.connect(url)
        self.worker = uuid4()
        self.made = 0

    def climb(self) -> list[Figures]:
        """Measure at every size; gives a row per size and kind."""
        found = []
        for finished in self.scale.finished:
            self._finish(finished)
            for ready in self.scale.ready:
                for is_pinned in (False, True):
                    found.append(self._at(ready, finished, is_pinned=is_pinned))
                    print(text(found[-1]), file=sys.stderr, flush=True)
        found.append(self._among_queues())
        print(text(found[-1]), file=sys.stderr, flush=True)
        return found

    def others(self) -> list[Figures]:
        """Time the statements beside the claim: with next to nothing there, and, after `climb`, with everything."""
        finished = self.scale.finished[-1] if self.made else 0
        ready = self.scale.ready[-1 if self.made else 0]
        queue = self._fill(ready)
        self._schedule(ready)
        place = probes.Place(self.own, self.worker, queue, finished)
        found = [{"ready": ready, "finished": finished, "pinned": False, **row} for row in probes.measure(place)]
        self.conn.execute("UPDATE pgtasks.scheduled SET due = due - interval '10 years'")
        with self._old_snapshot():
            # What was there when the snapshot was taken is now dead, and stays: it was claimed, and moved when it was due.
            self.conn.execute("DELETE FROM pgtasks.ready")
            self.conn.execute("DELETE FROM pgtasks.scheduled")
            self.conn.execute(_READY, {"queue": queue})
            found += [{"ready": ready, "finished": finished, "pinned": True, **row} for row in probes.measure(place)]
        self.conn.execute("TRUNCATE pgtasks.scheduled")
        print(*map(text_of_statement, found), sep="\n", file=sys.stderr, flush=True)
        return found

    def churn(self, *, is_pinned: bool) -> Figures:
        """Let many tasks go through a queue that is short all the time; what is left, and what the last ones take."""
        self.conn.execute("TRUNCATE pgtasks.ready, pgtasks.claim")
        before = self._sizes()
        with self._old_snapshot() if is_pinned else nullcontext():
            spans = [self._pass(self.scale.churned // 10) for _ in range(10)]
            after = self._sizes()
        first, last = spans[0], spans[-1]
        found = {
            "churned": self.scale.churned,
            "pinned": is_pinned,
            "first_cpu_us": first["cpu_us"],
            "last_cpu_us": last["cpu_us"],
            "wal_bytes_per_task": statistics.median(span["wal_bytes"] for span in spans),
            **{f"{table}_grown_bytes": after[table] - before[table] for table in before},
        }
        print(text_of_churn(found), file=sys.stderr, flush=True)
        return found

    def _pass(self, count: int) -> Figures:
        """Enqueue a thousand, and settle and claim them, as often as it takes; per task."""
        queue, lane, held = "churn", tasks.Lane("churn"), list[Claim]()
        alike = Message(id=new_id(), name="scale.noop", queue=queue, payload=b"", options=b'{"origin":"gen1@scale"}')
        server, began_s = spent(self.conn), backend_cpu_s(self.own)
        for _ in range(0, count, 1000):
            self.own.run(tasks.enqueue_many(alike, new_ids(1000), [b"[[12345], {}, {}]"] * 1000))
            for _ in range(1000 // BATCH):
                held = self._step(lane, held)
                if held:
                    lane = lane._replace(rank=held[-1].rank, seq=held[-1].seq)
        self._step(lane._replace(queue="nothing"), held)
        cpu_s = difference(backend_cpu_s(self.own), began_s)
        return {
            "cpu_us": None if cpu_s is None else cpu_s / count * 1e6,
            "wal_bytes": (spent(self.conn) - server).wal_bytes / count,
        }

    def _sizes(self) -> dict[str, int]:
        """Bytes of the tables through which tasks go, indexes included."""
        row = self.conn.execute(
            "SELECT pg_total_relation_size('pgtasks.ready'), pg_total_relation_size('pgtasks.claim')"
        ).fetchone()
        assert row is not None
        return {"ready": row[0], "claim": row[1]}

    @contextmanager
    def _old_snapshot(self) -> Iterator[None]:
        """Have a transaction open that may still look at everything as it is now."""
        with psycopg.connect(self.conn.info.dsn) as old:
            old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            old.execute("SELECT count(*) FROM pgtasks.worker")
            yield

    def _schedule(self, count: int) -> None:
        """Have so many tasks scheduled, for later."""
        self.conn.execute(
            "INSERT INTO pgtasks.scheduled (id, due, rank, queue)"
            " SELECT gen_random_uuid(), now() + n * interval '1 minute', 0, 'later' FROM generate_series(1, %s) n", [count],
        )  # fmt: skip
        self.conn.execute("VACUUM (ANALYZE) pgtasks.scheduled")

    def disk(self) -> Figures:
        """Bytes per task of the tables that keep what has ended, indexes included."""
        row = self.conn.execute(
            "SELECT pg_total_relation_size('pgtasks.message')::float8 / (SELECT count(*) FROM pgtasks.message),"
            "       pg_total_relation_size('pgtasks.result')::float8 / nullif((SELECT count(*) FROM pgtasks.result), 0)"
        ).fetchone()
        assert row is not None
        message, result = row
        return {"disk_bytes_per_message": message, "disk_bytes_per_result": result, "disk_bytes_per_task": message + result}

    def enlist(self) -> None:
        """Register the worker that claims."""
        self.own.run(
            fleet.enlist(
                self.worker, lease_s=86_400, hostname="w@scale", machine="", pid=0, pool="", version="", concurrency=1,
                queues=[QUEUE],
            )
        )  # fmt: skip

    def _finish(self, count: int) -> None:
        for start in range(0, count, 500_000):
            queue = f"finished{start}"
            self._make(queue, min(500_000, count - start))
            self.conn.execute(_RESULTS, {"queue": queue})
        self.conn.execute("VACUUM (ANALYZE) pgtasks.message, pgtasks.result")

    def _make(self, queue: str, count: int) -> None:
        self.conn.execute(_MESSAGES, {"first": self.made, "count": count, "queue": queue})
        self.made += count

    def _at(self, ready: int, finished: int, *, is_pinned: bool) -> Figures:
        """Claim from a queue of so many tasks, as often as that lasts."""
        queue = self._fill(ready)
        if not is_pinned:
            return {"ready": ready, "finished": finished, "pinned": False, **self._claim(queue)}
        with self._old_snapshot():
            return {"ready": ready, "finished": finished, "pinned": True, **self._claim(queue)}

    def _fill(self, ready: int) -> str:
        """Have so many tasks ready in a queue, and none elsewhere; gives its name."""
        self.conn.execute("TRUNCATE pgtasks.ready, pgtasks.claim")
        queue = f"{QUEUE}{self.made}"
        self._make(queue, ready)
        self.conn.execute(_READY, {"queue": queue})
        self.conn.execute("VACUUM (ANALYZE) pgtasks.ready, pgtasks.message")
        return queue

    def _claim(self, queue: str) -> Figures:
        """Settle and claim batches, as long as there are tasks; the figures are medians per batch."""
        lane, held, cpu_us, clock_us = tasks.Lane(queue), list[Claim](), [], []
        for _ in range(self.scale.batches):
            began_s, began_at = backend_cpu_s(self.own), time.perf_counter()
            held = self._step(lane, held)
            clock_us.append((time.perf_counter() - began_at) * 1e6)
            spent_s = difference(backend_cpu_s(self.own), began_s)
            cpu_us.append(None if spent_s is None else spent_s * 1e6)
            if not held:
                break
            lane = lane._replace(rank=held[-1].rank, seq=held[-1].seq)
        # The first prepares the statement and settles nothing; the last may claim nothing.
        known = [each for each in cpu_us[1:-1] if each is not None]
        return {
            "claim_cpu_us": statistics.median(known) if known else None,
            "claim_clock_us": statistics.median(clock_us[1:-1]),
            "batches": len(clock_us),
        }

    def _step(self, lane: tasks.Lane, held: Sequence[Claim]) -> list[Claim]:
        """Settle what is held and claim as much again, as a worker does; gives that."""
        done = [Outcome(claim.id, claim.delivery, value=b"12345") for claim in held]
        claim = tasks.claim(self.worker, [lane], BATCH, max_deliveries=5, may_lag=not done)
        claims: list[Claim]
        _, claims = self.own.run_at_once([tasks.finish(self.worker, "w@scale", done), claim])
        return claims

    def _among_queues(self) -> Figures:
        """Claim from one queue where there are many more, each with tasks."""
        queue = self._fill(10_000)
        self.conn.execute(
            "INSERT INTO pgtasks.ready (id, queue, rank)"
            " SELECT gen_random_uuid(), 'other' || q, 0 FROM generate_series(1, %s) q, generate_series(1, 20)",
            [self.scale.queues],
        )
        self.conn.execute("VACUUM (ANALYZE) pgtasks.ready")
        sizes = {"ready": 10_000, "finished": self.scale.finished[-1], "queues": self.scale.queues}
        return {**sizes, "pinned": False, **self._claim(queue)}


def growth(found: Sequence[Figures]) -> float | None:
    """How many times longer a claim takes at the largest size than at the smallest, at worst; None if that is
    unknown."""
    known = [row for row in found if row["claim_cpu_us"] is not None and "queues" not in row]
    if not known:
        return None
    return max(row["claim_cpu_us"] for row in known) / known[0]["claim_cpu_us"]


def text_of_statement(row: Figures) -> str:
    """One statement at one size as a line."""
    cpu = "-" if row["cpu_us"] is None else f"{row['cpu_us']:,.0f}"
    return (
        f"{row['ready']:>9,} ready{', an old snapshot open' if row['pinned'] else '':<23} {row['finished']:>10,} finished:"
        f" {row['statement']:<10} {cpu:>7} us of the server's CPU, {row['clock_us']:,.0f} us by the clock"
    )


def text_of_churn(row: Figures) -> str:
    """What a million tasks left behind, as a line."""
    cpu = "-" if row["first_cpu_us"] is None else f"{row['first_cpu_us']:.0f} us at first and {row['last_cpu_us']:.0f}"
    return (
        f"{row['churned']:,} tasks through one queue{', an old snapshot open' if row['pinned'] else ''}: {cpu} us at last of"
        f" the server's CPU per task, {row['wal_bytes_per_task']:,.0f} bytes of WAL; ready grew by"
        f" {row['ready_grown_bytes'] / 1e6:.1f} MB, claim by {row['claim_grown_bytes'] / 1e6:.1f} MB"
    )


def text(row: Figures) -> str:
    """One row as a line."""
    cpu = "-" if row["claim_cpu_us"] is None else f"{row['claim_cpu_us'] / BATCH:.1f}"
    return (
        f"{row['ready']:>9,} ready{', an old snapshot open' if row['pinned'] else '':<23} {row['finished']:>10,} finished"
        f"{', ' + format(row['queues'], ',') + ' queues' if 'queues' in row else ''}:"
        f" {cpu} us of the server's CPU per task, {row['claim_clock_us'] / BATCH:.1f} us by the clock"
    )


def run(server_url: str | None, scale: Scale) -> Figures:
    """Climb on a server, or on a private one."""
    with bench._server(server_url) as (server, _), bench._database(server) as url:
        bench.app.conf.broker_url = url
        bench.app.database.ping()
        ladder = Ladder(url, scale)
        ladder.enlist()
        few = ladder.others()
        found = {
            "machine": machine(),
            "settings": settings(ladder.conn),
            "rows": ladder.climb(),
            **ladder.disk(),
            "statements": [*few, *ladder.others()],
            "churn": [ladder.churn(is_pinned=False), ladder.churn(is_pinned=True)],
        }
        ladder.own.close()
        ladder.conn.close()
    return {**found, "growth": growth(found["rows"])}


def main() -> None:
    """Measure, print, and judge if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a server with nothing else to do; without, a private one is started")
    parser.add_argument("--small", action="store_true", help="sizes for CI")
    parser.add_argument("--finished", type=int, help="rows of history at the last step")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--at-most", type=float, help="exit with status 1 if a claim grows by more than this factor")
    options = parser.parse_args()
    scale = SMALL if options.small else Scale()
    if options.finished is not None:
        scale = scale._replace(finished=(0, options.finished))
    found = run(options.url, scale)
    grown = found["growth"]
    print(
        f"A claim takes {'?' if grown is None else format(grown, '.2f')} times as long at worst as with the fewest tasks;"
    )
    print(
        f"a task that has ended takes {found['disk_bytes_per_task']:,.0f} bytes of disk, indexes included:"
        f" {found['disk_bytes_per_message']:,.0f} of them its message, {found['disk_bytes_per_result']:,.0f} its result."
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if options.at_most is not None and (grown is None or grown > options.at_most):
        sys.exit(1)


if __name__ == "__main__":
    main()
