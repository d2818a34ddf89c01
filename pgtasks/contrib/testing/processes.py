"""Real worker processes in tests, to be killed: what happens when a machine goes away.

    with worker_process("proj", cwd=here) as worker:
        result = slow.delay()
        worker.await_log("received")
        worker.kill()                      # parent and children, as a power cut does
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ("WorkerProcess", "worker_process")

#: Seconds after which something that should happen is taken not to.
PATIENCE_S = 60.0


class WorkerProcess:
    """One `pgtasks worker`, in a session of its own."""

    def __init__(self, app: str, *options: str, log: Path, cwd: str | None, env: Mapping[str, str] | None) -> None:
        self.log_file = log
        command = [sys.executable, "-m", "pgtasks", "-A", app, "worker", "-l", "INFO", *options]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """What it has logged so far."""
        return self.log_file.read_text(errors="replace")

    def await_log(self, text: str, count: int = 1) -> None:
        """Wait until it has logged a text so many times; raises AssertionError when it ends or takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while self.log().count(text) < count:
            assert self.process.poll() is None, f"The worker ended without {text!r}:\n{self.log()}"
            assert time.monotonic() < deadline, f"The worker has not said {text!r} in {PATIENCE_S:g} s:\n{self.log()}"
            time.sleep(0.02)

    def children(self) -> list[int]:
        """The ids of the processes in which its tasks run (Linux)."""
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def kill(self) -> None:
        """Kill it with all its children: others take over when its lease has run out (`worker_lease`)."""
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def kill_child(self, number: int = 0) -> None:
        """Kill one of its children, as the kernel does when memory is short."""
        os.kill(self.children()[number], signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it and its children, so that its lease runs out while it lives."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.killpg(self.pid, signal.SIGCONT)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """End it by a signal, warm by default; gives its exit status."""
        self.process.send_signal(signum)
        return self.process.wait(PATIENCE_S)


@contextmanager
def worker_process(
    app: str, *options: str, cwd: str | os.PathLike[str] | None = None, env: Mapping[str, str] | None = None
) -> Iterator[WorkerProcess]:
    """A running worker process for the app that `-A` finds by this name; it is ready, and is killed at the end of the block."""
    with TemporaryDirectory() as directory:
        log = Path(directory, "worker.log")
        worker = WorkerProcess(app, *options, log=log, cwd=None if cwd is None else os.fspath(cwd), env=env)
        try:
            worker.await_log(" ready.")
            yield worker
        finally:
            worker.kill()
