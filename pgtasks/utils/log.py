"""Loggers, and what they need to write safely from workers.

The package logs below "celery", tasks log below "celery.task", so that one handler there serves them all.
The names are Celery's because users' `LOGGING` settings and error trackers name them. `LoggingProxy` stands
in for stdout and stderr. Handlers and formats are chosen in `pgtasks.app.log`.
"""

from __future__ import annotations

import logging
import multiprocessing.util
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from kombu.log import LOG_LEVELS
from kombu.utils.encoding import safe_str

from pgtasks.utils.term import colored

__all__ = (
    "LOG_LEVELS",
    "ColorFormatter",
    "LoggingProxy",
    "base_logger",
    "get_logger",
    "get_multiprocessing_logger",
    "get_task_logger",
    "in_sighandler",
    "iter_open_logger_fds",
    "mlevel",
    "reset_multiprocessing_logger",
    "set_in_sighandler",
)

RESERVED_LOGGER_NAMES = {"celery", "celery.task"}

_in_sighandler = False


# -- loggers


def _quiet(name: str) -> logging.Logger:
    """Get a logger that stays silent, rather than writing to stderr, while nothing is configured."""
    logger = logging.getLogger(name)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


base_logger = _quiet("celery")


def logger_isa(logger: logging.Logger, ancestor: logging.Logger) -> bool:
    """Is `ancestor` this logger or one of its parents?"""
    seen: set[logging.Logger] = set()
    current: logging.Logger | None = logger
    while current is not None and current is not ancestor:
        if current in seen:
            raise RuntimeError(f"Logger {logger.name!r} is its own ancestor. Which code set its parent?")
        seen.add(current)
        current = current.parent
    return current is ancestor


def _below(parent: logging.Logger, logger: logging.Logger) -> logging.Logger:
    if not logger_isa(logger, parent):
        logger.parent = parent
    return logger


def get_logger(name: str) -> logging.Logger:
    """Get the logger of a module; one whose parent is neither root nor of Celery's moves below "celery"."""
    logger = _quiet(name)
    if logger is base_logger or logging.root in (logger, logger.parent):
        return logger
    return _below(base_logger, logger)


task_logger = get_logger("celery.task")
worker_logger = get_logger("celery.worker")


def get_task_logger(name: str) -> logging.Logger:
    """Get a logger whose records carry the current task's name and id; pass the module's `__name__`."""
    if name in RESERVED_LOGGER_NAMES:
        raise RuntimeError(f"Logger name {name!r} is reserved! Use get_task_logger(__name__).")
    return _below(task_logger, get_logger(name))


def get_multiprocessing_logger() -> logging.Logger:
    """The logger of the standard library's processes; pools here do not use it."""
    return multiprocessing.util.get_logger()


def reset_multiprocessing_logger() -> None:
    """Have `multiprocessing` make its logger anew, as is fit for a new process."""
    multiprocessing.util._logger = None  # type: ignore[attr-defined]


def mlevel(level: int | str | None) -> Any:
    """Read a log level given by name or number; None and 0 pass through."""
    return LOG_LEVELS[level.upper()] if isinstance(level, str) and level else level


def iter_open_logger_fds() -> Iterator[Any]:
    """Iterate over the streams that handlers write to, each handler once."""
    seen: set[logging.Handler] = set()
    for logger in (*logging.Logger.manager.loggerDict.values(), logging.root):
        # Names that only exist as the parent of others have placeholders without handlers.
        for handler in getattr(logger, "handlers", ()):
            if handler not in seen and hasattr(handler, "stream"):
                seen.add(handler)
                yield handler.stream


# -- signal handlers


def set_in_sighandler(value: bool) -> None:
    """Record whether a signal handler is running."""
    global _in_sighandler
    _in_sighandler = value


@contextmanager
def in_sighandler() -> Iterator[None]:
    """Record that a signal handler is running: redirected output then goes straight to the real stderr.

    The interrupted code may hold a logging lock, which a log call from the handler would wait for forever.
    """
    set_in_sighandler(True)
    try:
        yield
    finally:
        set_in_sighandler(False)


# -- formatting


class ColorFormatter(logging.Formatter):
    """Formats records in the colour of their severity."""

    COLORS = colored().names
    colors = {
        "DEBUG": COLORS["blue"],
        "WARNING": COLORS["yellow"],
        "ERROR": COLORS["red"],
        "CRITICAL": COLORS["magenta"],
    }

    def __init__(self, fmt: str | None = None, use_color: bool = True, datefmt: str | None = None) -> None:
        super().__init__(fmt, datefmt)
        self.use_color = use_color

    def formatException(self, ei: Any) -> str:
        """Format an exception, also when the record says only that there is one (`exc_info=1`)."""
        return super().formatException(ei if not ei or isinstance(ei, tuple) else sys.exc_info())

    def format(self, record: logging.LogRecord) -> str:
        text: str = safe_str(super().format(record))
        color = self.colors.get(record.levelname) if self.use_color else None
        return str(color(text)) if color else text


# -- stdout and stderr as loggers


class LoggingProxy:
    """A file-like object that logs what is written to it.

    A `write` that the logging of another `write` causes is dropped: that ends the loop of a handler that
    prints.
    """

    mode = "w"
    name: str | None = None
    closed = False
    loglevel: int = logging.ERROR

    _thread = threading.local()

    def __init__(self, logger: logging.Logger, loglevel: int | str | None = None) -> None:
        self.logger = logger
        self.loglevel = mlevel(loglevel or self.logger.level or self.loglevel)
        for handler in logger.handlers:
            handler.handleError = _print_to_real_stderr  # type: ignore[method-assign]

    def write(self, data: str | bytes) -> int:
        """Log a text, without its final newlines; returns how many characters were logged."""
        if _in_sighandler:
            text = safe_str(data)
            _write_to_real_stderr(text + "\n")
            return len(text)
        if self.closed or getattr(self._thread, "recurse_protection", False):
            return 0
        self._thread.recurse_protection = True
        try:
            text = safe_str(data).rstrip("\n") if data else ""
            if text:
                self.logger.log(self.loglevel, text)
            return len(text)
        finally:
            self._thread.recurse_protection = False

    def writelines(self, sequence: Iterable[str]) -> None:
        for part in sequence:
            self.write(part)

    def flush(self) -> None:
        """Nothing to do: no output is kept back."""

    def close(self) -> None:
        """Drop what is written from now on."""
        self.closed = True

    def isatty(self) -> bool:
        return False


def _write_to_real_stderr(text: str) -> None:
    # Not sys.stderr, which may be a LoggingProxy itself. A detached daemon has none.
    if sys.__stderr__ is not None:
        sys.__stderr__.write(text)


def _print_to_real_stderr(record: logging.LogRecord) -> None:
    """Report an error inside a handler; stderr may be redirected to that very handler."""
    try:
        _write_to_real_stderr(traceback.format_exc())
    except OSError:
        pass  # the terminal is gone; there is nowhere left to say so
