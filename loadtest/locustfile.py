"""Load tests with Locust, at the ceiling of a database and beside it.

    locust -f loadtest/locustfile.py --database-url URL         Locust's page, with a tab and a page of its own
    locust -f loadtest/locustfile.py --database-url URL Bulk --headless -u 8 -t 1m --processes 2 --csv out
    python -m loadtest                                          a server, workers, the ceiling, this, a report

Workers are started beside it: `pgtasks -A loadtest.jobs worker`. The process that directs the run, with
`--processes` the master, measures the ceiling before each run, watches the server during it, and says at the
end how near it came and why no nearer. The kinds of users are in `loadtest.users`, the shapes in
`loadtest.shapes`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import psycopg
from locust import events
from locust.runners import WorkerRunner

from loadtest import jobs, sweep
from loadtest.measure import Figures, machine, settings
from loadtest.page import glance, latencies, page, short
from loadtest.shapes import SHAPES
from loadtest.users import Bulk, Chain, Chord, Mix, RoundTrip, Single, Workflow
from loadtest.verdict import verdict
from loadtest.watch import Watch
from pgtasks.exceptions import OperationalError

__all__ = ("Bulk", "Chain", "Chord", "Mix", "RoundTrip", "Single", "Workflow")

_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Options of ours, on the command line and in the web form."""
    parser.add_argument(
        "--database-url", env_var="PGTASKS_DATABASE_URL", default="", include_in_web_ui=False,
        help="The database to load. Its tasks are worked on by whoever has joined the queue 'load'.",
    )  # fmt: skip
    parser.add_argument("--bulk-size", type=int, default=1000, help="Tasks per call of delay_many")
    parser.add_argument(
        "--task-ms", type=float, default=0.0,
        help="What each task of the users Single, Bulk and Mix takes of a worker's processor, where nobody waits for it",
    )  # fmt: skip
    parser.add_argument(
        "--load-shape", choices=["none", *SHAPES], default="none", help="How the load changes over time"
    )
    parser.add_argument("--step-seconds", type=float, default=10.0, help="How long a step of the shape 'steps' takes")
    parser.add_argument(
        "--ceiling", default="quick",
        help="Measure the ceiling before a run: quick, full or none; or a file that `python -m loadtest.sweep` has written",
    )  # fmt: skip
    parser.add_argument("--report", default="", include_in_web_ui=False, help="Write the report to this HTML file")
    parser.add_argument(
        "--report-json", default="", include_in_web_ui=False, help="Write all that was seen to this file"
    )


class Director:
    """What the process that directs a run knows: the ceiling, and what happens."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.ceiling: Figures | None = None
        self.watch: Watch | None = None
        #: The machine and the server's settings.
        self.about: Figures = {}
        self._is_prepared = False

    @property
    def options(self) -> Any:
        return self.environment.parsed_options

    @property
    def points(self) -> list[Figures]:
        return self.watch.points if self.watch is not None else []

    def seen(self) -> tuple[float, int]:
        """Tasks sent or ended per second in the last three seconds, and ready now."""
        last = self.points[-3:]
        if not last:
            return 0.0, 0
        rate = sum(max(point["sent_per_s"] or 0.0, point["ended_per_s"] or 0.0) for point in last) / len(last)
        return rate, last[-1]["ready"]

    def prepare(self) -> None:
        """See that there is a database, and what it can do."""
        jobs.app.database.ping()
        self.ceiling = self._measured()
        self._is_prepared = True

    def start(self, **_: Any) -> None:
        """Begin a run; each has a ceiling of its own."""
        if not self._is_prepared:
            self.prepare()
        self._is_prepared = False
        with psycopg.connect(jobs.app.conf.broker_url) as conn:
            self.about = {**machine(), **settings(conn)}
        self.watch = Watch(jobs.app.conf.broker_url, lambda: self.environment.runner.user_count)
        self.watch.start()

    def _measured(self) -> Figures | None:
        if self.options.ceiling == "none":
            return None
        if self.options.ceiling not in ("quick", "full"):
            known: Figures = json.loads(Path(self.options.ceiling).read_text())
            return known
        with TemporaryDirectory() as directory:
            path = Path(directory, "ceiling.json")
            # In a process of its own, since pgbench is no friend of greenlets, and on a database of its own.
            subprocess.run(
                [sys.executable, "-m", "loadtest.sweep", "--json", str(path)]
                + (["--quick"] if self.options.ceiling == "quick" else []),
                env={**os.environ, sweep.URL: jobs.app.conf.broker_url},
                check=True,
            )
            found: Figures = json.loads(path.read_text())
            return found

    def stop(self, **_: Any) -> None:
        """After a run: say what there is to say."""
        if self.watch is None:
            return
        self.watch.stop()
        said = self.verdict()
        print("\n".join(["", said.sentence, *said.evidence, *said.warnings]), flush=True)
        if self.options.report:
            Path(self.options.report).write_text(self.page())
        if self.options.report_json:
            everything = {
                "verdict": said.as_dict(),
                "users": [user.__name__ for user in self.environment.user_classes],
                "latency_ms": dict(latencies(self.points)),
                "about": self.about,
                "ceiling": self.ceiling,
                "points": self.points,
            }
            Path(self.options.report_json).write_text(json.dumps(everything, indent=1, default=str))

    def verdict(self) -> Any:
        return verdict(self.points, self.ceiling, _CORES)

    def page(self, *, is_live: bool = False) -> str:
        users = ", ".join(user.__name__ for user in self.environment.user_classes)
        shape = "" if self.options.load_shape == "none" else f", shape {self.options.load_shape}"
        title = f"pgtasks under load: {users}{shape}"
        return page(title, self.verdict(), self.points, self.ceiling, self.about, is_live=is_live)

    def glance(self) -> str:
        return glance(self.verdict(), self.points)

    def rows(self) -> list[dict[str, str]]:
        """For the tab in Locust's page."""
        said, last = self.verdict(), self.points[-1] if self.points else None
        rows = [("verdict", said.sentence), *(("evidence", fact) for fact in said.evidence)]
        rows += [("warning", warning) for warning in said.warnings]
        if last is not None:
            rows += [
                ("sent per second", short(last["sent_per_s"])),
                ("ended per second", short(last["ended_per_s"])),
            ]
            rows += [("ceiling of both", short(said.ceiling_per_s)), ("ready", short(last["ready"]))]
        for name, values in latencies(self.points):
            rows.append((f"{name}: p50, p95, p99 in ms", ", ".join(map(short, values))))
        rows.append(("all plots", "on the page /pgtasks"))
        # Locust sorts by the name.
        return [{"name": f"{number:02} {name}", "value": value} for number, (name, value) in enumerate(rows)]


@events.init.add_listener
def begin(environment: Any, **_: Any) -> None:
    """Say where the database is, and direct the run unless another process does."""
    url = environment.parsed_options.database_url
    if not url:
        raise SystemExit("Which database? Pass --database-url, or run `python -m loadtest`, which starts one.")
    jobs.app.conf.broker_url = url
    try:
        jobs.app.database.ping()
    except OperationalError as error:
        raise SystemExit(str(error)) from None
    for user in environment.user_classes:
        user.host = urlsplit(url).path.strip("/") or "a database"  # Locust's page asks for one, and has little room
    if jobs.five_steps is None and Workflow in environment.user_classes:
        print("This pgtasks has no workflows: the user Workflow is left out.", file=sys.stderr)
        environment.user_classes.remove(Workflow)
    if isinstance(environment.runner, WorkerRunner):
        return
    director = Director(environment)
    environment.events.test_start.add_listener(director.start)
    environment.events.test_stop.add_listener(director.stop)
    if environment.parsed_options.headless:
        # Now, since the clock of --run-time runs while listeners of the start do.
        director.prepare()
    shapes = {name: shape(environment.parsed_options, director.seen) for name, shape in SHAPES.items()}

    def choose_shape(name: str) -> None:
        environment.shape_class = shapes.get(name)
        if environment.shape_class is not None:
            environment.shape_class.runner = environment.runner

    choose_shape(environment.parsed_options.load_shape)
    if environment.web_ui is not None:
        # For the field of --class-picker.
        environment.available_shape_classes = {**(environment.available_shape_classes or {}), **shapes}
        # Needs Flask, which Locust brings.
        from loadtest import web

        web.extend(environment, director, choose_shape)
