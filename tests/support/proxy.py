"""A proxy before the database that does what networks do.

    with FaultProxy(url) as proxy:
        database = Database(proxy.url)
        proxy.cut_before(b"INSERT")     the next statement with these bytes does not arrive; the client is cut off
        proxy.cut_after(b"INSERT")      it arrives and is answered, but the client is cut off instead of told
        proxy.freeze()                  nothing moves, nothing closes: a hung server, or a partition
        proxy.thaw()
        proxy.refuse() / proxy.accept() connections end at once / are let through again
        proxy.reset()                   cut every connection there is

It speaks enough of Postgres' protocol to find the end of an answer (ReadyForQuery), so a cut after a statement comes
when the server has committed it. `heard` counts the statements that passed, by the pgtasks comment-free text of Parse
and Query messages; a prepared statement's later runs are found by the name it was prepared under.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

_READY = b"Z"


@dataclass
class Trap:
    """What happens to the next statement that contains `needle`."""

    needle: bytes
    action: Callable[[], None] | None
    is_before: bool
    skip: int = 0
    sprung: threading.Event = field(default_factory=threading.Event)


class FaultProxy:
    """Listens on TCP and passes connections on to the server of `url`, which may be on a unix socket."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        host = query.get("host", [parts.hostname or "localhost"])[0]
        self._upstream = host if host.startswith("/") else (unquote(host), parts.port or 5432)
        self._port = int(query.get("port", [parts.port or 5432])[0])
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        user = parts.username or "postgres"
        password = f":{parts.password}" if parts.password else ""
        self.url = f"postgresql://{user}{password}@127.0.0.1:{port}{parts.path}?sslmode=disable&gssencmode=disable"
        self._traps: list[Trap] = []
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._is_open = threading.Event()
        self._is_open.set()
        self._refuses = False
        self.statements = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- faults

    def cut_before(self, needle: bytes, *, skip: int = 0) -> threading.Event:
        """Cut the client off instead of passing the next statement on; the event says that it happened."""
        return self._set(Trap(needle, None, True, skip))

    def cut_after(self, needle: bytes, *, skip: int = 0) -> threading.Event:
        """Pass the next statement on and cut the client off instead of passing the answer back."""
        return self._set(Trap(needle, None, False, skip))

    def before(self, needle: bytes, action: Callable[[], None], *, skip: int = 0) -> threading.Event:
        """Call `action` when the next such statement comes, and only then pass it on."""
        return self._set(Trap(needle, action, True, skip))

    def after(self, needle: bytes, action: Callable[[], None], *, skip: int = 0) -> threading.Event:
        """Call `action` when the next such statement has been answered, and only then pass the answer on."""
        return self._set(Trap(needle, action, False, skip))

    def disarm(self) -> None:
        """Forget every cut that has not come yet."""
        with self._lock:
            self._traps.clear()

    def freeze(self) -> None:
        self._is_open.clear()

    def thaw(self) -> None:
        self._is_open.set()

    def refuse(self) -> None:
        """Cut everything off and let nobody in."""
        self._refuses = True
        self.reset()

    def accept(self) -> None:
        self._refuses = False

    def reset(self) -> None:
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()

    def close(self) -> None:
        self._refuses = True
        self._is_open.set()
        self._listener.close()
        self.reset()

    # -- the works

    def _set(self, trap: Trap) -> threading.Event:
        with self._lock:
            self._traps.append(trap)
        return trap.sprung

    def _spring(self, statement: bytes) -> Trap | None:
        with self._lock:
            self.statements += 1
            for trap in self._traps:
                if trap.needle in statement:
                    if trap.skip:
                        trap.skip -= 1
                        continue
                    self._traps.remove(trap)
                    return trap
        return None

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refuses:
                client.close()
                continue
            try:
                link = _Link(self, client, self._connect())
            except OSError:
                client.close()
                continue
            with self._lock:
                self._links.add(link)
            link.start()

    def _connect(self) -> socket.socket:
        if isinstance(self._upstream, str):
            upstream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            upstream.connect(f"{self._upstream}/.s.PGSQL.{self._port}")
            return upstream
        return socket.create_connection(self._upstream)


class _Link:
    """One client's connection through the proxy: a thread for each direction."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._prepared: dict[bytes, bytes] = {}
        self._awaited: Trap | None = None

    def start(self) -> None:
        for target in (self._to_server, self._to_client):
            threading.Thread(target=target, daemon=True).start()

    def cut(self) -> None:
        for end in (self._client, self._server):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._proxy._lock:
            self._proxy._links.discard(self)

    def _to_server(self) -> None:
        with suppress(OSError):
            self._server.sendall(_startup(self._client))
            for kind, body in _messages(self._client):
                self._proxy._is_open.wait()
                trap = self._find_trap(kind, body)
                if trap is not None and trap.is_before:
                    self._spring(trap)
                    if trap.action is None:
                        break
                elif trap is not None:
                    self._awaited = trap
                self._server.sendall(kind + struct.pack("!I", len(body) + 4) + body)
        self.cut()

    def _find_trap(self, kind: bytes, body: bytes) -> Trap | None:
        if kind == b"Q":
            return self._proxy._spring(body)
        if kind == b"P":
            name, _, rest = body.partition(b"\0")
            self._prepared[name] = rest
        elif kind == b"B":
            _, _, rest = body.partition(b"\0")
            name, _, _ = rest.partition(b"\0")
            return self._proxy._spring(self._prepared.get(name, b""))
        return None

    def _to_client(self) -> None:
        with suppress(OSError):
            for kind, body in _messages(self._server):
                if kind == _READY and self._awaited is not None:
                    trap, self._awaited = self._awaited, None
                    self._spring(trap)
                    if trap.action is None:
                        break
                elif self._awaited is not None and self._awaited.action is None:
                    continue  # the client must not hear even a part of the answer
                self._proxy._is_open.wait()
                self._client.sendall(kind + struct.pack("!I", len(body) + 4) + body)
        self.cut()

    def _spring(self, trap: Trap) -> None:
        if trap.action is not None:
            trap.action()
        trap.sprung.set()


def _startup(client: socket.socket) -> bytes:
    head = _exactly(client, 4)
    (length,) = struct.unpack("!I", head)
    return head + _exactly(client, length - 4)


def _messages(source: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    while True:
        head = _exactly(source, 5)
        (length,) = struct.unpack("!I", head[1:])
        yield head[:1], _exactly(source, length - 4)


def _exactly(source: socket.socket, count: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < count:
        data = source.recv(min(count - len(pieces), 1 << 20))
        if not data:
            raise OSError("closed")
        pieces += data
    return bytes(pieces)


def kill(pid: int) -> Callable[[], None]:
    """An action for a trap: kill -9."""
    return lambda: os.kill(pid, signal.SIGKILL)
