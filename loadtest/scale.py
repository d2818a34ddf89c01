"""Does size matter? What a claim takes with more and more ready, a long history, and an old snapshot open.

    python -m loadtest.scale              up to 1,000,000 ready and 10,000,000 finished; minutes, and some GB
    python -m loadtest.scale --small      up to 20,000 and 20,000: for CI
    python -m loadtest.scale --at-most 2  exit status 1 when a claim takes more than twice as long at the end

At each size a worker settles and claims batches of a hundred, by `claim` as workers send it, first with
nothing else open and then with a snapshot held open that was taken before the first of them, so that vacuum
may not remove what they leave. Time is that of the server, from its own count of CPU for the backend, which
another one's work does not lengthen much, and by the clock. Also: what a table takes on disk per task, and
claims from one queue among a thousand.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg

from loadtest import bench
from loadtest.measure import Figures, backend_cpu_s, difference, machine, settings
from pgtasks.message import Claim, Outcome
from pgtasks.store import database, fleet, tasks

BATCH = 100
QUEUE = "scale"


class Scale(NamedTuple):
    """Sizes, and how many batches are claimed at each."""

    ready: Sequence[int] = (1000, 10_000, 100_000, 1_000_000)
    finished: Sequence[int] = (0, 10_000_000)
    queues: int = 1000
    batches: int = 100


SMALL = Scale(ready=(1000, 20_000), finished=(0, 20_000), queues=50, batches=8)

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
        self._enlist()
        found = []
        for finished in self.scale.finished:
            self._finish(finished)
            for ready in self.scale.ready:
                found += [
                    self._at(ready, finished, is_pinned=False),
                    self._at(ready, finished, is_pinned=True),
                ]
                print(*map(text, found[-2:]), sep="\n", file=sys.stderr, flush=True)
        found.append(self._among_queues())
        print(text(found[-1]), file=sys.stderr, flush=True)
        return found

    def disk(self) -> Figures:
        """Bytes per task of the tables that keep what has ended, indexes included."""
        row = self.conn.execute(
            "SELECT pg_total_relation_size('pgtasks.message')::float8 / (SELECT count(*) FROM pgtasks.message)"
            "  + pg_total_relation_size('pgtasks.result')::float8 / nullif((SELECT count(*) FROM pgtasks.result), 0)"
        ).fetchone()
        assert row is not None
        return {"disk_bytes_per_task": row[0]}

    def _enlist(self) -> None:
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
        with psycopg.connect(self.conn.info.dsn) as old:
            old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            old.execute("SELECT count(*) FROM pgtasks.worker")
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
            answer = self.own.run(self._query(lane, held))
            clock_us.append((time.perf_counter() - began_at) * 1e6)
            spent_s = difference(backend_cpu_s(self.own), began_s)
            cpu_us.append(None if spent_s is None else spent_s * 1e6)
            held = answer.claims
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

    def _query(self, lane: tasks.Lane, held: Sequence[Claim]) -> Any:
        done = [Outcome(claim.id, claim.delivery, value=b"12345") for claim in held]
        return tasks.claim(self.worker, [lane], BATCH, max_deliveries=5, hostname="w@scale", done=done)

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
        found = {
            "machine": machine(),
            "settings": settings(ladder.conn),
            "rows": ladder.climb(),
            **ladder.disk(),
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
    print(f"a task that has ended takes {found['disk_bytes_per_task']:,.0f} bytes of disk, indexes included.")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if options.at_most is not None and (grown is None or grown > options.at_most):
        sys.exit(1)


if __name__ == "__main__":
    main()
