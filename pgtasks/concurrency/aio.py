"""The aio pool: one child with many slots, each a coroutine on one event loop.

Tasks that are coroutine functions run on the loop; plain functions run in a thread, so that they do not hold it up. Time
limits cancel a coroutine: the soft one raises inside the task, the hard one at its next await for good.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from pgtasks import _state
from pgtasks.concurrency.base import ChildOptions
from pgtasks.concurrency.line import Ended, Leaving, Line
from pgtasks.concurrency.thread import ThreadLimits
from pgtasks.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from pgtasks.execution import Limits, Site, aexecute, execute
from pgtasks.message import Claim, Outcome
from pgtasks.store.records import CoroutineRecords

is_signal_safe = False


class CoroutineLimits(Limits):
    """Time limits of a coroutine: it is cancelled, and the cancellation becomes the limit's exception."""

    def __init__(self) -> None:
        self._handles: list[asyncio.TimerHandle] = []
        self._task: asyncio.Task[Any] | None = None
        self.error: type[Exception] | None = None
        self._is_late = False

    def arm(self, hard_s: float | None, soft_s: float | None) -> None:
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for limit_s, error in ((soft_s, SoftTimeLimitExceeded), (hard_s, TimeLimitExceeded)):
            if limit_s:
                self._handles.append(loop.call_later(limit_s, self._cancel, error))

    def disarm(self) -> bool:
        for handle in self._handles:
            handle.cancel()
        self._handles.clear()
        is_late, self._is_late = self._is_late, False
        return is_late

    def _cancel(self, error: type[Exception]) -> None:
        self.error = error
        self._is_late = self._is_late or error is SoftTimeLimitExceeded
        if self._task is not None:
            self._task.cancel()

    def translate(self) -> Exception | None:
        error, self.error = self.error, None
        if error is None:
            return None
        if self._task is not None:
            self._task.uncancel()
        return error()


def serve(line: Line, site: Site, options: ChildOptions) -> int:
    """Run claims as coroutines until the line closes."""
    _state.set_default_app(site.app)
    site.app.set_current()
    return asyncio.run(_serve(line, site.opened(Limits(), CoroutineRecords(site.app.database)), options))


async def _serve(line: Line, site: Site, options: ChildOptions) -> int:
    loop = asyncio.get_running_loop()
    free = asyncio.Semaphore(options.slots)
    running: set[asyncio.Task[None]] = set()
    done = 0
    while True:
        await free.acquire()
        taken = await _take(loop, line)
        if taken is None:
            break
        task = loop.create_task(_run(line, site, free, *taken))
        running.add(task)
        task.add_done_callback(running.discard)
        done += 1
        if options.max_tasks and done >= options.max_tasks:
            line.report(Leaving(f"it has run {done} tasks"))
            break
    if running:
        await asyncio.wait(running)
    return 0


async def _take(loop: asyncio.AbstractEventLoop, line: Line) -> tuple[int, Claim] | None:
    """Take a ticket for a free slot; until one is free they stay where the parent can take them back."""
    while True:
        try:
            return line.take(wait=False)
        except BlockingIOError:
            await _readable(loop, line.fileno())


async def _readable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


async def _run(line: Line, site: Site, free: asyncio.Semaphore, number: int, claim: Claim) -> None:
    try:
        await _run_one(line, site, number, claim)
    finally:
        free.release()


async def _run_one(line: Line, site: Site, number: int, claim: Claim) -> None:
    began_at = time.monotonic()
    task = site.app.tasks.get(claim.name)
    if task is not None and task.is_coroutine and claim.fate == "live":
        outcome = await aexecute(site._replace(limits=CoroutineLimits()), claim)
    else:
        outcome = await asyncio.to_thread(_run_in_thread, site, claim)
    line.report(Ended(number, outcome, time.monotonic() - began_at))


def _run_in_thread(site: Site, claim: Claim) -> Outcome:
    site.app.set_current()
    return execute(site._replace(limits=ThreadLimits()), claim)
