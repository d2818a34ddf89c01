"""A worker in a thread of the test process, for as long as a `with` block lasts.

    with start_worker(app):
        assert add.delay(1, 2).get(timeout=10) == 3

The pool may be any. Children of the prefork pool are forked from the test process, so they know all that the test has
defined so far; what they log is logged here as well, where `caplog` sees it.
"""

from __future__ import annotations

import copy
import logging
import os
import pickle
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from pgtasks._state import _set_task_join_will_block
from pgtasks.contrib.testing.tasks import answer
from pgtasks.result import allow_join_result
from pgtasks.utils.dispatch import Signal
from pgtasks.utils.nodenames import anon_nodename
from pgtasks.worker.supervisor import Worker

__all__ = ("TestWorkController", "setup_app_for_worker", "start_worker")

WORKER_LOGLEVEL = os.environ.get("WORKER_LOGLEVEL", "error")

test_worker_starting = Signal(name="test_worker_starting", providing_args=set())
test_worker_started = Signal(name="test_worker_started", providing_args={"worker", "consumer"})
test_worker_stopped = Signal(name="test_worker_stopped", providing_args={"worker"})

#: Options of Celery's worker that have no meaning here: there is no mingling, gossip or heartbeat to do without.
_WITHOUT_MEANING = ("ready_callback", "without_heartbeat", "without_mingle", "without_gossip")
#: Seconds that a worker has to end after it has been told to stop at once.
_LAST_RESORT_S = 30.0


class TestWorkController(Worker):
    """A worker that leaves the signals, the logging and the output of its process alone, and says when it is ready."""

    #: pytest would take it for a test.
    __test__ = False

    def __init__(self, app: Any, **options: Any) -> None:
        for name in _WITHOUT_MEANING:
            options.pop(name, None)
        self._is_ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._forked_logs: ForkedLogs | None = None
        quiet = {"installs_signal_handlers": False, "redirect_stdouts": False, "quiet": True}
        super().__init__(app, **{**quiet, **options})

    def start(self) -> int:
        """Run until told to stop, with what children log brought here."""
        self._forked_logs = ForkedLogs()
        try:
            return super().start()
        finally:
            self._forked_logs.close()

    def run(self) -> None:
        """`start` as the body of a thread; what it raises is raised where the thread is waited for."""
        self._thread = threading.current_thread()
        try:
            self.start()
        except BaseException as error:
            self._error = error
        finally:
            self._is_ready.set()

    def on_consumer_ready(self, consumer: Any) -> None:
        super().on_consumer_ready(consumer)
        self._is_ready.set()
        test_worker_started.send(sender=self.app, worker=self, consumer=consumer)

    def reload(self, *args: Any, **kwargs: Any) -> None:
        """Replace the processes, so that they know the tasks the test has defined since they were forked.

        None that does not know them is given a task once this has returned.
        """
        reload = partial(super().reload, *args, **kwargs)
        if self._thread in (None, threading.current_thread()):
            reload()
            return
        done = threading.Event()

        def reload_and_tell() -> None:
            try:
                reload()
            finally:
                done.set()

        self.call_soon(reload_and_tell)
        while self._thread.is_alive() and not done.wait(0.1):
            """Should the worker end instead, the end of the test says why."""

    def ensure_started(self) -> None:
        """Wait, in another thread, until the worker consumes; raises what kept it from starting."""
        self._is_ready.wait()
        self.raise_its_error()

    def raise_its_error(self) -> None:
        """Raise what ended the worker, if anything but the end of the test did."""
        error, self._error = self._error, None
        if error is not None:
            raise error


class ForkedLogs(logging.Handler):
    """Brings log records from forked children here: a handler there, a thread here, a socket between them."""

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()
        self._here, self._there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._thread = threading.Thread(target=self._hear, name="forked logs", daemon=True)
        self._thread.start()
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if os.getpid() == self._pid:
            return
        try:
            self._there.send(_pickled(record))
        except OSError:
            self.handleError(record)

    def _hear(self) -> None:
        while data := self._here.recv(1 << 20):
            # Written by our own children, through a socket that nobody else holds; they have tried to read it.
            record: logging.LogRecord = pickle.loads(data)
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                # A handler that fails must not end this thread: children would wait for it for ever.
                with suppress(Exception):
                    logger.handle(record)

    def close(self) -> None:
        logging.getLogger().removeHandler(self)
        if os.getpid() == self._pid and self._thread.is_alive():
            self._there.send(b"")
            self._thread.join()
            self._here.close()
            self._there.close()
        super().close()


def _pickled(record: logging.LogRecord) -> bytes:
    """Pickle a record whole if that works; else with its message as text."""
    record = copy.copy(record)
    if record.exc_info:
        record.exc_text = record.exc_text or logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
    with suppress(Exception):
        data = pickle.dumps(record)
        # What cannot be read, as many an exception among the arguments, would end the thread that reads.
        pickle.loads(data)
        return data
    record.msg, record.args = record.getMessage(), None
    plain = {key: value for key, value in vars(record).items() if isinstance(value, str | int | float | None)}
    record.__dict__ = plain
    return pickle.dumps(record)


@contextmanager
def start_worker(
    app: Any,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: str | int = WORKER_LOGLEVEL,
    logfile: str | None = None,
    perform_ping_check: bool = True,
    ping_task_timeout: float = 60.0,
    shutdown_timeout: float = 10.0,
    **kwargs: Any,
) -> Iterator[TestWorkController]:
    """Run a worker in a thread; gives it once it consumes and, unless told not to ask, has answered a ping.

    At the end running tasks have `shutdown_timeout` seconds to end, and then are stopped. Raises RuntimeError when
    the thread does not end even then, as with a long task in the solo pool. Further arguments are those of the worker.
    """
    test_worker_starting.send(sender=app)
    if perform_ping_check and "celery.ping" not in app.tasks:
        # The app was finalized before the module with that task was imported.
        app.task(answer, name="celery.ping", shared=False)
    worker = None
    try:
        with _worker_thread(app, concurrency, pool, loglevel, logfile, shutdown_timeout, **kwargs) as worker:
            if perform_ping_check:
                _ping(app, ping_task_timeout)
            yield worker
    finally:
        test_worker_stopped.send(sender=app, worker=worker)


def _ping(app: Any, timeout_s: float) -> None:
    with allow_join_result():
        answer = app.tasks["celery.ping"].delay().get(timeout=timeout_s)
    assert answer == "pong"


@contextmanager
def _worker_thread(
    app: Any,
    concurrency: int,
    pool: str,
    loglevel: str | int,
    logfile: str | None,
    shutdown_timeout_s: float,
    WorkController: type[TestWorkController] = TestWorkController,
    hostname: str | None = None,
    **kwargs: Any,
) -> Iterator[TestWorkController]:
    setup_app_for_worker(app, loglevel, logfile)
    worker = WorkController(
        app,
        concurrency=concurrency,
        hostname=hostname or anon_nodename(),
        pool=pool,
        loglevel=loglevel,
        logfile=logfile,
        **kwargs,
    )
    thread = threading.Thread(target=worker.run, name="worker", daemon=True)
    thread.start()
    worker.ensure_started()
    # The solo pool runs tasks in this process; a test may wait for results all the same.
    _set_task_join_will_block(False)
    try:
        yield worker
    finally:
        _stop(worker, thread, shutdown_timeout_s)


def _stop(worker: TestWorkController, thread: threading.Thread, timeout_s: float) -> None:
    for how, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGQUIT, _LAST_RESORT_S)):
        if thread.is_alive():
            worker.stop(how)
            thread.join(patience_s)
    if thread.is_alive():
        raise RuntimeError(
            f"The worker {worker.hostname} did not end within {timeout_s:g} s of being stopped. A task may still be"
            " running in it: let tests wait for their tasks, or raise shutdown_timeout."
        )
    worker.raise_its_error()


def setup_app_for_worker(app: Any, loglevel: str | int, logfile: str | None) -> None:
    """Finalize an app, make it current and the default, and set up its logging."""
    app.finalize()
    app.set_current()
    app.set_default()
    app.log.already_setup = False
    app.log.setup(loglevel=loglevel, logfile=logfile)
