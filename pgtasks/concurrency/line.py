"""The line between a worker's parent process and a child that runs its tasks.

                      claims ->                              (a socket)
    parent ══════════ tickets: numbers of claims -> ═══════════ child with 1 or more slots    (another one)
                      <- reports                             (a pipe)

The parent sends claims in a frame and then their tickets, 8 bytes each, through a second socket. A slot takes one ticket,
and only then starts that claim. What was sent and not started is thus exactly what is still in that socket, and the
parent, which keeps the reading end too, takes it back by reading it: from a child busy with a long task, or from one that
died. So short tasks never wait behind a long one, a clean stop returns what was not begun, and the neighbours of a task
that kills its process are not charged for it. No lock is shared with the child and no thread of it is needed for this.
Reports come through a pipe: a socket is full after some 270 small ones, and their child would stand still while the parent
waits for the database.

A report says that a task ended, with its outcome; or that the child has settled the link of a chain itself and goes on with
the next one, under a number below zero; or that a task with a hard time limit begins; or that the child leaves.
"""

from __future__ import annotations

import fcntl
import itertools
import marshal
import os
import pickle
import socket
import struct
import threading
from _socket import socket as PlainSocket  # which gevent leaves as it is: its own cannot look without waiting
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from pgtasks.message import Claim, Outcome, uuid_of

__all__ = (
    "READ",
    "TICKET",
    "Begun",
    "Ended",
    "Frames",
    "Leaving",
    "Line",
    "Passed",
    "Report",
    "frame",
    "open_pipe",
    "pack_claim",
    "unpack_claim",
    "unpack_report",
)

_LENGTH = struct.Struct("!I")
TICKET = struct.Struct("!Q")
#: Bytes that are read at a time.
READ = 1 << 16
#: Room for reports in the pipe, in bytes, where the system gives it: some 5,000 small ones.
_REPORTS_ROOM = 1 << 18

# -- what crosses the line


class Ended(NamedTuple):
    """Report: a task ended; `ran_s` is how long it took."""

    number: int
    outcome: Outcome
    ran_s: float


class Passed(NamedTuple):
    """Report: a task ended, the child has settled that itself, and has taken the next one.

    It goes on with that under the number `as_number`; if that is 0, it is for the parent to hand out.
    """

    number: int
    outcome: Outcome
    ran_s: float
    claim: Claim | None
    as_number: int


class Begun(NamedTuple):
    """Report: a task with a hard time limit begins."""

    number: int
    limit_s: float


class Leaving(NamedTuple):
    """Report: the child will start no more tasks, for this reason."""

    reason: str


Report = Ended | Passed | Begun | Leaving
_PLAIN, _FULL, _PASSED, _BEGUN, _LEAVING = range(5)
_ID, _ROOT, _PARENT, _DUE, _EXPIRES = (Claim._fields.index(f) for f in ("id", "root", "parent", "due", "expires"))


def pack_claim(claim: Claim) -> tuple[Any, ...]:
    """Turn a claim into what `marshal` writes, which is several times faster than pickling it."""
    parts: list[Any] = list(claim)
    parts[_ID] = claim.id.bytes
    for at in (_ROOT, _PARENT):
        if parts[at] is not None:
            parts[at] = parts[at].bytes
    for at in (_DUE, _EXPIRES):
        if parts[at] is not None:
            parts[at] = parts[at].isoformat()
    return tuple(parts)


def unpack_claim(packed: Iterable[Any]) -> Claim:
    parts = list(packed)
    parts[_ID] = uuid_of(parts[_ID])
    for at in (_ROOT, _PARENT):
        if parts[at] is not None:
            parts[at] = uuid_of(parts[at])
    for at in (_DUE, _EXPIRES):
        if parts[at] is not None:
            parts[at] = datetime.fromisoformat(parts[at])
    return Claim._make(parts)


def _pack_report(report: Report) -> tuple[Any, ...]:
    if isinstance(report, Ended):
        outcome = report.outcome
        if (
            outcome.kind == "done"
            and outcome.state == "SUCCESS"
            and not (outcome.content_type or outcome.children or outcome.follow_ups or outcome.is_limited)
        ):
            return (_PLAIN, report.number, report.ran_s, outcome.value, outcome.hidden)
        return (_FULL, report.number, report.ran_s, pickle.dumps(outcome))
    if isinstance(report, Passed):
        packed = None if report.claim is None else pack_claim(report.claim)
        return (_PASSED, report.number, report.ran_s, packed, report.as_number)
    if isinstance(report, Begun):
        return (_BEGUN, report.number, report.limit_s)
    return (_LEAVING, report.reason)


def unpack_report(packed: tuple[Any, ...], claim_of: Callable[[int], Claim]) -> Report:
    kind, number, *rest = packed
    if kind == _PLAIN:
        ran_s, value, hidden = rest
        claim = claim_of(number)
        outcome = Outcome(
            id=claim.id, delivery=claim.delivery, value=value, hidden=hidden, has_successors=claim.has_successors,
            is_member=claim.group_id is not None,
        )  # fmt: skip
        return Ended(number, outcome, ran_s)
    if kind == _FULL:
        ran_s, pickled = rest
        # Written by our own child a moment ago, through a socket that nobody else holds.
        return Ended(number, pickle.loads(pickled), ran_s)
    if kind == _PASSED:
        ran_s, next_claim, as_number = rest
        claim = claim_of(number)
        outcome = Outcome(id=claim.id, delivery=claim.delivery, has_successors=True)
        return Passed(number, outcome, ran_s, next_claim and unpack_claim(next_claim), as_number)
    if kind == _BEGUN:
        return Begun(number, rest[0])
    return Leaving(number)


def frame(value: Any) -> bytes:
    body = marshal.dumps(value)
    return _LENGTH.pack(len(body)) + body


def open_pipe() -> tuple[int, int]:
    """A pipe whose reading end does not wait."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _REPORTS_ROOM)
    return reading, writing


class Frames:
    """Cuts a stream of bytes into the values that were framed."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        self._buffer += data
        at, size = 0, len(self._buffer)
        while size - at >= 4:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            if size - at - 4 < length:
                break
            yield marshal.loads(memoryview(self._buffer)[at + 4 : at + 4 + length])
            at += 4 + length
        del self._buffer[:at]


# -- the child's end


class Line:
    """The child's end of the line; the slots of a child share it."""

    def __init__(self, sock: PlainSocket, tickets: PlainSocket, reports: int) -> None:
        self.sock = sock
        self._tickets = tickets
        self._reports = reports
        self._frames = Frames()
        self._inbox: dict[int, Claim] = {}
        self._stops: list[tuple[int, str]] = []
        self._slots: list[int] = []
        self._receiving = threading.Lock()
        self._sending = threading.Lock()

    def fileno(self) -> int:
        """The socket of tickets, for an event loop to watch."""
        return self._tickets.fileno()

    def take(self, *, wait: bool = True) -> tuple[int, Claim] | None:
        """Take the next ticket and its claim; None when the parent has closed the line.

        Raises BlockingIOError when there is no ticket and it shall not `wait` for one.
        """
        with self._receiving:
            ticket = self._tickets.recv(TICKET.size, 0 if wait else socket.MSG_DONTWAIT)
            if not ticket:
                return None
            (number,) = TICKET.unpack(ticket)
            while number not in self._inbox:
                data = self.sock.recv(READ)
                if not data:
                    return None
                self._sort(data)
            # Tickets come in order: what lies before this one was taken back.
            while (first := next(iter(self._inbox))) != number:
                del self._inbox[first]
            return number, self._inbox.pop(number)

    def has_ticket(self) -> bool:
        """Does anything wait to be taken, or has the parent closed the line?"""
        try:
            self._tickets.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return False
        return True

    def stops(self) -> list[tuple[int, str]]:
        """Read what there is without waiting; gives the claims whose tasks are to be stopped, each with its fate.

        Raises EOFError when the parent has gone.
        """
        with self._receiving:
            with suppress(BlockingIOError):
                while data := self.sock.recv(READ, socket.MSG_DONTWAIT):
                    self._sort(data)
                raise EOFError("the parent has closed the line")
        return self.take_stops()

    def take_stops(self) -> list[tuple[int, str]]:
        """Those that have been read already, with a claim."""
        stops, self._stops = self._stops, []
        return stops

    def take_slots(self) -> int | None:
        """How many slots the parent wants from now on, if it has said so since."""
        return self._slots.pop() if self._slots else None

    def _sort(self, data: bytes) -> None:
        for number, content in itertools.chain.from_iterable(self._frames.feed(data)):
            if isinstance(content, str):
                self._stops.append((number, content))
            elif isinstance(content, int):
                self._slots = [content]
            else:
                self._inbox[number] = unpack_claim(content)

    def report(self, report: Report) -> None:
        data = frame(_pack_report(report))
        with self._sending:
            while data:
                data = data[os.write(self._reports, data) :]
