"""A debugger for tasks, by telnet: `from pgtasks.contrib import rdb`, and `rdb.set_trace()` where a task shall stop.

The worker logs the port to connect to and the task waits for somebody who does; what is typed there is for pdb. It goes
on with `continue`. A time limit counts while it waits. Whoever connects can do all that the task may, so it listens on
this machine only, unless CELERY_RDB_HOST says otherwise. CELERY_RDB_PORT is the first port that is tried.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import suppress
from pdb import Pdb
from types import FrameType
from typing import Any, Self

from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.utils.nodenames import current_process_index

__all__ = ("CELERY_RDB_HOST", "CELERY_RDB_PORT", "DEFAULT_PORT", "Rdb", "debugger", "set_trace")

DEFAULT_PORT = 6899
CELERY_RDB_HOST = os.environ.get("CELERY_RDB_HOST") or "127.0.0.1"
CELERY_RDB_PORT = int(os.environ.get("CELERY_RDB_PORT") or DEFAULT_PORT)

#: The debugger that is in use, as its first item.
_current: list[Rdb | None] = [None]


class Rdb(Pdb):
    """A debugger that talks with the first who connects; making one waits for that."""

    me = "Remote Debugger"

    def __init__(
        self,
        host: str = CELERY_RDB_HOST,
        port: int = CELERY_RDB_PORT,
        port_search_limit: int = 100,
        port_skew: int = 0,
        out: Any = None,
    ) -> None:
        self.active = True
        self.out = out or sys.stdout
        self._before = sys.stdin, sys.stdout
        self._sock, self.port = self.get_avail_port(host, port, port_search_limit, port_skew)
        self.host = host
        self.ident = f"{self.me}:{self.port}"
        self.say(f"{self.ident}: Ready to connect: telnet {host} {self.port}\n\nType `exit` in session to continue.\n")
        self.say(f"{self.ident}: Waiting for client...")
        self._client, address = self._sock.accept()
        self.remote_addr = ":".join(map(str, address))
        self.say(f"{self.ident}: Now in session with {self.remote_addr}.")
        # Two files: one for both ways would forget what it has read ahead whenever it writes.
        self._reader: Any = self._client.makefile("r")
        self._writer: Any = self._client.makefile("w")
        sys.stdin, sys.stdout = self._reader, self._writer
        super().__init__(completekey="tab", stdin=self._reader, stdout=self._writer)

    def get_avail_port(self, host: str, port: int, search_limit: int = 100, skew: int = 0) -> tuple[socket.socket, int]:
        """Listen on the first free port; each child of a worker looks from another one on."""
        first = port + (current_process_index() or skew)
        for each in range(first, first + search_limit):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, each))
            except OSError as exc:
                sock.close()
                if exc.errno not in (errno.EADDRINUSE, errno.EINVAL):
                    raise
                continue
            sock.listen(1)
            return sock, sock.getsockname()[1]
        raise ImproperlyConfigured(
            f"{self.me}: no port from {first} to {first + search_limit - 1} is free on {host}. Set CELERY_RDB_PORT."
        )

    def say(self, m: str) -> None:
        print(m, file=self.out, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._close_session()

    def _close_session(self) -> None:
        self.stdin, self.stdout = sys.stdin, sys.stdout = self._before
        if self.active:
            self.active = False
            with suppress(OSError):  # who has hung up hears nothing any more
                self._writer.close()
            for each in (self._reader, self._client, self._sock):
                each.close()
            self.say(f"{self.ident}: Session with {self.remote_addr} ended.")

    def do_continue(self, arg: str) -> bool:
        self._close_session()
        self.set_continue()
        return True

    do_c = do_cont = do_continue

    def do_quit(self, arg: str) -> bool:
        self._close_session()
        self.set_quit()
        return True

    do_q = do_exit = do_quit

    def set_quit(self) -> None:
        # pdb's own would raise BdbQuit in the task, which shall go on.
        sys.settrace(None)


def debugger() -> Rdb:
    """Return the debugger that is in use, or a new one."""
    current = _current[0]
    if current is None or not current.active:
        current = _current[0] = Rdb()
    return current


def set_trace(frame: FrameType | None = None) -> None:
    """Stop here, or in another frame."""
    debugger().set_trace(frame or sys._getframe().f_back)
