"""What goes along with a worker's loop: its events, its autoscaler, systemd, the project's steps and their timer.

include_steps  before the worker has children
start          once it is registered and has them
looked         once a second, with what the tick has shown
mind           at every turn; `next_at` says when one is needed
stop           while the worker can still speak with the database
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from typing import Any

from pgtasks.app.flows import declared_flows
from pgtasks.bootsteps import in_order
from pgtasks.exceptions import WorkerShutdown, WorkerTerminate
from pgtasks.store import flows
from pgtasks.utils.log import get_logger
from pgtasks.utils.text import mask_url
from pgtasks.worker import state
from pgtasks.worker.autoscale import Autoscaler
from pgtasks.worker.reporter import HEARTBEAT_S, Reporter

__all__ = ("Attendants", "Systemd")

logger = get_logger("celery.worker")
connection_logger = get_logger("celery.worker.consumer.connection")


class Attendants:
    """The services attached to one worker."""

    def __init__(self, worker: Any, options: dict[str, Any]) -> None:
        self._worker = worker
        self._options = options
        conf = worker.app.conf
        is_silent = options.get("without_heartbeat")
        self.reporter = Reporter(
            worker,
            sends_task_events=bool(conf.worker_send_task_events),
            heartbeat_s=None if is_silent else float(options.get("heartbeat_interval") or HEARTBEAT_S),
        )
        scale = options.get("autoscale")
        self.autoscaler = Autoscaler(worker, *scale) if scale else None
        self.systemd = Systemd()
        self._steps: list[Any] = []

    @cached_property
    def timer(self) -> Any:
        # It comes with kombu's event loop, which a worker without steps need not load.
        return import_module("pgtasks.worker.timer").Timer()

    def start(self) -> None:
        worker, consumer = self._worker, self._worker.consumer
        connection_logger.info("Connected to %s", mask_url(worker.app.database_url))
        self.reporter.start()
        for name, flow in declared_flows(worker.app).items():
            consumer.database.run(flows.declare(name, flow.limits()))
        consumer.steps = []
        self._include("consumer", consumer)
        for step in (*worker.steps, *consumer.steps):
            logger.debug("Starting %s", step.alias)
            step.start(worker if step in worker.steps else consumer)
        self.systemd.tell("READY=1", f"STATUS={worker.hostname} ready.")

    def include_steps(self) -> None:
        """Make the worker's own steps before it forks: what they connect to signals, its children inherit."""
        self._worker.steps = []
        self._include("worker", self._worker)

    def _include(self, blueprint: str, parent: Any) -> None:
        for cls in in_order(self._worker.app.steps[blueprint]):
            step = cls(parent, **{**self._own_options(), **self._options})
            step.include(parent)
            # Receivers of signals are held weakly, and may be methods of a step that is neither started nor stopped.
            self._steps.append(step)

    def _own_options(self) -> dict[str, Any]:
        return {name: getattr(self._worker, name) for name in ("concurrency", "loglevel", "pool", "purge")}

    def looked(self, tick: Any) -> None:
        self.reporter.listened(tick.has_listeners)
        if tick.has_held:
            self._worker.consumer.let_in()
        if self.autoscaler is not None:
            self.autoscaler.looked(tick.has_ready)

    def mind(self, now: float) -> None:
        self.reporter.mind(now)
        self.systemd.mind(now)
        if "timer" in vars(self):
            self.timer.mind(now)
        try:
            state.maybe_shutdown()
        except (WorkerShutdown, WorkerTerminate) as wish:
            self._worker.end(wish)

    def next_at(self) -> Iterable[float]:
        times = [self.reporter.next_at(), self.systemd.next_at, self.timer.next_at if "timer" in vars(self) else None]
        return [at for at in times if at is not None]

    def stop(self, is_terminating: bool) -> None:
        self.systemd.tell("STOPPING=1")
        parents = [parent for parent in (self._worker.consumer, self._worker) if hasattr(parent, "steps")]
        started = [(step, parent) for parent in parents for step in reversed(parent.steps)]
        for step, parent in started:
            step.close(parent)
        for step, parent in started:
            self._end(step, step.terminate if is_terminating else step.stop, parent)
        for step, parent in started:
            # Steps of Celery's consumer may have one more: for what is to be done when all have stopped.
            if parent is not self._worker and (shutdown := getattr(step, "shutdown", None)):
                self._end(step, shutdown, parent)
        self.reporter.stop()

    def _end(self, step: Any, end: Callable[[Any], Any], parent: Any) -> None:
        try:
            end(parent)
        except Exception:
            # The others, and the worker's own signing off, must not fail with it.
            logger.exception("Error while stopping the step %s", step.alias)

    def stats(self) -> dict[str, Any]:
        """What `inspect stats` shows of them."""
        told: dict[str, Any] = {} if self.autoscaler is None else {"autoscaler": self.autoscaler.info()}
        for step in getattr(self._worker, "steps", ()):
            told.update(step.info(self._worker) or {})
        return told


class Systemd:
    """Tells systemd that the service is ready, and that it lives (sd_notify(3)); elsewhere, nothing.

    Since it is told by the loop, a loop that hangs is restarted: `WatchdogSec=` of a unit with `Type=notify`.
    """

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET")
        is_meant = os.environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
        period_s = int(os.environ.get("WATCHDOG_USEC") or 0) / 1e6 if is_meant else 0.0
        self._every_s = period_s / 2 if self._address and period_s else None
        self.next_at = None if self._every_s is None else time.monotonic()

    def mind(self, now: float) -> None:
        if self._every_s is not None and self.next_at is not None and now >= self.next_at:
            self.next_at = now + self._every_s
            self.tell("WATCHDOG=1")

    def tell(self, *lines: str) -> None:
        if not self._address:
            return
        # An abstract socket's name begins with a NUL, which is written as @.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto("\n".join(lines).encode(), address)
