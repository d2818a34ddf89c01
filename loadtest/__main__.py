"""A load test from nothing to a report, on a bare machine.

    python -m loadtest                              a minute of the user Mix, with as many users as saturate
    python -m loadtest Bulk Single --users 16       other users; see loadtest.users
    python -m loadtest --web                        Locust's own page, to play with; Ctrl-C ends everything
    python -m loadtest Single -- --processes 2      what comes after -- is for Locust
    python -m loadtest --json FILE --at-least 50    exit status 1 below 50 % of the ceiling: a gate

It starts a private, durable Postgres (or uses --url), workers, measures the ceiling, runs Locust and writes a
report. All that it started is gone afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from loadtest import bench, sweep

HERE = Path(__file__).parent
#: As in `loadtest.users` and `loadtest.shapes`, which cannot be imported here: Locust would make greenlets of our threads.
USERS = ("Single", "Bulk", "RoundTrip", "Chain", "Chord", "Workflow", "Mix")
SHAPES = ("none", "steps", "soak", "spike", "drain")


def main() -> None:
    """Run what the command line says; the exit status is that of the gate."""
    options = _options()
    # So that a terminated run cleans up as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        server, _ = stack.enter_context(bench._server(options.url))
        url = stack.enter_context(bench._database(server))
        os.environ["PGTASKS_DATABASE_URL"] = url
        ceiling = _ceiling(server, directory, options.ceiling)
        stack.enter_context(_workers(url, options, directory))
        found = options.json or directory / "found.json"
        status = _locust(options, ceiling, found)
        said = json.loads(found.read_text())["verdict"] if found.exists() else None
    if said is None:
        sys.exit(status or 1)
    print(f"{said['sentence']}. The report is in {options.html}.")
    if options.at_least is not None and (said["percent"] or 0) < options.at_least:
        sys.exit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("user", nargs="*", help=f"kinds of users, Mix if none is named: {', '.join(USERS)}")
    parser.add_argument("--url", help="a server with nothing else to do; a database is made on it and dropped")
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--shape", choices=SHAPES, default="none", help="how the load changes, see loadtest.shapes")
    parser.add_argument("--workers", type=int, default=1, help="`pgtasks worker` processes; 0 only enqueues")
    parser.add_argument("-c", "--concurrency", type=int, default=2, help="of each worker")
    parser.add_argument("--ceiling", choices=["quick", "full", "none"], default="quick")
    parser.add_argument("--web", action="store_true", help="Locust's web page instead of a run by itself")
    parser.add_argument("--html", type=Path, default=Path("loadtest.html"), help="where the report goes")
    parser.add_argument("--json", type=Path, help="where everything that was seen goes")
    parser.add_argument("--at-least", type=float, help="exit with status 1 below this percentage of the ceiling")
    own, for_locust = sys.argv[1:], []
    if "--" in own:
        own, for_locust = own[: own.index("--")], own[own.index("--") + 1 :]
    options = parser.parse_args(own)
    options.for_locust = for_locust
    options.user = options.user or ["Mix"]
    # Before a server is started and its ceiling measured.
    unknown = set(options.user) - set(USERS)
    if unknown:
        parser.error(f"no user is called {', '.join(sorted(unknown))}; there are {', '.join(USERS)}")
    return options


def _ceiling(server: str, directory: Path, how: str) -> str:
    """Measure the ceiling before there are workers; gives what Locust's --ceiling is to be."""
    if how == "none":
        return how
    path = directory / "ceiling.json"
    command = [
        sys.executable,
        "-m",
        "loadtest.sweep",
        "--json",
        str(path),
        *(["--quick"] if how == "quick" else []),
    ]
    subprocess.run(command, env={**os.environ, sweep.URL: server}, check=True)
    return str(path)


@contextmanager
def _workers(url: str, options: argparse.Namespace, directory: Path) -> Iterator[None]:
    """Run workers for this block; returns when they have joined."""
    command = [sys.executable, "-m", "pgtasks", "-A", "loadtest.jobs", "worker", "-l", "WARNING"]
    started = []
    log = (directory / "workers.log").open("wb")
    try:
        for number in range(options.workers):
            own = ["-n", f"load{number}@here", "-c", str(options.concurrency)]
            started.append(subprocess.Popen([*command, *own], stdout=log, stderr=subprocess.STDOUT))
        _await_workers(url, started, directory / "workers.log")
        yield
    finally:
        bench._stop(started, 30)
        log.close()


def _await_workers(url: str, started: Sequence[subprocess.Popen[bytes]], log: Path) -> None:
    # The schema installs itself when somebody comes.
    bench.app.database.ping()
    with psycopg.connect(url, autocommit=True) as conn:
        while conn.execute("SELECT count(*) FROM pgtasks.worker").fetchone() != (len(started),):
            for worker in started:
                try:
                    status = worker.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
                said = log.read_text(errors="replace")[-2000:].strip()
                raise SystemExit(f"A worker ended with status {status} before it had begun:\n{said}")


def _locust(options: argparse.Namespace, ceiling: str, found: Path) -> int:
    command = [sys.executable, "-m", "locust", "-f", str(HERE / "locustfile.py"), *options.user]
    command += [
        "-u",
        str(options.users),
        "-r",
        str(options.users),
        "--load-shape",
        options.shape,
        "--ceiling",
        ceiling,
    ]
    command += ["--report", str(options.html), "--report-json", str(found)]
    if not options.web:
        command += ["--headless", "--only-summary", "-t", f"{options.seconds}s"]
    # Where it was called, so that files go where they are asked for.
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.getenv("PYTHONPATH")]))}
    locust = subprocess.Popen([*command, *options.for_locust], env=environ)
    try:
        return locust.wait()
    except KeyboardInterrupt:
        # It was interrupted as well, and has a report to write.
        try:
            locust.wait(60)
        except subprocess.TimeoutExpired:
            pass
        return 0
    finally:
        bench._stop([locust], 30)


if __name__ == "__main__":
    main()
