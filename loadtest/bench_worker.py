"""The worker that `loadtest.bench` measures: an ordinary `pgtasks worker`, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from loadtest.bench_tasks import LEDGER, open_ledger
from loadtest.measure import children_of

_PATIENCE_S = 120.0


class WorkerFailed(Exception):
    """The worker ended, or did not do what it was waited for; with the end of its log."""


class BenchWorker:
    """Starts a worker when it is made and returns when that has nothing to do."""

    def __init__(
        self, conn: psycopg.Connection[Any], directory: Path, concurrency: int, calls: int, options: str = ""
    ) -> None:
        """`calls` is how many calls of `noop` are counted; `conn` leads to the worker's database."""
        self._conn = conn
        self._concurrency = concurrency
        self._log = directory / "worker.log"
        ledger = directory / "ledger"
        ledger.write_bytes(bytes(calls))
        self._ledger = open_ledger(ledger)
        command = f"pgtasks -A loadtest.bench_tasks worker -n bench@here -c {concurrency} -P prefork -l WARNING {options}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command.split()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, LEDGER: str(ledger)},
                start_new_session=True,
            )
        self.await_idle()

    @property
    def pid(self) -> int:
        return self._process.pid

    def children(self) -> list[int]:
        return children_of(self.pid)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the worker's parent process for this block, so that it finds at once what is enqueued meanwhile."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def await_idle(self) -> None:
        """Wait until the worker has declared itself idle."""
        self._await(lambda: bool(self._conn.execute("SELECT 1 FROM pgtasks.idle").fetchone()), "fell idle")

    def await_runs(self, count: int) -> None:
        """Wait until so many calls of `noop` have run at least once."""
        self._await(lambda: self._ledger[:].count(0) <= len(self._ledger) - count, f"ran {count} tasks")

    def runs_other_than_one(self) -> int:
        """How many calls have not run exactly once."""
        return len(self._ledger) - self._ledger[:].count(1)

    def stop(self) -> None:
        """Stop the worker; nothing of it is left afterwards."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        self._ledger.close()

    def _await(self, is_so: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + _PATIENCE_S
        while not is_so():
            if self._process.poll() is not None or time.monotonic() > until:
                said = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
                raise WorkerFailed(f"The worker never {what} (exit status {self._process.returncode}):\n{said}")
            time.sleep(0.01)
