"""The threads pool: one child with many slots, each a thread.

Python code cannot be stopped from outside a thread, but an exception can be put into it, which it sees at its next
bytecode: that is how both time limits end a task here. Code that waits in C, such as a socket without a timeout, sees
it late. A task that kills the process takes the others with it; those are run again.
"""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

from pgtasks import _state
from pgtasks.concurrency.base import ChildOptions
from pgtasks.concurrency.line import Ended, Leaving, Line
from pgtasks.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from pgtasks.execution import Limits, Site, execute
from pgtasks.store.records import SharedRecords

is_signal_safe = False


class ThreadLimits(Limits):
    """Time limits of the task in one thread, kept by a timer thread while they run."""

    def __init__(self) -> None:
        self._ident = threading.get_ident()
        self._timers: list[threading.Timer] = []
        self._is_late = False
        self._lock = threading.Lock()

    def arm(self, hard_s: float | None, soft_s: float | None) -> None:
        for limit_s, error in ((soft_s, SoftTimeLimitExceeded), (hard_s, TimeLimitExceeded)):
            if limit_s:
                timer = threading.Timer(limit_s, self._throw, (error,))
                timer.daemon = True
                self._timers.append(timer)
                timer.start()

    def disarm(self) -> bool:
        with self._lock:
            for timer in self._timers:
                timer.cancel()
            self._timers.clear()
            is_late, self._is_late = self._is_late, False
        return is_late

    def _throw(self, error: type[Exception]) -> None:
        with self._lock:
            # Nothing may be thrown into a thread that has gone on to another task.
            if self._timers:
                self._is_late = self._is_late or error is SoftTimeLimitExceeded
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._ident), ctypes.py_object(error))


def serve(line: Line, site: Site, options: ChildOptions) -> int:
    """Run claims in as many threads as there are slots, until the line closes."""
    _state.set_default_app(site.app)
    leaving = threading.Event()
    count = _Count(options.max_tasks)
    recorder = SharedRecords(site.app.database)
    threads = [
        threading.Thread(target=_slot, args=(line, site, recorder, count, leaving), name=f"slot-{n}", daemon=True)
        for n in range(options.slots)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


class _Count:
    """Counts tasks for all slots of the child."""

    def __init__(self, limit: int | None) -> None:
        self._limit, self._done, self._lock = limit, 0, threading.Lock()

    def is_reached(self) -> bool:
        with self._lock:
            self._done += 1
            return self._limit is not None and self._done >= self._limit


def _slot(line: Line, site: Site, recorder: SharedRecords, count: _Count, leaving: threading.Event) -> None:
    site.app.set_current()
    site = site.opened(ThreadLimits(), recorder)
    while not leaving.is_set() and (taken := line.take()) is not None:
        number, claim = taken
        began_at = time.monotonic()
        outcome: Any = execute(site, claim)
        line.report(Ended(number, outcome, time.monotonic() - began_at))
        if count.is_reached() and not leaving.is_set():
            leaving.set()
            line.report(Leaving("it has run its number of tasks"))
