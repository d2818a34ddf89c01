"""The solo pool: tasks run in the worker's own process, one at a time. For debugging.

There is no child to kill, so hard time limits are not kept, and a task that ends the process ends the worker. While a
task runs, a thread renews the worker's lease, so that stopping in a debugger does not give the task to another worker.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from pgtasks import signals
from pgtasks.concurrency.base import ChildOptions, Job
from pgtasks.concurrency.line import Ended, Report
from pgtasks.concurrency.prefork import AlarmLimits
from pgtasks.execution import Limits, execute
from pgtasks.message import Claim


class LeaseKeeper(threading.Thread):
    """Calls `renew` every few seconds until it is stopped; a renewal that fails is left to the next one."""

    def __init__(self, renew: Callable[[], Any], every_s: float) -> None:
        super().__init__(name="lease", daemon=True)
        self._renew, self._every_s = renew, every_s
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(self._every_s):
            with suppress(Exception):
                self._renew()

    def stop(self) -> None:
        """Have it end, and wait until it has, but no longer for a renewal than a database takes that answers."""
        self._stopped.set()
        self.join(5)


class SoloChild:
    """Has the interface of a child with one slot, and runs what it is sent before `send` returns."""

    is_leaving = False
    wants_to_write = False

    def __init__(self, site: Any, options: ChildOptions, take_report: Callable[[Ended], None]) -> None:
        self.options = options
        self.jobs: dict[int, Job] = {}
        self.last_ended_at = time.monotonic()
        self.pid = 0
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._site = site.opened(AlarmLimits(lambda limit_s: None) if in_main_thread else Limits())
        self._take_report = take_report
        signals.worker_process_init.send(sender=site.hostname)
        site.app.loader.init_worker_process()

    def send(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            began_at = time.monotonic()
            outcome = execute(self._site, claim)
            self.last_ended_at = time.monotonic()
            self._take_report(Ended(0, outcome, self.last_ended_at - began_at))

    def begun(self) -> list[Job]:
        return []

    def take_back(self) -> list[Claim]:
        return []

    def fileno(self) -> int:
        return -1

    def descriptors(self) -> tuple[int, ...]:
        return ()

    def dismiss(self) -> None:
        """Nothing runs when this is called."""

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """There is nobody to kill."""

    def has_ended(self) -> bool:
        return True

    def last_words(self) -> list[Report]:
        return []

    def bury(self) -> int:
        return 0
