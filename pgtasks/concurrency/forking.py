"""Forking: a child starts without its parent's signal handlers, and does not outlive it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

__all__ = ("die_with_parent", "fork")

_PR_SET_PDEATHSIG = 1


def fork(be_child: Callable[[], int]) -> int:
    """Fork a child whose exit status is what `be_child` returns; gives its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    # Signals that arrive before the child has its own handlers must not run the parent's.
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        return pid
    _become_child(parent, be_child)


_HANDLED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGCHLD,
    signal.SIGALRM,
)


def _become_child(parent: int, be_child: Callable[[], int]) -> NoReturn:
    status = 1
    try:
        # Wake-ups of the parent's loop are not the child's business.
        signal.set_wakeup_fd(-1)
        for signum in _HANDLED:
            signal.signal(signum, signal.SIG_DFL)
        # The parent alone decides when children stop; a Ctrl-C in the terminal reaches them as well.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        die_with_parent(parent)
        status = be_child()
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies (Linux: prctl(2)); elsewhere the closed line ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
