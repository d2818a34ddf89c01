"""The ceiling of this server: our own statements, run by pgbench, over a sweep of clients and batches.

    python -m loadtest.sweep --url URL --json FILE      on a database of its own, made there and dropped
    python -m loadtest.sweep --quick                    fewer points, each shorter

Run before a load test, by itself, so that it has the server for itself. It tells what that does at best with

    enqueue   one task per statement, as `.delay()` sends it
    bulk      a thousand tasks per statement, as `delay_many` sends them
    drain     settle and claim in one statement, in the batches that occur
    step      one step of a workflow per statement

and the WAL that a task takes, and how often the disk can be flushed. See `loadtest.ceiling` for what pgbench
runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loadtest import bench, ceiling
from loadtest.bench_tasks import app, noop
from loadtest.measure import Figures, fsyncs_per_s, machine, settings, spent

#: Names the server, where a URL with a password shall not be seen in the list of processes.
URL = "PGTASKS_SWEEP_URL"

#: Each point takes about this long.
POINT_S, QUICK_POINT_S = 1.0, 0.3
CLIENTS, QUICK_CLIENTS = (1, 2, 4, 8, 16), (1, 4)
BATCHES, QUICK_BATCHES = (1, 10, 100), (10, 100)
#: What a first try takes, before it is known how much a point can do.
_TRIES = {"enqueue": 100, "bulk": 3, "step": 100}
_DRAINED = 10_000


class Sweep:
    """Points of the ceiling, on a database that it has for itself."""

    def __init__(self, url: str, directory: Path, *, quick: bool) -> None:
        pgbench = bench._pgbench(url)
        if pgbench is None:
            raise SystemExit("No pgbench was found beside the Postgres programs of this machine: no ceiling.")
        self.pgbench = pgbench
        self.point_s = QUICK_POINT_S if quick else POINT_S
        self.clients = QUICK_CLIENTS if quick else CLIENTS
        self.batches = QUICK_BATCHES if quick else BATCHES
        self.drained = _DRAINED // 3 if quick else _DRAINED
        self.bench = bench.Bench(url, pgbench, bench.SMOKE, directory)

    def points(self) -> Iterator[Figures]:
        """Every point: what, clients, batch, tasks per second, WAL and server CPU per task."""
        noop.delay(0)  # pgbench sends what it finds
        for clients in self.clients:
            yield self._enqueue("enqueue", ceiling.enqueue_one, clients, 1)
        for clients in self.clients[:3]:
            yield self._enqueue("bulk", partial(ceiling.enqueue_many, count=bench.BULK), clients, bench.BULK)
        for batch in self.batches:
            for clients in self.clients[:3]:
                yield self._drain(clients, batch)
        yield from self._steps()

    def _enqueue(self, what: str, script: Any, clients: int, batch: int) -> Figures:
        tried = self.bench.ceiling(script, clients, _TRIES[what], batch)
        assert tried is not None
        transactions = max(_TRIES[what], int(tried["tasks_per_s"] * self.point_s / batch / clients))
        found = self.bench.ceiling(script, clients, transactions, batch)
        assert found is not None
        return {"what": what, "clients": clients, "batch": batch, **found}

    def _drain(self, clients: int, batch: int) -> Figures:
        # A batch of one takes as long as ten for ten.
        self.bench.scale = bench.SMOKE._replace(tasks=max(500, self.drained * min(batch, 10) // 10))
        found = self.bench.ceiling_of_drain(clients, batch)
        assert found is not None
        return {"what": "drain", "clients": clients, "batch": batch, **found}

    def _steps(self) -> Iterator[Figures]:
        for clients in self.clients:
            self.bench.empty()
            self.bench.conn.execute("TRUNCATE pgtasks.step")
            count = max(_TRIES["step"], int(1000 * self.point_s))
            before = spent(self.bench.conn)
            self.pgbench.run(ceiling.step(), clients, count)
            cost = spent(self.bench.conn) - before
            done, took_s = self.bench.row(
                "SELECT count(*), extract(epoch FROM max(at) - min(at))::float8 FROM pgtasks.step"
            )
            if done != count * clients:
                raise bench.NotVerified(f"pgbench was to record {count * clients} steps and recorded {done}.")
            rate = (done - clients) / took_s
            yield {
                "what": "step",
                "clients": clients,
                "batch": 1,
                "tasks_per_s": rate,
                **bench._of_server(cost, done),
            }


def seconds_per_task(points: Iterable[Figures], what: Sequence[str], batch: float) -> float | None:
    """What a task takes of the server, at its best, in a statement with so many; None if that was not
    measured.

    A statement takes a while, and more for each task in it: between the measured batches a straight line.
    """
    points = list(points)
    sizes = sorted({point["batch"] for point in points if point["what"] in what})
    known = [
        (size, size / max(p["tasks_per_s"] for p in points if p["what"] in what and p["batch"] == size))
        for size in sizes
    ]
    if len(known) < 2:
        return None
    upper = next((at for at in range(1, len(known)) if known[at][0] >= batch), len(known) - 1)
    (low, low_s), (high, high_s) = known[upper - 1 : upper + 1]
    batch = max(batch, low)
    return (low_s + (batch - low) / (high - low) * (high_s - low_s)) / batch


def seconds_per_step(points: Iterable[Figures]) -> float:
    """What a step of a workflow takes of the server, at its best; nothing if that was not measured."""
    rates = [point["tasks_per_s"] for point in points if point["what"] == "step"]
    return 1 / max(rates) if rates else 0.0


SENDING, ENDING = ("enqueue", "bulk"), ("drain",)


def whole_life(points: Iterable[Figures], sent_in: float, settled_in: float) -> float | None:
    """Tasks per second that the server could take through their life, sent and settled in batches of these
    sizes.

    It does both for every task, so the times that it takes for each add up.
    """
    points = list(points)
    sending, ending = seconds_per_task(points, SENDING, sent_in), seconds_per_task(points, ENDING, settled_in)
    return None if sending is None or ending is None else 1 / (sending + ending)


def capacity(points: Iterable[Figures]) -> list[Figures]:
    """What to plan with: of a task that is sent alone or in bulk, and settled in the largest batches, its
    cost for the server.

    `per_core` is how many a processor of the server can take per second, if it does nothing else.
    """
    points = list(points)
    largest = max((point["batch"] for point in points if point["what"] == "drain"), default=0)
    ending = [point for point in points if point["what"] == "drain" and point["batch"] == largest]
    rows = []
    for what, said in (("enqueue", "sent alone"), ("bulk", "sent in bulk")):
        sending = [point for point in points if point["what"] == what]
        if not sending or not ending or sending[0]["server_us"] is None:
            continue
        # Of each the cheapest: the others have waited for each other.
        cpu_us = sum(min(point["server_us"] for point in some) for some in (sending, ending))
        wal = sum(min(point["wal_bytes"] for point in some) for some in (sending, ending))
        rows.append({"what": said, "server_us": cpu_us, "per_core": 1e6 / cpu_us, "wal_bytes": wal})
    return rows


def run(server_url: str | None, *, quick: bool) -> Figures:
    """Measure the ceiling of a server, or of a private one."""
    with (
        bench._server(server_url) as (server, _),
        bench._database(server) as url,
        TemporaryDirectory() as directory,
    ):
        os.environ["PGTASKS_DATABASE_URL"] = url
        app.database.ping()
        sweep = Sweep(url, Path(directory), quick=quick)
        found: Figures = {
            "machine": machine(),
            "settings": settings(sweep.bench.conn),
            "fsyncs_per_s": fsyncs_per_s(),
        }
        found["points"] = []
        for point in sweep.points():
            print(text(point), file=sys.stderr, flush=True)
            found["points"].append(point)
        sweep.bench.conn.close()
    found["capacity"] = capacity(found["points"])
    return found


def text(point: Figures) -> str:
    """One point as a line."""
    server = "" if point["server_us"] is None else f", {point['server_us']:.0f} us of the server's CPU"
    return (
        f"{point['what']:<8} {point['clients']:>3} clients, {point['batch']:>4} per statement:"
        f" {point['tasks_per_s']:>9,.0f}/s, {point['wal_bytes']:,.0f} B of WAL{server}"
    )


def main() -> None:
    """Measure, print, and write as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--url",
        default=os.environ.get(URL),
        help=f"a server with nothing else to do, or {URL}; without, a private one is started",
    )
    parser.add_argument("--json", type=Path, help="where the points go")
    parser.add_argument("--quick", action="store_true", help="fewer points, each shorter")
    options = parser.parse_args()
    found = run(options.url, quick=options.quick)
    for row in found["capacity"]:
        print(
            f"A task {row['what']} takes {row['server_us']:.0f} us of the server's CPU, so {row['per_core']:,.0f}/s per"
            f" processor, and {row['wal_bytes']:,.0f} bytes of WAL."
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
