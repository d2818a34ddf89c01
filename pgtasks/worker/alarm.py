"""Signals, and calls from other threads, on their way into a worker's loop.

A signal handler only records the request and wakes the loop through a socket. The loop acts on it between two steps,
where nothing is half done.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from pgtasks.exceptions import WorkerShutdown
from pgtasks.platforms import EX_OK

Wish = int | Callable[[], Any]


class Alarm:
    """Wakes a loop that watches its `fileno`; `heard` gives what was wished for since the last time."""

    def __init__(self) -> None:
        self._ring, self._bell = socket.socketpair()
        self._ring.setblocking(False)
        self._bell.setblocking(False)
        self._wishes: deque[Wish] = deque()

    def fileno(self) -> int:
        return self._bell.fileno()

    def descriptors(self) -> tuple[int, int]:
        return (self._ring.fileno(), self._bell.fileno())

    def wish(self, wish: Wish) -> None:
        """Ask for what a signal means, or for a call, from a signal handler or from any thread."""
        self._wishes.append(wish)
        # When the socket is full the loop has enough to wake up for.
        with suppress(OSError):
            self._ring.send(b"!")

    def heard(self) -> Iterator[Wish]:
        with suppress(BlockingIOError):
            while self._bell.recv(4096):
                pass
        while self._wishes:
            yield self._wishes.popleft()

    def sleep(self, timeout_s: float) -> None:
        """Sleep before there is a loop; raises `WorkerShutdown` when anything is wished for, since that is to stop."""
        select.select([self._bell], [], [], timeout_s)
        if self._wishes:
            raise WorkerShutdown(EX_OK)

    def take_signals(self) -> None:
        """Have the signals that stop a worker ring here; USR1 prints every thread's stack.

        REMAP_SIGTERM=SIGQUIT in the environment makes TERM cold, for platforms that send nothing else.
        """
        term = signal.SIGQUIT if os.environ.get("REMAP_SIGTERM") == "SIGQUIT" else signal.SIGTERM
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            meaning = term if signum == signal.SIGTERM else signum
            signal.signal(signum, partial(self._hear_signal, meaning))
        faulthandler.register(signal.SIGUSR1, file=sys.__stderr__ or 2, all_threads=True)

    def _hear_signal(self, meaning: int, signum: int, frame: Any) -> None:
        self.wish(meaning)
