"""The demo's worker processes: the ordinary `pgtasks worker`, each in a session of its own.

In a session of its own a worker does not hear the Ctrl-C of the demo's terminal, and it can be seen, or
killed, with all it has forked. When the demo is killed outright, the kernel kills the workers (Linux).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from pgtasks.concurrency.forking import die_with_parent

_WARM_STOP_S = 10.0
_GONE_WITHIN_S = 10.0


class WorkerProcess:
    """One `pgtasks worker`, started when it is made; its log is `<logs>/<name>.log`."""

    def __init__(self, name: str, queue: str, processes: int, lease_s: float, url: str, logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self.command = (
            f"pgtasks -A pgtasks.demo.tasks worker -n {name} -Q {queue} -c {processes} -- worker.lease={lease_s:g}"
        )
        demo = os.getpid()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self.command.split()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PGTASKS_DATABASE_URL": url, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(demo),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> bool:
        """Kill the worker, not its children, and say whether they were gone soon after."""
        self._process.kill()
        self._process.wait()
        return self._has_gone_within(_GONE_WITHIN_S)

    def stop(self) -> None:
        """Ask it to stop, then make it; nothing of it is left afterwards."""
        if not self.has_ended():
            self._process.terminate()
            self.thaw()
            try:
                self._process.wait(_WARM_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if not self._has_gone_within(1.0):
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _has_gone_within(self, seconds: float) -> bool:
        """Wait until no process of the worker's group runs."""
        until = time.monotonic() + seconds
        while _runs(self.pid):
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True


def _runs(group: int) -> bool:
    """Does any process of the group run? Zombies do not: in a container nobody may ever collect them."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # the latter on macOS, for zombies
        return False
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    return any(_is_running_in(group, stat) for stat in stats) if stats else True


def _is_running_in(group: int, stat: Path) -> bool:
    try:
        state, _parent, of_group = stat.read_text().rpartition(")")[2].split()[:3]
    except (OSError, ValueError):  # it has just gone
        return False
    return int(of_group) == group and state != "Z"
