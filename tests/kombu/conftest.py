"""Programs of Celery itself, and workers of both kinds, on one database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.kombu.common import declare
from tests.support.workers import REPOSITORY, STUCK_S, WorkerProcess, eventually


@pytest.fixture(autouse=True)
def _is_installed_with_its_entry_points() -> None:
    if not any(each.name == "pgtasks" for each in entry_points(group="celery.result_backends")):
        pytest.skip(
            "pgtasks was installed before it had entry points: install it anew, as pip install -e . does"
        )


@pytest.fixture
def theirs(database_url: str) -> Iterator[Celery]:
    """An app of Celery itself."""
    url = f"pgtasks+{database_url}"
    with Celery("theirs", broker=url, backend=url, set_as_current=False) as app:
        declare(app)
        yield app


class CeleryWorker(WorkerProcess):
    """One `celery worker`, started from its command line."""

    def __init__(self, directory: Path, *options: str, name: str = "theirs@h") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / f"celery-{len(list(directory.glob('celery-*.log')))}.log"
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "tests.kombu.theirs",
            "worker",
            "-l",
            "INFO",
            "-n",
            name,
        ]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, "-c", "2", *options],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=REPOSITORY,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "C_FORCE_ROOT": "1"},
                start_new_session=True,
            )  # fmt: skip


@pytest.fixture
def start(database_url: str, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts workers: `start("ours")`, `start("theirs", "-P", "solo")`; gone after the test."""
    workers: list[WorkerProcess] = []

    def start(kind: str, *options: str, name: str | None = None) -> WorkerProcess:
        if kind == "ours":
            worker = WorkerProcess(tmp_path, "-n", name or "ours@h", *options, module="tests.kombu.ours")
        else:
            worker = CeleryWorker(tmp_path, *options, name=name or "theirs@h")
        workers.append(worker)
        worker.await_ready()
        return worker

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.send(signal.SIGTERM)
    for worker in workers:
        try:
            worker.process.wait(30)
        except subprocess.TimeoutExpired:
            worker.kill()


@pytest.fixture
def run_celery(database_url: str) -> Callable[..., str]:
    """Runs a command of Celery's command line, and gives what it says."""

    def run(*arguments: str, fails: bool = False) -> str:
        said = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "tests.kombu.theirs", *arguments],
            capture_output=True, text=True, cwd=REPOSITORY, timeout=STUCK_S * 2,
        )  # fmt: skip
        assert (said.returncode != 0) == fails, said.stdout + said.stderr
        return said.stdout + said.stderr

    return run


def rows(conn: Any, table: str) -> int:
    """How many rows a table of the schema has."""
    (number,) = conn.execute(f"SELECT count(*) FROM pgtasks.{table}").fetchone()
    return int(number)


__all__: Sequence[str] = ("CeleryWorker", "eventually", "rows")
