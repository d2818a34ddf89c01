"""Make something the limit on purpose, and see whether the report says so.

    python -m loadtest.provoke                  each in turn, on a private Postgres: three minutes on an idle machine
    python -m loadtest.provoke lock server      some of them

    lock        another session has the table of messages locked most of the time: lock wait
    wal         others write and flush all the time on the same disk: WAL fsync
    server      a trigger takes some 20 ms of the server's processor for each statement that enqueues: server CPU
    worker      each task takes 5 ms of a worker's processor: worker CPU
    generator   many users in one process of Locust's, whose calls nobody works on: load generator CPU

On a machine with other work that is the limit, and the report says that instead. The exit status is 1 when one of them was
not seen.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from threading import Event, Thread
from typing import Any, NamedTuple

import psycopg

from loadtest import bench

Conn = psycopg.Connection[Any]


def _lock(conn: Conn, over: Event) -> None:
    while not over.wait(0.05):
        with conn.transaction():
            conn.execute("LOCK TABLE pgtasks.message IN SHARE MODE")
            over.wait(0.4)


def _busy_disk(conn: Conn, over: Event) -> None:
    def write() -> None:
        block = bytes(4_000_000)
        with TemporaryFile(dir="/tmp", buffering=0) as file:  # where a private server is
            while not over.is_set():
                file.seek(0)
                file.write(block)
                os.fdatasync(file.fileno())

    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(write)


def _costly_trigger(conn: Conn, over: Event) -> None:
    conn.execute(
        """
        CREATE FUNCTION public.burn() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          FOR n IN 1..1000000 LOOP END LOOP;
          RETURN NULL;
        END $$;
        CREATE TRIGGER burn AFTER INSERT ON pgtasks.message FOR EACH STATEMENT EXECUTE FUNCTION public.burn();
        """
    )
    over.wait()


def _nothing(conn: Conn, over: Event) -> None:
    """What Locust is asked for is enough."""


class Provocation(NamedTuple):
    """What is done to the database meanwhile, how the load test is called, and what its report is to name."""

    disturb: Callable[[Conn, Event], None]
    load: str
    limit: str


PROVOCATIONS = {
    "lock": Provocation(_lock, "Single --users 8", "lock wait"),
    "wal": Provocation(_busy_disk, "Single --users 8 --workers 0", "WAL fsync"),
    "server": Provocation(_costly_trigger, "Single --users 8 -- --processes 2", "server CPU"),
    "worker": Provocation(_nothing, "Bulk --users 1 -- --bulk-size 100 --task-ms 50", "worker CPU"),
    "generator": Provocation(_nothing, "Single --users 64 --workers 0", "load generator CPU"),
}


def provoke(provocation: Provocation, server: str, seconds: int) -> dict[str, Any]:
    """Run a load test that is disturbed; gives what its report says."""
    own, _, for_locust = provocation.load.partition(" -- ")
    with TemporaryDirectory() as directory:
        found = Path(directory, "found.json")
        command = [sys.executable, "-m", "loadtest", *own.split(), "--url", server, "--seconds", str(seconds)]
        command += ["--ceiling", "none", "--html", str(Path(directory, "report.html")), "--json", str(found)]
        command += ["--", "--stop-timeout", "5", *for_locust.split()]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        with _disturbed(bench._on(server, f"pgtasks_bench_{run.pid}"), provocation.disturb):
            said, _ = run.communicate()
        if not found.exists():
            raise SystemExit(f"The load test ended with status {run.returncode}:\n{said[-3000:]}")
        verdict: dict[str, Any] = json.loads(found.read_text())["verdict"]
        return verdict


@contextmanager
def _disturbed(url: str, disturb: Callable[[Conn, Event], None]) -> Iterator[None]:
    """Disturb a database from its first task until the end of the block."""
    over = Event()

    def watch() -> None:
        while not over.wait(0.2):
            try:
                with psycopg.connect(url, autocommit=True) as conn:
                    while conn.execute("SELECT FROM pgtasks.message LIMIT 1").fetchone() is None:
                        time.sleep(0.05)
                    disturb(conn, over)
                    return
            except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
                continue  # it is not there yet, or not any more

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)


def main() -> None:
    """Provoke what was asked for; the exit status says whether all was seen."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.provoke", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", help="all, if none is named")
    parser.add_argument("--seconds", type=int, default=15, help="how long each takes")
    options = parser.parse_args()
    unknown = set(options.what) - set(PROVOCATIONS)
    if unknown:
        parser.error(f"nothing is called {', '.join(sorted(unknown))}; there are {', '.join(PROVOCATIONS)}")
    missed = []
    with bench._server(None) as (server, _):
        for name in options.what or PROVOCATIONS:
            provocation = PROVOCATIONS[name]
            said = provoke(provocation, server, options.seconds)
            is_seen = said["limit"].startswith(provocation.limit)
            print(f"{name}: {'' if is_seen else 'NOT SEEN: '}{said['sentence']}", *said["evidence"], sep="\n  ")
            print(*(f"  warning: {warning}" for warning in said["warnings"]), sep="\n", flush=True)
            missed += [] if is_seen else [name]
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
