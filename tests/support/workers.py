"""Real worker processes, and how a test waits for what they do.

    with running(tmp_path, pool="threads") as worker:
        ...
        worker.await_output("ready.")
        assert worker.stop() == 0

A task of `tests.worker.jobs` writes a line to a journal whenever it begins and ends, and waits at gates that the test
opens. Waiting is for a fact with a deadline that only a stuck program reaches, never for an amount of time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

#: Only something that is stuck takes this long.
STUCK_S = float(os.environ.get("PGTASKS_TEST_STUCK_S", 90))
REPOSITORY = Path(__file__).parents[2]


def children_of(pid: int) -> list[int]:
    """Pids of the children of a process that has one thread; none when it is gone."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(child) for child in text.split()]


def eventually(look: Callable[[], T], what: str = "") -> T:
    """Look again and again until there is something to see; fails when that takes too long."""
    deadline = time.monotonic() + STUCK_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"still not so after {STUCK_S} s: {what or look}"
        time.sleep(0.01)
    return found


class Stage:
    """The place where jobs and tests meet: a journal that jobs write, gates that tests open."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.journal = directory / "journal"
        self.journal.touch()

    def environ(self) -> dict[str, str]:
        return {"JOBS_STAGE": str(self.directory)}

    def lines(self, event: str | None = None, **facts: Any) -> list[dict[str, Any]]:
        """The lines of the journal with this event and these facts."""
        lines = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [line for line in lines if (event is None or line["event"] == event) and facts.items() <= line.items()]

    def await_line(self, event: str, count: int = 1, **facts: Any) -> dict[str, Any]:
        """Wait for the nth line with this event; gives it."""
        return eventually(
            lambda: found[count - 1] if len(found := self.lines(event, **facts)) >= count else None,
            f"{count} x {event} {facts} in {self.journal.read_text()[-2000:]}",
        )

    def open(self, gate: str) -> None:
        (self.directory / f"gate-{gate}").touch()


class WorkerProcess:
    """One `pgtasks worker`, started from its command line."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        pool: str = "prefork",
        concurrency: int = 2,
        module: str = "tests.worker.jobs",
        conf: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        loglevel: str = "INFO",
        globally: Sequence[str] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / f"worker-{len(list(directory.glob('worker-*.log')))}.log"
        command = [
            sys.executable, "-m", "pgtasks", *globally, "-A", module, "worker", "-P", pool, "-c", str(concurrency),
            "-l", loglevel, *options,
        ]  # fmt: skip
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env={
                    **os.environ,
                    **(environ or {}),
                    "JOBS_CONF": json.dumps(dict(conf or {})),
                    "PYTHONUNBUFFERED": "1",
                },
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def await_output(self, text: str, count: int = 1) -> None:
        def look() -> bool:
            if self.output().count(text) >= count:
                return True
            assert self.process.poll() is None, f"the worker ended:\n{self.output()[-4000:]}"
            return False

        eventually(look, f"{text!r} in the worker's output:\n{self.output()[-4000:]}")

    def await_ready(self) -> None:
        self.await_output(" ready.")

    def children(self) -> list[int]:
        """Pids of the worker's children."""
        return children_of(self.pid)

    def send(self, signum: int) -> None:
        self.process.send_signal(signum)

    def join(self) -> int:
        """Wait for the end; gives the exit status."""
        try:
            return self.process.wait(STUCK_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker does not end:\n{self.output()[-4000:]}") from None

    def stop(self, signum: int = signal.SIGTERM) -> int:
        self.send(signum)
        return self.join()

    def kill(self) -> None:
        """Kill the worker and all its children, as a power cut does."""
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(directory: Path, *options: str, **kwargs: Any) -> Iterator[WorkerProcess]:
    """A worker that is ready, and gone afterwards."""
    worker = WorkerProcess(directory, *options, **kwargs)
    try:
        worker.await_ready()
        yield worker
    finally:
        worker.kill()
