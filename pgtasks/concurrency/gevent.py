"""The gevent pool: one child with many slots, each a greenlet.

    main greenlet      waits for a free slot, then for a ticket; starts a greenlet for the claim
    listening one      waits for words of the parent, which stop a task
    one per task       runs it, reports what came of it

The whole process is patched before anything is imported (`patching`), the worker's parent as well, so what waits by the
standard library or by psycopg lets others run. A task that computes, or waits in C, holds up all tasks of its child, but
neither the worker's heartbeat nor its commands, which are the parent's. Limits and orders reach a task where it waits: the soft
limit is raised as SoftTimeLimitExceeded; the hard one is gevent.Timeout and an order to end is GreenletExit, neither of them
an `Exception`, as in Celery.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any

from pgtasks import _state
from pgtasks.concurrency.base import ChildOptions
from pgtasks.concurrency.line import Ended, Leaving, Line
from pgtasks.concurrency.patching import is_patched
from pgtasks.exceptions import ImproperlyConfigured, SoftTimeLimitExceeded
from pgtasks.execution import Limits, Site, execute
from pgtasks.message import Claim, Outcome
from pgtasks.store.records import SharedRecords
from pgtasks.utils.coroutines import run_coroutines_by
from pgtasks.worker.losses import after_timeout, delivered_again

try:
    from gevent import GreenletExit, Timeout, get_hub, getcurrent, spawn
    from gevent.lock import Semaphore
    from gevent.pool import Group
    from gevent.socket import wait_read
except ImportError as missing:
    raise ImproperlyConfigured("The gevent pool needs gevent: pip install 'pgtasks[gevent]'.") from missing

if not is_patched():
    raise ImproperlyConfigured(
        "The gevent pool needs the standard library patched before anything else is imported. Name it on the command line,"
        " as `pgtasks worker -P gevent`; a program that starts a worker by itself calls"
        " `gevent.monkey.patch_all()` in its first line."
    )

is_signal_safe = False
can_stop = can_resize = True


class GreenletLimits(Limits):
    """Time limits of the task in one greenlet, and its end by an order; all in one thread, so nothing comes too late."""

    def __init__(self) -> None:
        #: The greenlet, while the task may be stopped.
        self._runner: Any = None
        self._timers: list[Any] = []

    def begin(self) -> None:
        self._runner = getcurrent()

    def arm(self, hard_s: float | None, soft_s: float | None) -> None:
        if soft_s:
            self._timers.append(Timeout.start_new(soft_s, SoftTimeLimitExceeded()))
        if hard_s:
            timer = get_hub().loop.timer(hard_s)
            timer.start(self._throw, f"timeout:{hard_s!r}", Timeout(hard_s))
            self._timers.append(timer)

    def disarm(self) -> bool:
        self._runner = None
        is_late = any(isinstance(timer, Timeout) and not timer.pending for timer in self._timers)
        for timer in self._timers:
            timer.close()
        self._timers.clear()
        return is_late

    def stop(self, fate: str) -> None:
        """End the task; one that has not begun will not."""
        if self._runner is None:
            self.fate = fate
        else:
            get_hub().loop.run_callback(self._throw, fate, GreenletExit())

    def _throw(self, fate: str, error: BaseException) -> None:
        """In the hub: the task's own code may be over by now."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self.fate = fate
            runner.throw(error)


def serve(line: Line, site: Site, options: ChildOptions) -> int:
    """Run claims in as many greenlets as there are slots, until the line closes."""
    # A task that waits for another one holds up nobody.
    _state._set_task_join_will_block(False, everywhere=True)
    _state.set_default_app(site.app)
    site.app.set_current()
    site = site.opened(Limits(), SharedRecords(site.app.database))
    run_coroutines_by(_run_in_thread)
    crowd = _Crowd(line, site, options.slots)
    listening = spawn(crowd.listen)
    crowd.work(options)
    listening.kill()
    return 0


class _Crowd:
    """The tasks that run in this child."""

    def __init__(self, line: Line, site: Site, slots: int) -> None:
        self._line = line
        self._site = site
        self._slots = 0
        self._free = Semaphore(0)
        self._resize(slots)
        self._running: dict[int, GreenletLimits] = {}

    def work(self, options: ChildOptions) -> None:
        """Take a claim whenever a slot is free; returns when there will be none and all have ended."""
        free, tasks = self._free, Group()
        begun = 0
        while free.acquire() and (taken := self._take()) is not None:
            number, claim = taken
            self._running[number] = GreenletLimits()
            # An order that came together with the claim: nothing more will wake who listens.
            self._heed(self._line.take_stops(), self._line.take_slots())
            tasks.spawn(self._run, number, claim).link(lambda ended: free.release())
            begun += 1
            if options.max_tasks and begun >= options.max_tasks:
                self._line.report(Leaving(f"it has run {begun} tasks"))
                break
        tasks.join()

    def _take(self) -> tuple[int, Claim] | None:
        """Take a ticket for a free slot; until one is free they stay where the parent can take them back."""
        while True:
            try:
                return self._line.take(wait=False)
            except BlockingIOError:
                wait_read(self._line.fileno())

    def listen(self) -> None:
        """Do what the parent asks for; ends when it has gone."""
        while True:
            wait_read(self._line.sock.fileno())
            try:
                stops = self._line.stops()
            except EOFError:
                return
            self._heed(stops, self._line.take_slots())

    def _heed(self, stops: list[tuple[int, str]], slots: int | None) -> None:
        for number, fate in stops:
            if number in self._running:
                self._running[number].stop(fate)
        if slots is not None:
            self._resize(slots)

    def _resize(self, slots: int) -> None:
        change, self._slots = slots - self._slots, slots
        threadpool = get_hub().threadpool
        threadpool.maxsize = max(threadpool.maxsize, slots)
        for _ in range(change):
            self._free.release()
        if change < 0:
            spawn(self._withdraw, -change)

    def _withdraw(self, slots: int) -> None:
        """Take slots away as they get free."""
        for _ in range(slots):
            self._free.acquire()

    def _run(self, number: int, claim: Claim) -> None:
        self._site.app.set_current()
        began_at = time.monotonic()
        outcome = self._outcome(claim, self._running[number])
        del self._running[number]
        self._line.report(Ended(number, outcome, time.monotonic() - began_at))

    def _outcome(self, claim: Claim, limits: GreenletLimits) -> Outcome:
        if limits.fate is None:
            limits.begin()
            try:
                return execute(self._site._replace(limits=limits), claim)
            except BaseException:
                limits.disarm()
                if limits.fate is None:
                    # It is to run again when its process is lost, which is not its own here.
                    return delivered_again(claim)
        fate, _, limit_s = limits.fate.partition(":")
        if fate == "timeout":
            most = int(self._site.app.conf.task_max_deliveries)
            if (again := after_timeout(self._site.app, claim, limit_s, most)) is not None:
                return again
        return execute(self._site, claim._replace(fate=limits.fate))


def _run_in_thread(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on a loop of its own, in a real thread; cancel it when this greenlet does not wait for it any longer."""
    began: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    is_left = False

    async def run() -> Any:
        task = asyncio.current_task()
        assert task is not None
        began.append((asyncio.get_running_loop(), task))
        return await coroutine

    def work() -> Any:
        try:
            return asyncio.run(run())
        except asyncio.CancelledError:
            if not is_left:
                raise

    try:
        return get_hub().threadpool.apply(copy_context().run, (work,))
    except BaseException:
        is_left = True
        for loop, task in began:
            if not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)
        raise
