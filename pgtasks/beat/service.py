"""The service that runs a scheduler until it is stopped, and the program around it.

Service          asks the scheduler what is due, sleeps, repeats; survives a database that is away for a while; may have
                 a node that answers remote control (`remote`)
Beat             `pgtasks beat`: logging, banner, signals, a service
EmbeddedService  `pgtasks worker -B`: a service in a process of its own, which ends with the worker
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from multiprocessing.context import ForkProcess
from typing import Any

from pgtasks import __version__, signals
from pgtasks.beat.durable import PersistentScheduler
from pgtasks.beat.remote import BeatPidbox, beat_nodename
from pgtasks.beat.scheduler import Scheduler
from pgtasks.concurrency.forking import die_with_parent
from pgtasks.exceptions import ImproperlyConfigured, OperationalError
from pgtasks.store.database import backoff
from pgtasks.utils.imports import load_extension_class_names, qualname, symbol_by_name
from pgtasks.utils.log import get_logger, mlevel
from pgtasks.utils.text import mask_url
from pgtasks.utils.time import humanize_seconds

__all__ = ("Beat", "EmbeddedService", "Service", "embedded", "scheduler_class")

logger = get_logger("celery.beat")

SCHEDULER_NAMESPACE = "celery.beat_schedulers"


def scheduler_class(name: Any) -> Any:
    """Find a scheduler by its class, its path, or the name of an entry point; Celery's own stands for ours."""
    if isinstance(name, str) and name.startswith("celery.beat:"):
        name = f"pgtasks.{name.removeprefix('celery.')}"
    aliases = dict(load_extension_class_names(SCHEDULER_NAMESPACE)) if isinstance(name, str) else {}
    try:
        cls = symbol_by_name(name, aliases=aliases)
    except (ImportError, AttributeError) as exc:
        raise ImproperlyConfigured(f"The scheduler {name!r} (beat_scheduler, or -S) cannot be imported: {exc}") from exc
    if isinstance(cls, type) and not issubclass(cls, Scheduler):
        raise ImproperlyConfigured(
            f"The scheduler {qualname(cls)} is made for Celery, not for pgtasks. Start with `pgtasks --as-celery`, or call"
            " pgtasks.install_as_celery() before anything imports celery."
        )
    return cls


class Service:
    """Runs one scheduler."""

    scheduler_cls: Any = PersistentScheduler

    def __init__(
        self,
        app: Any,
        max_interval: float | None = None,
        schedule_filename: str | None = None,
        scheduler_cls: Any = None,
        remote_control: bool | None = None,
        hostname: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        self.max_interval = max_interval or app.conf.beat_max_loop_interval
        self.scheduler_cls = scheduler_cls or app.conf.beat_scheduler or self.scheduler_cls
        self.schedule_filename = schedule_filename or app.conf.beat_schedule_filename
        self.remote_control = app.conf.beat_enable_remote_control if remote_control is None else remote_control
        self.hostname = hostname
        #: What the remote control goes by: the scheduler's own interval, and when it last came around, by the
        #: monotonic clock.
        self.effective_max_interval: float | None = None
        self._last_tick: float | None = None
        self._stopping = threading.Event()
        self._stopped = threading.Event()

    def start(self, embedded_process: bool = False) -> None:
        """Run until `stop` is called."""
        logger.info("beat: Starting...")
        signals.beat_init.send(sender=self)
        if embedded_process:
            signals.beat_embedded_init.send(sender=self)
        self._last_tick = time.monotonic()  # one that never comes around stands still, too
        node = BeatPidbox(self) if self.remote_control else None
        attempt = 0
        try:
            if node is not None:
                node.start()
            while not self._stopping.is_set():
                try:
                    wait_s, attempt = self._turn(), 0
                except OperationalError as error:
                    if attempt == 0:
                        logger.error("beat: Lost the database, trying again until it is back: %s", error)
                    wait_s, attempt = backoff(attempt), attempt + 1
                self._stopping.wait(wait_s)
        finally:
            try:
                self._end()
            finally:
                if node is not None:
                    node.stop()

    def _turn(self) -> float:
        wait_s: float = self.scheduler.tick()
        self._last_tick, self.effective_max_interval = time.monotonic(), self.scheduler.max_interval
        if wait_s > 0:
            logger.debug("beat: Waking up %s.", humanize_seconds(wait_s, prefix="in "))
            if self.scheduler.should_sync():
                self.scheduler._do_sync()
        return wait_s

    def _end(self) -> None:
        try:
            self.sync()
        finally:
            self._stopped.set()

    def sync(self) -> None:
        if "scheduler" in vars(self):  # to make one only to end it would need the database
            self.scheduler.close()
        self._stopped.set()

    def stop(self, wait: bool = False) -> None:
        """Have the service end, from a signal handler or any thread; with `wait`, wait until it has."""
        logger.info("beat: Shutting down...")
        self._stopping.set()
        if wait:
            self._stopped.wait()

    @cached_property
    def scheduler(self) -> Any:
        return self.get_scheduler()

    def get_scheduler(self, lazy: bool = False, extension_namespace: str = SCHEDULER_NAMESPACE) -> Any:
        """Make the scheduler; with `lazy`, one that only answers questions."""
        return scheduler_class(self.scheduler_cls)(
            app=self.app, schedule_filename=self.schedule_filename, max_interval=self.max_interval, lazy=lazy
        )


class _InThread(threading.Thread):
    """A service that runs beside other code of the process."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(name="Beat", daemon=True)
        self.app = app
        self.service = Service(app, **options)

    def run(self) -> None:
        self.app.set_current()
        self.service.start()

    def stop(self) -> None:
        """Have it end, and wait until the thread has, unless it was never started."""
        self.service.stop()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()


class _InProcess(ForkProcess):
    """A service that runs in a process of its own, which ends with this one."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(name="Beat", daemon=True)
        self.service = Service(app, **options)
        self._parent = os.getpid()

    def run(self) -> None:
        die_with_parent(self._parent)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self.service.stop())
        self.service.app.set_default()
        self.service.start(embedded_process=True)

    def stop(self) -> None:
        self.terminate()
        self.join()


def EmbeddedService(app: Any, max_interval: float | None = None, **kwargs: Any) -> Any:
    """A service to `start()` and `stop()` within a program: a process or, with `thread=True`, a thread."""
    kind = _InThread if kwargs.pop("thread", False) else _InProcess
    kwargs.setdefault("remote_control", False)  # the worker around it answers for itself
    return kind(app, max_interval=max_interval, **kwargs)


_BANNER = """\
pgtasks beat {version}
 .> app:         {app}
 .> database:    {database}
 .> scheduler:   {scheduler}
{info} .> logfile:     {logfile}@%{loglevel}
 .> maxinterval: {interval} ({seconds}s)
{node}"""


class Beat:
    """`pgtasks beat` as a program."""

    Service: Any = Service
    app: Any = None

    def __init__(
        self,
        max_interval: float | None = None,
        app: Any = None,
        loglevel: int | str = "WARNING",
        logfile: str | None = None,
        schedule: str | None = None,
        scheduler: Any = None,
        scheduler_cls: Any = None,
        redirect_stdouts: bool | None = None,
        no_color: bool | None = None,
        quiet: bool = False,
        remote_control: bool | None = None,
        hostname: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app or self.app
        self.loglevel, self.logfile = loglevel, logfile
        self.redirect_stdouts = self.app.either("worker_redirect_stdouts", redirect_stdouts)
        self.colorize = None if no_color is None else not no_color
        self.quiet = quiet
        self.service = self.Service(
            app=self.app,
            max_interval=max_interval,
            scheduler_cls=scheduler or scheduler_cls,
            schedule_filename=schedule,
            remote_control=remote_control,
            hostname=hostname,
        )

    def run(self) -> None:
        """Run until told to stop by INT or TERM."""
        self.app.set_current()
        self.app.set_default()
        self.app.loader.init_worker()
        self.app.finalize()
        if not self.quiet:
            print(self.banner(), file=sys.__stdout__, flush=True)
        self.app.log.setup(
            self.loglevel, self.logfile, redirect_stdouts=self.redirect_stdouts,
            redirect_level=self.app.conf.worker_redirect_stdouts_level, colorize=self.colorize,
        )  # fmt: skip
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, lambda *_: self.service.stop())
        try:
            self.service.start()
        except Exception as exc:
            logger.critical("beat raised exception %s: %r", exc.__class__, exc, exc_info=True)
            raise

    def banner(self) -> str:
        """Describe what is about to start."""
        service = self.service
        scheduler = service.get_scheduler(lazy=True)
        info = scheduler.info
        return _BANNER.format(
            version=__version__,
            app=f"{self.app.main or '__main__'}:{id(self.app):#x}",
            database=mask_url(self.app.database_url),
            scheduler=qualname(scheduler),
            info=f"{info}\n" if info else "",
            logfile=self.logfile or "[stderr]",
            loglevel=logging.getLevelName(mlevel(self.loglevel)),
            interval=humanize_seconds(scheduler.max_interval),
            seconds=scheduler.max_interval,
            node=f"    . remote control -> {beat_nodename(service.hostname)}\n" if service.remote_control else "",
        )


@contextmanager
def embedded(app: Any, logging: dict[str, Any], **options: Any) -> Iterator[int]:
    """Run a service in a process of its own for as long as the block lasts; gives its pid.

    `logging` is for `app.log.setup`, the rest for the service. To be entered before this process has threads and
    connections. It ends with this process, however that ends.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_embedded(app, parent, logging, options)

    running = [pid]

    def end(**kwargs: Any) -> None:
        # Only once: afterwards the number may be another process'.
        while running:
            ending = running.pop()
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(ending, signal.SIGTERM)
                os.waitpid(ending, 0)

    # A worker that starts again, by HUP, becomes another program without leaving any block.
    signals.worker_shutdown.connect(end, weak=False)
    try:
        yield pid
    finally:
        signals.worker_shutdown.disconnect(end)
        end()


def _be_embedded(app: Any, parent: int, logging: dict[str, Any], options: dict[str, Any]) -> None:
    status = 1
    try:
        die_with_parent(parent)
        multiprocessing.current_process().name = "Beat"  # as Celery's logs have it
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and sends TERM
        service = Service(app, remote_control=False, **options)  # the worker answers for itself
        signal.signal(signal.SIGTERM, lambda *_: service.stop())
        app.set_current()
        app.set_default()
        app.log.setup(**logging, redirect_stdouts=False)
        app.loader.init_worker()
        app.finalize()
        service.start(embedded_process=True)
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)
