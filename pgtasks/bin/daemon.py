"""What makes a command a service: the user it runs as, the background, the pid file."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from pgtasks import signals
from pgtasks.app.jsonlog import JSON
from pgtasks.exceptions import CeleryCommandException, SecurityError
from pgtasks.platforms import (
    EX_CANTCREAT,
    EX_FAILURE,
    LockFailed,
    check_privileges,
    create_pidlock,
    detach,
    maybe_drop_privileges,
    refuse_second_process,
)
from pgtasks.utils.nodenames import node_format

__all__ = ("become_a_service",)

#: Set for the process in the background, which is started with the same arguments.
_IN_BACKGROUND = "PGTASKS_IN_BACKGROUND"


def become_a_service(app: Any, hostname: str, options: dict[str, Any]) -> None:
    """Become the user that is asked for, go to the background, and be the only one with this pid file."""
    with _told_in_one_line():
        _become_a_service(app, hostname, options)


def _become_a_service(app: Any, hostname: str, options: dict[str, Any]) -> None:
    maybe_drop_privileges(options["uid"], options["gid"])  # before files are made
    with _warning_in_the_log(app):
        check_privileges(app.conf.accept_content)
    logfile = options["logfile"] and node_format(options["logfile"], hostname)
    if logfile and not signals.setup_logging.receivers:
        open(logfile, "a").close()  # while there is somebody to tell
    pidfile = options["pidfile"] and node_format(options["pidfile"], hostname)
    is_in_background = os.environ.pop(_IN_BACKGROUND, None) is not None
    if options["detach"] and not is_in_background:
        if pidfile:
            refuse_second_process(pidfile)  # while there is somebody to tell
        _go_to_background(logfile, options)
    if pidfile:
        create_pidlock(pidfile)


@contextmanager
def _warning_in_the_log(app: Any) -> Iterator[None]:
    """Keep warnings until there is a log, if its lines are JSON: now they would be lines of text among them."""
    if app.conf.worker_log_format != JSON or signals.setup_logging.receivers:
        yield
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    process = os.getpid()

    def log(**kwargs: Any) -> None:
        signals.after_setup_logger.disconnect(log)
        for each in told if os.getpid() == process else ():  # a scheduler beside the worker has a log as well
            logging.getLogger("py.warnings").warning("%s: %s", each.category.__name__, each.message)

    signals.after_setup_logger.connect(log, weak=False)


def _go_to_background(logfile: str | None, options: dict[str, Any]) -> NoReturn:
    """Start the same command in the background, where it finds the same directory and environment."""
    detach(logfile, options["umask"])
    os.environ[_IN_BACKGROUND] = "1"
    python = options["executable"] or sys.executable
    os.execv(python, [python, "-m", "pgtasks", *sys.argv[1:]])


@contextmanager
def _told_in_one_line() -> Iterator[None]:
    try:
        yield
    except LockFailed as exc:
        raise CeleryCommandException(str(exc), EX_CANTCREAT) from exc
    except SecurityError as exc:
        raise CeleryCommandException(str(exc), EX_FAILURE) from exc
    except (OSError, KeyError, ValueError) as exc:
        reason = exc.args[0] if isinstance(exc, KeyError) else exc
        raise CeleryCommandException(
            f"Cannot start: {reason}. Look at --uid, --gid, --umask and --logfile; only root can become another user.",
            EX_FAILURE,
        ) from exc
