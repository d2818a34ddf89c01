"""The interface of a running worker for remote control and monitoring: what can be read and changed."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from pgtasks import signals
from pgtasks.app.trace import LOG_RECEIVED
from pgtasks.exceptions import WorkerShutdown, WorkerTerminate
from pgtasks.message import Claim, Outcome, id_of
from pgtasks.store import fleet
from pgtasks.utils.imports import reload_from_cwd
from pgtasks.utils.log import get_logger
from pgtasks.worker import state
from pgtasks.worker.assembly import pool_class
from pgtasks.worker.attendants import Attendants
from pgtasks.worker.autoscale import Autoscaler
from pgtasks.worker.consumer import Consumer
from pgtasks.worker.hooks import RequestHooks
from pgtasks.worker.pacing import PacedCrew
from pgtasks.worker.request import LogData, Request

__all__ = ("Controlled",)

logger = get_logger("celery.worker.strategy")


class Controlled:
    """The part of a worker that answers questions and takes orders; to be called in the worker's own thread."""

    app: Any
    consumer: Consumer
    crew: PacedCrew
    attendants: Attendants
    pool: str
    concurrency: int
    exitcode: int
    _began_at: float

    @property
    def pool_cls(self) -> type:
        """The kind of pool, as a class that tells its module."""
        return pool_class(self.pool)

    @property
    def queues(self) -> list[str]:
        """The names of the queues it consumes."""
        return list(self.app.amqp.queues.consume_from)

    @property
    def timer(self) -> Any:
        """By which steps of the project have something done later, in the loop."""
        return self.attendants.timer

    # -- its tasks

    @cached_property
    def hooks(self) -> RequestHooks:
        """What tells the project's own classes of requests what came of their tasks."""
        return RequestHooks(self)

    def active_requests(self) -> list[Request]:
        """What runs."""
        return [request for request in self._requests() if request.time_start is not None]

    def reserved_requests(self) -> list[Request]:
        """What was claimed and has not begun."""
        return [request for request in self._requests() if request.time_start is None]

    def _requests(self) -> Iterator[Request]:
        for claim, pid, began_at in self.crew.whereabouts():
            yield Request(self.crew.site, claim, worker_pid=pid if began_at else None, began_at=began_at)

    def scheduled_requests(self, ids: Collection[str] | None = None) -> list[Request]:
        """What is not due yet in the queues that this worker speaks for, or what of some tasks is."""
        keys = None if ids is None else [id_of(task_id) for task_id in ids]
        claims = self.consumer.database.run(fleet.agenda(self.consumer.worker, self.queues, keys))
        return [Request(self.crew.site, claim) for claim in claims]

    def is_watched(self) -> bool:
        """Does any program want to be told of each task that is received?"""
        return bool(signals.task_received.receivers or self.attendants.reporter.tells_of_tasks or self.hooks.classes)

    def announce(self, claims: Sequence[Claim]) -> None:
        """Count, log and signal that tasks were received; of those that this worker knows, as Celery's."""
        claims = [claim for claim in claims if claim.name in self.app.tasks]
        state.note_received(claim.name for claim in claims)
        is_logged, receivers = logger.isEnabledFor(logging.INFO), signals.task_received.receivers
        if not (is_logged or self.is_watched()):
            return
        reporter = self.attendants.reporter
        requests = self.hooks.requests(claims)
        if reporter.tells_of_tasks:
            reporter.received(requests)
        for request in requests:
            if is_logged:
                data = LogData(request)
                logger.info(LOG_RECEIVED, data, extra={"data": data})
            if receivers:
                signals.task_received.send(sender=self.consumer, request=request)

    def note_settled(self, outcomes: Sequence[Outcome]) -> None:
        """Record ended tasks and send their events; to be called once their results can be read."""
        state.note_settled(outcomes)
        reporter = self.attendants.reporter
        if self.hooks.classes:
            self.hooks.settled(outcomes, reporter.runtimes)
        if reporter.tells_of_tasks:
            reporter.settled(outcomes)
        elif self.hooks.classes:
            for outcome in outcomes:
                reporter.runtimes.pop(outcome.id, None)

    # -- itself

    @property
    def autoscaler(self) -> Autoscaler | None:
        return self.attendants.autoscaler

    def stats(self) -> dict[str, Any]:
        """What the worker has done, how it is made up, and what it uses; the shape is that of Celery's workers."""
        return {
            "total": dict(state.total_count),
            "pid": os.getpid(),
            "clock": str(self.app.clock),
            "uptime": round(time.monotonic() - self._began_at),
            "pool": self._pool_stats(),
            "broker": _database_stats(self.app.database_url),
            "prefetch_count": self.crew.room() + self.crew.busy(),
            "rusage": _resources_used(),
            **self.attendants.stats(),
        }

    def _pool_stats(self) -> dict[str, Any]:
        conf, options = self.app.conf, self.crew.options
        return {
            "implementation": f"pgtasks.concurrency:{self.pool}",
            "max-concurrency": self.crew.slots,
            "processes": [child.pid or os.getpid() for child in self.crew.children],
            "max-tasks-per-child": options.child.max_tasks or "N/A",
            "put-guarded-by-semaphore": False,
            "timeouts": (conf.task_soft_time_limit or 0, conf.task_time_limit or 0),
            "writes": "N/A",
        }

    # -- orders

    def resize(self, by: int) -> None:
        """Run more, or fewer, tasks at a time. Raises NotImplementedError where these are threads or coroutines."""
        options = self.crew.options
        if options.child.can_resize:
            self.crew.resize_slots(options.child.slots + by)
        elif options.serve is None or options.child.slots != 1:
            raise NotImplementedError(f"The {self.pool} pool has a fixed size: restart the worker with another -c.")
        else:
            self.crew.resize(options.children + by)
        self.concurrency = self.crew.slots

    def reload(self, modules: Sequence[str] | None = None, reload: bool = False, reloader: Any = None) -> None:
        """Import task modules that are new, or with `reload` all of them again, and replace the processes."""
        for name in self.app.loader.task_modules if modules is None else modules:
            if name not in sys.modules:
                self.app.loader.import_from_cwd(name)
            elif reload:
                reload_from_cwd(sys.modules[name], reloader)
        self.crew.renew()

    def end(self, how: WorkerShutdown | WorkerTerminate) -> None:
        """Shut down as a command asks for it by raising."""
        self.stop(signal.SIGTERM if isinstance(how, WorkerShutdown) else signal.SIGQUIT)
        if isinstance(how.code, int):
            # After the signal has been heeded, which says what the status is for itself.
            self.call_soon(partial(setattr, self, "exitcode", how.code))

    def stop(self, how: int = signal.SIGTERM) -> None:
        raise NotImplementedError

    def call_soon(self, call: Callable[[], Any]) -> None:
        raise NotImplementedError


def _database_stats(url: str) -> dict[str, Any]:
    info = conninfo_to_dict(url)
    return {
        "hostname": info.get("host"),
        "userid": info.get("user"),
        "virtual_host": info.get("dbname"),
        "port": info.get("port"),
        "insist": False,
        "ssl": info.get("sslmode", "prefer") not in ("disable", "allow", "prefer"),
        "transport": "postgresql",
        "connect_timeout": info.get("connect_timeout"),
        "transport_options": {},
        "login_method": None,
        "uri_prefix": None,
        "heartbeat": None,
        "failover_strategy": "round-robin",
        "alternates": [],
    }


def _resources_used() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {name.removeprefix("ru_"): getattr(used, name) for name in dir(used) if name.startswith("ru_")}
