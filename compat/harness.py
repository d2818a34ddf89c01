"""The few things a compatibility program uses besides Celery itself.

    def main():
        with worker("--concurrency=2"):
            print(add.delay(2, 3).get(timeout=10))
        show(said())

Everything a program prints is its transcript. What happens in other processes (tasks, hooks, signal handlers)
reaches it through `say`, one line at a time, in a file that `said` reads back. Nothing here knows which
implementation runs: the runner describes it in the environment.

    COMPAT_COMMAND   JSON list, the command line that `worker` or `inspect` is appended to
    COMPAT_PROGRAM   the program's module name, given to -A
    COMPAT_SCRATCH   a private directory for this one run
    COMPAT_READY     only in a worker: the file to create once it is ready
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery.signals import worker_ready

from compat import REMARK

PATIENCE_S = 30.0
POLL_S = 0.02
#: Errors whose type is the contract and whose words are not.
ADVICE = {
    "ContentDisallowed",
    "DecodeError",
    "EncodeError",
    "ImproperlyConfigured",
    "OperationalError",
    "QueueNotFound",
    "TimeoutError",
}

_worker_numbers = itertools.count(1)


# -- what other processes have to say


def say(*words: Any) -> None:
    """Append one line to the notes of this run, from any process of it; one write, so lines never mix."""
    line = " ".join(map(str, words)) + "\n"
    notes = os.open(_scratch() / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(notes, line.encode())
    finally:
        os.close(notes)


def said(at_least: int = 0) -> list[str]:
    """The notes so far, in the order written, once there are enough of them."""

    def enough() -> bool:
        return len(_notes()) >= at_least

    until(enough)
    return _notes()


def show(lines: Iterable[Any]) -> None:
    for line in lines:
        print("  " + str(line))


# -- waiting and looking


def until(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Return as soon as the condition holds; `AssertionError` when it never does."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience_s:.0f} s in vain"
        time.sleep(POLL_S)


def outcome(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The call's value, or its error as `Type: message`; only the type where the message is advice to a person."""
    try:
        return call(*args, **kwargs)
    except Exception as exc:
        name = type(exc).__name__
        return name if name in ADVICE else f"{name}: {exc}"


# -- processes


class Worker:
    """A running worker process of the program."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.process = process
        self.log_path = log_path

    def log(self) -> list[str]:
        return self.log_path.read_text().splitlines()

    def kill(self, signum: int = signal.SIGTERM) -> None:
        self.process.send_signal(signum)

    def wait(self) -> int:
        """The exit status once the worker has gone; it is killed when it does not go."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the worker did not stop within {PATIENCE_S:.0f} s") from None

    def stop(self) -> None:
        """Ask it to go, and make it go; a slow end is told to the runner, for it is not what this program is about."""
        if self.process.poll() is None:
            self.kill(signal.SIGTERM)
        try:
            self.wait()
        except AssertionError as slow:
            print(f"{REMARK}{slow}", file=sys.stderr)


@contextmanager
def worker(*options: str, loglevel: str = "INFO") -> Iterator[Worker]:
    """A worker on this program's app, ready when the block begins and stopped by TERM when it ends.

    One process, so that tasks run in the order sent, unless the options say otherwise.
    """
    number = next(_worker_numbers)
    ready, log_path = _scratch() / f"ready-{number}", _scratch() / f"worker-{number}.log"
    command = _command("worker", f"--loglevel={loglevel}", "--without-mingle", "--without-gossip")
    if not any(option.startswith(("-c", "--concurrency")) for option in options):
        command.append("--concurrency=1")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*command, *options], env=os.environ | {"COMPAT_READY": str(ready)}, stdout=log, stderr=log
        )
    running = Worker(process, log_path)
    try:
        until(lambda: ready.exists() or process.poll() is not None)
        assert process.poll() is None, "the worker did not start; its log says why"
        yield running
    finally:
        running.stop()


def command_line(*arguments: str, app: str | None = None) -> tuple[int, str, str]:
    """Run a command such as `status`; exit status, standard output and standard error."""
    done = subprocess.run(_command(*arguments, app=app), capture_output=True, text=True, timeout=2 * PATIENCE_S)
    return done.returncode, done.stdout, done.stderr


@contextmanager
def background(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A long-running command such as `beat`, stopped by TERM when the block ends."""
    with (_scratch() / "background.log").open("wb") as log:
        process = subprocess.Popen(_command(*arguments), stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


# -- what the runner said


def scratch(name: str) -> str:
    """A path for a file of the program's own."""
    return str(_scratch() / name)


def _scratch() -> Path:
    return Path(os.environ["COMPAT_SCRATCH"])


def _notes() -> list[str]:
    notes = _scratch() / "notes"
    return notes.read_text().splitlines() if notes.exists() else []


def _command(*arguments: str, app: str | None = None) -> list[str]:
    prefix: list[str] = json.loads(os.environ["COMPAT_COMMAND"])
    return [*prefix, "-A", app or os.environ["COMPAT_PROGRAM"], *arguments]


if "COMPAT_READY" in os.environ:

    @worker_ready.connect(weak=False)
    def _tell_the_program(**_: Any) -> None:
        Path(os.environ["COMPAT_READY"]).touch()
