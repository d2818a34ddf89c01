"""Where log records go: `app.log`.

A worker or beat calls `setup` once per process. Unless a receiver of the `setup_logging` signal took
charge, the root logger and "celery.task" each get one handler, to stderr or a file, in the formats of the
`worker_log_format` and `worker_task_log_format` settings, or as JSON; stdout and stderr are then turned into log
records. `worker_hijack_root_logger` decides whether existing handlers are removed. The
rules are Celery's (user guide, "Logging").
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from logging.handlers import WatchedFileHandler
from typing import IO, Any

from pgtasks import signals
from pgtasks._state import get_current_task
from pgtasks.app.jsonlog import JSON, JSONFormatter
from pgtasks.exceptions import CDeprecationWarning, CPendingDeprecationWarning
from pgtasks.utils.log import ColorFormatter, LoggingProxy, get_logger, mlevel
from pgtasks.utils.nodenames import node_format
from pgtasks.utils.term import colored

__all__ = ("Logging", "TaskFormatter")

Level = int | str | None
LogFile = str | IO[str] | None


class TaskFormatter(ColorFormatter):
    """Formats records with the name and id of the task that logs: `%(task_name)s` and `%(task_id)s`."""

    def format(self, record: logging.LogRecord) -> str:
        task = get_current_task()
        if task and task.request:
            record.__dict__.update(task_id=task.request.id, task_name=task.name)
        else:
            record.__dict__.setdefault("task_name", "???")
            record.__dict__.setdefault("task_id", "???")
        return super().format(record)


class Logging:
    """Sets up the logging of one app's processes."""

    #: Whether this process has been set up, by whichever app: a second set-up would double every line.
    _setup = False
    #: Sets up a pool process anew, where each has a log file of its own.
    _setup_anew: Callable[[], Any] | None = None

    def __init__(self, app: Any) -> None:
        self.app = app
        self.loglevel: int = logging.WARNING
        self.format: str = app.conf.worker_log_format
        self.datefmt: str | None = app.conf.worker_log_datefmt
        self.task_format: str = app.conf.worker_task_log_format
        self.task_datefmt: str | None = app.conf.worker_task_log_datefmt
        self.colorize: bool | None = app.conf.worker_log_color
        if self.format == JSON:
            self.task_format = JSON

    @property
    def already_setup(self) -> bool:
        return Logging._setup

    @already_setup.setter
    def already_setup(self, was_setup: bool) -> None:
        Logging._setup = was_setup

    # -- the whole process

    def setup(
        self,
        loglevel: Level = None,
        logfile: LogFile = None,
        redirect_stdouts: bool = False,
        redirect_level: Level = "WARNING",
        colorize: bool | None = None,
        hostname: str | None = None,
    ) -> Any:
        """Set up logging, output redirection and warnings; returns what `setup_logging_subsystem` returns."""
        loglevel = mlevel(loglevel)
        if isinstance(logfile, str) and ("%i" in logfile or "%I" in logfile):
            self._setup_anew = partial(
                self.setup, loglevel, logfile, redirect_stdouts, redirect_level, colorize, hostname
            )
        handled = self.setup_logging_subsystem(loglevel, logfile, colorize=colorize, hostname=hostname)
        if not handled and redirect_stdouts:
            self.redirect_stdouts(redirect_level)
        # Read by user code that follows the worker's settings in processes of its own.
        os.environ.update(
            CELERY_LOG_LEVEL=str(loglevel) if loglevel else "",
            CELERY_LOG_FILE=str(logfile) if logfile else "",
        )
        for category in (CDeprecationWarning, CPendingDeprecationWarning):
            warnings.filterwarnings("always", category=category)
        logging.captureWarnings(True)
        return handled

    def setup_pool_process(self) -> None:
        """In a new pool process: log to a file of its own, if the name of the file has the number of the process in it."""
        if self._setup_anew is not None:
            self.already_setup = False
            self._setup_anew()

    def setup_logging_subsystem(
        self,
        loglevel: Level = None,
        logfile: LogFile = None,
        format: str | None = None,
        colorize: bool | None = None,
        hostname: str | None = None,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Configure the root and the task logger, once per process.

        Returns the responses of the `setup_logging` receivers: when there are any, they are in charge and
        nothing else is done. Returns None when the process is set up already. An error of a receiver is
        raised.
        """
        if self.already_setup:
            return None
        if isinstance(logfile, str) and hostname:
            logfile = node_format(logfile, hostname)
        loglevel = mlevel(loglevel or self.loglevel)
        format = format or self.format
        colors = self.supports_color(colorize, logfile)
        chosen = {"loglevel": loglevel, "logfile": logfile, "format": format, "colorize": colors}

        self.already_setup = True
        responses = signals.setup_logging.send(sender=None, **chosen)
        self._raise_first_error(responses)
        if not responses:
            root = logging.getLogger()
            if self.app.conf.worker_hijack_root_logger:
                for name in (None, "celery", "celery.task", "celery.redirected"):
                    logging.getLogger(name).handlers = []
            datefmt = self.datefmt if datefmt is None else datefmt
            self.setup_handlers(root, logfile, format, colors, datefmt=datefmt, **kwargs)
            root.setLevel(loglevel or logging.NOTSET)
            signals.after_setup_logger.send(sender=None, logger=root, **chosen)
            self.setup_task_loggers(loglevel, logfile, colorize=colorize)
        return responses

    def _raise_first_error(self, responses: list[tuple[Any, Any]]) -> None:
        for _, response in responses:
            if isinstance(response, Exception):
                self.already_setup = False
                raise response

    def setup_task_loggers(
        self,
        loglevel: Level = None,
        logfile: LogFile = None,
        format: str | None = None,
        colorize: bool | None = None,
        propagate: bool = False,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Give "celery.task", the parent of all task loggers, its own handler; returns that logger."""
        loglevel = mlevel(loglevel or self.loglevel)
        format = format or self.task_format
        datefmt = self.task_datefmt if datefmt is None else datefmt
        colorize = self.supports_color(colorize, logfile)

        logger = self.setup_handlers(
            get_logger("celery.task"),
            logfile,
            format,
            colorize,
            formatter=TaskFormatter,
            datefmt=datefmt,
            **kwargs,
        )
        logger.setLevel(loglevel or logging.NOTSET)
        # The root logger has a handler too: to propagate would print every line twice.
        logger.propagate = propagate
        signals.after_setup_task_logger.send(
            sender=None, logger=logger, loglevel=loglevel, logfile=logfile, format=format, colorize=colorize
        )
        return logger

    # -- stdout and stderr

    def redirect_stdouts(self, loglevel: Level = None, name: str = "celery.redirected") -> None:
        """Redirect stdout and stderr to the log, and set CELERY_LOG_REDIRECT in the environment."""
        self.redirect_stdouts_to_logger(get_logger(name), loglevel=loglevel)
        os.environ.update(CELERY_LOG_REDIRECT="1", CELERY_LOG_REDIRECT_LEVEL=str(loglevel or ""))

    def redirect_stdouts_to_logger(
        self, logger: logging.Logger, loglevel: Level = None, stdout: bool = True, stderr: bool = True
    ) -> LoggingProxy:
        """Put a `LoggingProxy` in the place of `sys.stdout` and `sys.stderr`; returns it."""
        proxy = LoggingProxy(logger, loglevel)
        if stdout:
            sys.stdout = proxy
        if stderr:
            sys.stderr = proxy
        return proxy

    # -- handlers

    def setup_handlers(
        self,
        logger: logging.Logger,
        logfile: LogFile,
        format: str | None,
        colorize: bool | None,
        formatter: type[ColorFormatter] = ColorFormatter,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Give a logger a handler unless it has one; `logfile` is a path, a stream, or None for stderr."""
        if not self._is_configured(logger):
            handler = self._detect_handler(logfile)
            made = JSONFormatter() if format == JSON else formatter(format, use_color=bool(colorize), datefmt=datefmt)
            handler.setFormatter(made)
            logger.addHandler(handler)
        return logger

    def _detect_handler(self, logfile: LogFile = None) -> logging.Handler:
        # sys.__stderr__, since sys.stderr may be redirected to this very handler.
        target = sys.__stderr__ if logfile is None else logfile
        if isinstance(target, (str, os.PathLike)):
            return WatchedFileHandler(target, encoding="utf-8")
        return logging.StreamHandler(target)

    def _has_handler(self, logger: logging.Logger) -> bool:
        return any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers)

    def _is_configured(self, logger: logging.Logger) -> bool:
        return self._has_handler(logger) and not getattr(logger, "_rudimentary_setup", False)

    def get_default_logger(self, name: str = "celery", **kwargs: Any) -> logging.Logger:
        return get_logger(name)

    # -- colours

    def supports_color(self, colorize: bool | None = None, logfile: LogFile = None) -> bool:
        """Should output be coloured? By default when it goes to a terminal rather than to a file."""
        colorize = self.colorize if colorize is None else colorize
        if colorize is False:
            return False
        return logfile is None and _is_terminal(sys.stderr)

    def colored(self, logfile: LogFile = None, enabled: bool | None = None) -> colored:
        """Make a `colored` that colours when the output should be."""
        return colored(enabled=self.supports_color(enabled, logfile))


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except AttributeError:
        return False
