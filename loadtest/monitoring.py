"""What remote control and events take, measured.

    python -m loadtest.monitoring                   a Postgres of its own; two minutes
    python -m loadtest.monitoring --nodes 200       more workers that answer

Asking: how long `inspect ping` takes until the last of many nodes has answered, and one node on an idle
system. The nodes are registrations of their own, each with its connection and its letters, in a few
processes: what a worker does about a letter, without its children. Events: the rate of a drain by a worker
started with -E while nobody listens, next to one without; rounds take turns, and the figure is the median of
the ratios within a round.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import selectors
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import psycopg

from loadtest.bench import _database, _server
from loadtest.bench_tasks import app, noop
from loadtest.bench_worker import BenchWorker
from pgtasks.store.database import Database
from pgtasks.worker.consumer import Consumer
from pgtasks.worker.letterbox import Letterbox

PROCESSES = 4


def main() -> None:
    """Print a line for each figure."""
    options = _options()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        server, _ = stack.enter_context(_server(options.url))
        os.environ["PGTASKS_DATABASE_URL"] = url = stack.enter_context(_database(server))
        app.database.ping()
        for nodes in (1, options.nodes):
            asked = ask(url, nodes, options.times)
            print(
                f"inspect ping, {nodes} nodes: p50 {statistics.median(asked) * 1e3:.1f} ms,"
                f" slowest of {len(asked)} {max(asked) * 1e3:.0f} ms",
                flush=True,
            )
        ratios = [drain(url, directory, options.tasks, "-E") / drain(url, directory, options.tasks)
                  for _ in range(options.rounds)]  # fmt: skip
        print(f"drain with -E and no listener: {statistics.median(ratios):.1%} of the rate without")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.monitoring",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--url", help="a server with nothing else to do; a database is made on it and dropped"
    )
    parser.add_argument("--nodes", type=int, default=50, help="how many nodes answer")
    parser.add_argument("--times", type=int, default=30, help="how often they are asked")
    parser.add_argument("--tasks", type=int, default=20_000, help="tasks of one drain")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of drains")
    return parser.parse_args()


# -- asking


def ask(url: str, nodes: int, times: int) -> list[float]:
    """Seconds that each `inspect ping` took; raises if not all nodes answered."""
    took = []
    with _answering(url, nodes):
        app.control.ping(timeout=30)
        for _ in range(times):
            began_at = time.perf_counter()
            replies = app.control.ping(timeout=30)
            took.append(time.perf_counter() - began_at)
            if len(replies) != nodes:
                raise RuntimeError(f"{len(replies)} of {nodes} nodes have answered")
            time.sleep(0.1)
    return took


@contextmanager
def _answering(url: str, nodes: int) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    is_ready, is_over = context.Semaphore(0), context.Event()
    shares = [nodes // PROCESSES + (n < nodes % PROCESSES) for n in range(PROCESSES)]
    processes = [
        context.Process(target=_serve, args=(url, share, is_ready, is_over), daemon=True)
        for share in shares
        if share
    ]
    for process in processes:
        process.start()
    for _ in processes:
        is_ready.acquire()
    try:
        yield
    finally:
        is_over.set()
        for process in processes:
            process.join()


def _serve(url: str, nodes: int, is_ready: Any, is_over: Any) -> None:
    """Be some nodes, which do nothing but answer letters."""
    letterboxes = {}
    for n in range(nodes):
        description = {
            "hostname": f"node{os.getpid()}-{n}@here", "machine": platform.node(), "pool": "solo", "concurrency": 1,
            "queues": ["nothing"], "version": "0",
        }  # fmt: skip
        consumer = Consumer(Database(url), description, lease_s=600, max_deliveries=3)
        consumer.enlist()
        if consumer.bell is not None:
            letterboxes[consumer.bell.fileno()] = Letterbox(
                SimpleNamespace(app=app, hostname=description["hostname"], consumer=consumer)
            )
    with selectors.DefaultSelector() as selector:
        for fileno in letterboxes:
            selector.register(fileno, selectors.EVENT_READ)
        is_ready.release()
        while not is_over.is_set():
            for key, _ in selector.select(0.2):
                letterbox = letterboxes[key.fd]
                letterbox.state.consumer.hear()
                letterbox.empty()
        for letterbox in letterboxes.values():
            letterbox.state.consumer.discharge()


# -- events


def drain(url: str, directory: Path, count: int, options: str = "") -> float:
    """Tasks per second of a worker that finds a full queue."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("TRUNCATE pgtasks.message, pgtasks.ready, pgtasks.claim, pgtasks.result")
        worker = BenchWorker(conn, directory, 2, count, options)
        try:
            with worker.frozen():
                noop.delay_many([(number,) for number in range(count)])
            began_at = time.perf_counter()
            worker.await_runs(count)
            return count / (time.perf_counter() - began_at)
        finally:
            worker.stop()


if __name__ == "__main__":
    main()
