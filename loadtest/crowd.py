"""Many workers and many queues at once: what do they take of the server, and is everybody served?

    python -m loadtest.crowd                        50 workers, 1,000 queues, on a private Postgres
    python -m loadtest.crowd --workers 10 --queues 100

The workers are ordinary ones, each a process with one slot (`--pool solo`), and have joined one queue in common beside their
share of the others. While they are idle their connections and, from the server's log, their statements are counted, and
`inspect ping` asks all of them. Then the common queue is filled at once, and it is seen how much of it each worker took;
then all the others, and it is seen how long the last queue of a worker waited for its first task. A task that did not
run, or was run by a worker that has not joined its queue, ends the run with an error.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psycopg

from loadtest import bench
from loadtest.jobs import QUEUE, app, noop
from loadtest.measure import Figures

_PATIENCE_S = 600.0


class Scale(NamedTuple):
    """How many of everything; `tasks` are those of the common queue, and of each of the others."""

    workers: int = 50
    queues: int = 1000
    tasks: tuple[int, int] = (20_000, 10)
    pings: int = 10
    idle_s: float = 20.0


def run(scale: Scale) -> Figures:
    """All of it, on a private server; gives the figures."""
    with ExitStack() as stack:
        server, log = stack.enter_context(bench._server(None))
        url = stack.enter_context(bench._database(server))
        directory = Path(stack.enter_context(TemporaryDirectory()))
        os.environ["PGTASKS_DATABASE_URL"] = app.conf.broker_url = url
        app.database.ping()
        stack.callback(app.close)
        conn = stack.enter_context(psycopg.connect(url, autocommit=True))
        assert log is not None
        with _workers(scale, conn, directory):
            return {
                "scale": scale._asdict(),
                **_idle(conn, log, scale.idle_s),
                "ping_ms": _pings(scale),
                **_common(conn, scale),
                **_apart(conn, scale),
            }


def _share(scale: Scale, number: int) -> list[str]:
    """The queues that a worker has joined, without the common one."""
    return [f"own{at}" for at in range(number, scale.queues, scale.workers)]


@contextmanager
def _workers(scale: Scale, conn: psycopg.Connection[Any], directory: Path) -> Iterator[None]:
    """Run the workers for this block; returns when all have joined."""
    started = []
    try:
        for number in range(scale.workers):
            command = f"-m pgtasks -A loadtest.jobs worker -P solo -l WARNING -n w{number}@here -Q"
            with (directory / f"w{number}.log").open("wb") as log:
                queues = ",".join([QUEUE, *_share(scale, number)])
                started.append(
                    subprocess.Popen([sys.executable, *command.split(), queues], stdout=log, stderr=subprocess.STDOUT)
                )
        _await(lambda: conn.execute("SELECT count(*) FROM pgtasks.worker").fetchone() == (scale.workers,), "all joined")
        yield
    finally:
        bench._stop(started, 60)


def _await(is_so: Any, what: str) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not is_so():
        if time.monotonic() > until:
            raise SystemExit(f"Within {_PATIENCE_S:g} s it was not so: {what}.")
        time.sleep(0.2)


def _idle(conn: psycopg.Connection[Any], log: Path, seconds: float) -> Figures:
    """Connections of all workers, and what they ask while there is nothing to do."""
    app.close()
    _await(lambda: conn.execute("SELECT count(*) FROM pgtasks.idle").fetchone() != (0,), "idle workers")
    time.sleep(3)  # soon after falling asleep a worker looks a few times more
    backends = [
        pid
        for (pid,) in conn.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
            " AND pid <> pg_backend_pid()"
        )
    ]
    start = log.stat().st_size
    _log_statements(conn, "all")
    time.sleep(seconds)
    _log_statements(conn, "none")
    with log.open(errors="replace") as file:
        file.seek(start)
        asked = re.findall(r"\[(\d+)\] LOG:  (?:execute|statement)", file.read())
    mine = sum(int(pid) in backends for pid in asked)
    return {"connections": len(backends), "statements_per_s": mine / seconds}


def _log_statements(conn: psycopg.Connection[Any], which: str) -> None:
    conn.execute(f"ALTER SYSTEM SET log_statement = '{which}'".encode())
    conn.execute("SELECT pg_reload_conf()")


def _pings(scale: Scale) -> list[float]:
    """How long each `inspect ping` took until the last worker had answered."""
    took_ms = []
    for _ in range(scale.pings):
        began_at = time.perf_counter()
        replies = app.control.ping(timeout=60)
        took_ms.append((time.perf_counter() - began_at) * 1e3)
        if len(replies) != scale.workers:
            raise SystemExit(f"{len(replies)} of {scale.workers} workers answered a ping.")
    return took_ms


def _common(conn: psycopg.Connection[Any], scale: Scale) -> Figures:
    """Tasks of the common queue that each worker has run."""
    count = scale.tasks[0]
    noop.delay_many(range(count))
    _await_results(conn, count)
    ran = [n for _, n in conn.execute("SELECT worker, count(*) FROM pgtasks.result GROUP BY worker").fetchall()]
    return {"taken": ran + [0] * (scale.workers - len(ran))}


def _apart(conn: psycopg.Connection[Any], scale: Scale) -> Figures:
    """Of its own queues' tasks, the share that a worker had claimed when the last queue had its first; at worst and at the
    median of all workers."""
    conn.execute("TRUNCATE pgtasks.result, pgtasks.message")
    with conn.transaction():  # so that all of them are there at once
        for at in range(scale.queues):
            noop.apply_async_many([((n,), {}) for n in range(scale.tasks[1])], queue=f"own{at}", conn=conn)
    _await_results(conn, scale.queues * scale.tasks[1])
    expected = {(f"own{at}", f"w{at % scale.workers}@here") for at in range(scale.queues)}
    found = conn.execute(
        "SELECT DISTINCT m.queue, r.worker FROM pgtasks.result r JOIN pgtasks.message m USING (id)"
    ).fetchall()
    if set(found) != expected:
        raise SystemExit(f"Queues were served by workers that have not joined them: {set(found) ^ expected}")
    shares = conn.execute(
        "WITH own AS (SELECT r.worker, r.claimed_at, min(r.claimed_at) OVER (PARTITION BY m.queue) AS first"
        "             FROM pgtasks.result r JOIN pgtasks.message m USING (id)),"
        " last AS (SELECT worker, max(first) AS first FROM own GROUP BY worker)"
        " SELECT avg((own.claimed_at < last.first)::int)::float8 FROM own JOIN last USING (worker) GROUP BY worker"
    ).fetchall()
    return {"before_last_queue": [share for (share,) in shares]}


def _await_results(conn: psycopg.Connection[Any], count: int) -> None:
    _await(
        lambda: conn.execute("SELECT count(*) FROM pgtasks.result").fetchone() == (count,), f"{count:,} tasks have ended"
    )


def text(found: Figures) -> str:
    """The figures for people."""
    workers, queues = found["scale"]["workers"], found["scale"]["queues"]
    taken, waited, pings = found["taken"], found["before_last_queue"], found["ping_ms"]
    return "\n".join(
        [
            f"{workers} workers with {queues:,} queues, idle: {found['connections']} connections,"
            f" {found['statements_per_s']:.1f} statements/s, {found['statements_per_s'] / workers:.2f} of each",
            f"inspect ping until the last reply: p50 {statistics.median(pings):,.0f} ms, slowest of {len(pings)}"
            f" {max(pings):,.0f} ms",
            f"of {sum(taken):,} tasks in a common queue a worker took {min(taken):,} to {max(taken):,}, at the median"
            f" {statistics.median(taken):,.0f}",
            f"when the last of its queues had its first task claimed, a worker had claimed {statistics.median(waited):.0%} of"
            f" their tasks at the median, {max(waited):.0%} at worst",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print, and write the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.crowd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--queues", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args(arguments)
    found = run(Scale(workers=options.workers, queues=options.queues))
    print(text(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
