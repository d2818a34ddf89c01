"""What to plan with: one command that measures it where you are, and writes the table of docs/capacity.md.

    python -m loadtest.capacity                         two minutes, on a private Postgres
    python -m loadtest.capacity --into docs/capacity.md     in the place of the table there
    python -m loadtest.capacity --json FILE             every figure, unrounded

Each row says whether its figure was measured or is derived from others, and from which. The server's part is that of
our own statements by pgbench (`loadtest.sweep`), the worker's that of an ordinary worker that drains no-op tasks with
stored results, bytes of disk those of what this leaves, indexes included. CPU times of a machine with other work come
out too long, by what the heading says; bytes do not.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from loadtest import bench, sweep
from loadtest.bench_worker import BenchWorker
from loadtest.measure import Figures, crowding

BEGIN, END = "<!-- capacity -->", "<!-- end of capacity -->"


class Row(NamedTuple):
    """One line of the table; `origin` is how a measured figure was had, or what a derived one comes from."""

    what: str
    figure: str
    kind: str
    origin: str


def measure(server_url: str | None, *, quick: bool, tasks: int) -> Figures:
    """Sweep, drain, and look at what is there before and after."""
    with ExitStack() as stack:
        server, log = stack.enter_context(bench._server(server_url))
        found: Figures = {"crowding": crowding(), **sweep.run(server, quick=quick)}
        url = stack.enter_context(bench._database(server))
        directory = Path(stack.enter_context(TemporaryDirectory()))
        os.environ["PGTASKS_DATABASE_URL"] = bench.app.conf.broker_url = url
        bench.app.database.ping()
        own = bench.Bench(url, None, bench.SMOKE._replace(tasks=tasks, idle_s=10.0), directory, log)
        try:
            found |= _of_worker(own, directory, tasks)
        finally:
            own.conn.close()
    return found | {"tasks": tasks}


def _of_worker(own: bench.Bench, directory: Path, tasks: int) -> Figures:
    own.fill(tasks)
    waiting = _bytes_per_task(own, "message", tasks) + _bytes_per_task(own, "ready", tasks)
    own.empty()
    worker = BenchWorker(own.conn, directory, bench.CONCURRENCY, tasks)
    try:
        drained = own.drain(worker)
        ended = {table: _bytes_per_task(own, table, tasks) for table in ("message", "result")}
        own.empty()
        idle = own.idle(worker)
        connections = len(own._backends_of_worker())
    finally:
        worker.stop()
    return {"drain": drained, "idle": idle, "connections": connections, "waiting_bytes": waiting, "ended_bytes": ended}


def _bytes_per_task(own: bench.Bench, table: str, tasks: int) -> float:
    return float(own.row(f"SELECT pg_total_relation_size('pgtasks.{table}')")[0]) / tasks


# -- the table


def rows(found: Figures) -> list[Row]:
    """The table: first what was measured, then what follows from it."""
    cpu, wal = _least(found["points"], "server_us"), _least(found["points"], "wal_bytes")
    worker_us, ended = found["drain"]["worker_us"], sum(found["ended_bytes"].values())
    by_pgbench, by_worker = "by pgbench, our own statements", "`worker -c 2` drains no-op tasks"
    measured = [
        ("server's CPU, to take in a task sent by `.delay()`", _us(cpu("enqueue")), by_pgbench),
        ("server's CPU, to take in one of a thousand sent by `delay_many`", _us(cpu("bulk")), by_pgbench),
        ("server's CPU, to settle one and hand out one, in batches of 100", _us(cpu("drain", 100)), by_pgbench),
        ("the same, in batches of 10", _us(cpu("drain", 10)), by_pgbench),
        ("server's CPU, to record a step of a workflow", _us(cpu("step")), by_pgbench),
        ("worker's CPU per task, all its processes", _us(worker_us), by_worker),
        ("WAL of a task, sent by `.delay()`", _bytes(wal("enqueue") + wal("drain", 100)), by_pgbench),
        ("WAL of a task, sent by `delay_many`", _bytes(wal("bulk") + wal("drain", 100)), by_pgbench),
        ("WAL of a step", _bytes(wal("step")), by_pgbench),
        ("disk of a task that waits", _bytes(found["waiting_bytes"]), "a full queue"),
        (
            "disk of a task that has ended, with a small result",
            f"{_bytes(ended)}: {found['ended_bytes']['message']:,.0f} its message,"
            f" {found['ended_bytes']['result']:,.0f} its result",
            "after the drain",
        ),
        ("connections of an idle worker", f"{found['connections']}", "`pg_stat_activity`"),
        ("statements of an idle worker", _known(found["idle"]["statements_per_s"], "/s"), "the server's log, 10 s"),
    ]  # fmt: skip
    drained, bulk_wal = cpu("drain", 100), wal("bulk") + wal("drain", 100)
    five_steps = _rate(cpu("bulk"), cpu("drain", 10), *[cpu("step")] * 5)
    derived = [
        ("tasks/s per vCPU of the server, by `.delay()`", _rate(cpu("enqueue"), drained), "1 / (take in + settle)"),
        ("tasks/s per vCPU of the server, by `delay_many`", _rate(cpu("bulk"), drained), "1 / (take in + settle)"),
        ("five-step workflows/s per vCPU of the server", five_steps, "1 / (take in + settle, batches of 10 + 5 steps)"),
        ("tasks/s per vCPU of the workers", _rate(worker_us), "1 / worker's CPU; your own code comes on top"),
        ("tasks/s per vCPU that server and worker share", _rate(cpu("bulk"), drained, worker_us), "1 / all three"),
        ("WAL per million tasks, sent by `delay_many`", f"{bulk_wal / 1e3:,.2f} GB", "a million times"),
        ("disk per million tasks that have ended", f"{ended:,.0f} MB", "a million times"),
        ("disk per million tasks that wait", f"{found['waiting_bytes']:,.0f} MB", "a million times"),
    ]
    return [
        *(Row(what, figure, "measured", origin) for what, figure, origin in measured),
        *(Row(what, figure, "derived", origin) for what, figure, origin in derived),
    ]


def _least(points: Sequence[Figures], figure: str) -> Callable[..., Any]:
    """Of the points of a kind the least: the others have waited for each other."""

    def find(what: str, batch: int | None = None) -> float | None:
        known = [
            p[figure] for p in points if p["what"] == what and batch in (None, p["batch"]) and p[figure] is not None
        ]
        return min(known, default=None)

    return find


def _us(value: float | None) -> str:
    return _known(value, " us")


def _bytes(value: float | None) -> str:
    return _known(value, " bytes")


def _known(value: float | None, unit: str) -> str:
    if value is None:
        return "not measured here"
    return f"{value:,.0f}{unit}" if value >= 10 else f"{value:.2g}{unit}"


def _rate(*parts_us: float | None) -> str:
    known = [part for part in parts_us if part is not None]
    return f"{1e6 / sum(known):,.0f}" if len(known) == len(parts_us) else "not known"


def text(found: Figures) -> str:
    """The heading and the table, as Markdown."""
    machine, settings = found["machine"], found["settings"]
    durable = all(settings.get(name) == "on" for name in ("fsync", "synchronous_commit", "full_page_writes"))
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; Postgres {settings['server_version']},"
        f" {'durable' if durable else 'NOT DURABLE'}, {found['fsyncs_per_s']:,.0f} flushes/s; Python {machine['python']}.",
        f"Load average {machine['load_average']:.1f} before; the same work took {found['crowding']:.1f} times the CPU that it"
        f" takes alone. {found['tasks']:,} tasks drained.",
        "",
        "| what | figure | | how |",
        "| --- | --- | --- | --- |",
        *(f"| {row.what} | {row.figure} | {row.kind} | {row.origin} |" for row in rows(found)),
    ]
    return "\n".join(lines)


def written(page: str, table: str) -> str:
    """A page with a new table between its marks; raises SystemExit when it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"There is no place for the table: a line {BEGIN} and, below it, a line {END}.")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> None:
    """Measure, print, and write where it is wanted."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.capacity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a server with nothing else to do; a database is made on it and dropped")
    parser.add_argument("--tasks", type=int, default=20_000, help="how many are drained")
    parser.add_argument("--full", action="store_true", help="sweep more clients and batches, each for longer")
    parser.add_argument("--into", type=Path, help=f"a page that has the marks {BEGIN} and {END}")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    if options.into:
        written(options.into.read_text(), "")  # before anything is measured
    found = measure(options.url, quick=not options.full, tasks=options.tasks)
    table = text(found)
    print(table)
    if options.into:
        options.into.write_text(written(options.into.read_text(), table))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
