"""Pools: children that run tasks, and the line between them and the worker's parent process.

                      frames: claims ->, <- reports          (a socket)
    parent ══════════════════════════════════════ child with 1 or more slots
                      tickets: numbers of claims ->          (another one)

The parent sends a claim in a frame and then its ticket, 8 bytes, through a second socket. A slot takes one ticket, and
only then starts that claim. What was sent and not started is thus exactly what is still in that socket, and the parent,
which keeps the reading end too, takes it back by reading it: from a child busy with a long task, or from one that died. So
short tasks never wait behind a long one, a clean stop returns what was not begun, and the neighbours of a task that
kills its process are not charged for it. No lock is shared with the child and no thread of it is needed for this.

A report says that a task ended, with its outcome; or that one with a hard time limit begins; or that the child leaves.
"""

from __future__ import annotations

import itertools
import marshal
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import threading
import time
from _socket import socket as PlainSocket  # which gevent leaves as it is: its own cannot look without waiting
from _socket import socketpair
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from pgtasks import _state, signals
from pgtasks.concurrency.forking import fork
from pgtasks.message import Claim, Outcome

_LENGTH = struct.Struct("!I")
_TICKET = struct.Struct("!Q")
_READ = 1 << 16

# -- what crosses the line


class Ended(NamedTuple):
    """Report: a task ended; `ran_s` is how long it took."""

    number: int
    outcome: Outcome
    ran_s: float


class Begun(NamedTuple):
    """Report: a task with a hard time limit begins."""

    number: int
    limit_s: float


class Leaving(NamedTuple):
    """Report: the child will start no more tasks, for this reason."""

    reason: str


Report = Ended | Begun | Leaving
_PLAIN, _FULL, _BEGUN, _LEAVING = range(4)
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
    parts[_ID] = UUID(bytes=parts[_ID])
    for at in (_ROOT, _PARENT):
        if parts[at] is not None:
            parts[at] = UUID(bytes=parts[at])
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
    if isinstance(report, Begun):
        return (_BEGUN, report.number, report.limit_s)
    return (_LEAVING, report.reason)


def _unpack_report(packed: tuple[Any, ...], claims: Callable[[int], Claim]) -> Report:
    kind, number, *rest = packed
    if kind == _PLAIN:
        ran_s, value, hidden = rest
        claim = claims(number)
        outcome = Outcome(
            id=claim.id, delivery=claim.delivery, value=value, hidden=hidden, has_successors=claim.has_successors,
            is_member=claim.group_id is not None,
        )  # fmt: skip
        return Ended(number, outcome, ran_s)
    if kind == _FULL:
        ran_s, pickled = rest
        # Written by our own child a moment ago, through a socket that nobody else holds.
        return Ended(number, pickle.loads(pickled), ran_s)
    if kind == _BEGUN:
        return Begun(number, rest[0])
    return Leaving(number)


def _frame(value: Any) -> bytes:
    body = marshal.dumps(value)
    return _LENGTH.pack(len(body)) + body


class _Frames:
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

    def __init__(self, sock: PlainSocket, tickets: PlainSocket) -> None:
        self.sock = sock
        self._tickets = tickets
        self._frames = _Frames()
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
            ticket = self._tickets.recv(_TICKET.size, 0 if wait else socket.MSG_DONTWAIT)
            if not ticket:
                return None
            (number,) = _TICKET.unpack(ticket)
            while number not in self._inbox:
                data = self.sock.recv(_READ)
                if not data:
                    return None
                self._sort(data)
            # Tickets come in order: what lies before this one was taken back.
            while (first := next(iter(self._inbox))) != number:
                del self._inbox[first]
            return number, self._inbox.pop(number)

    def stops(self) -> list[tuple[int, str]]:
        """Read what there is without waiting; gives the claims whose tasks are to be stopped, each with its fate.

        Raises EOFError when the parent has gone.
        """
        with self._receiving:
            with suppress(BlockingIOError):
                while data := self.sock.recv(_READ, socket.MSG_DONTWAIT):
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
        for number, content in self._frames.feed(data):
            if isinstance(content, str):
                self._stops.append((number, content))
            elif isinstance(content, int):
                self._slots = [content]
            else:
                self._inbox[number] = unpack_claim(content)

    def report(self, report: Report) -> None:
        data = _frame(_pack_report(report))
        with self._sending:
            self.sock.sendall(data)


class Serve(Protocol):
    """The body of a child: run what comes down the line until it closes; returns the exit status."""

    def __call__(self, line: Line, site: Any, options: ChildOptions) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildOptions:
    """What a child needs to know beside its site."""

    slots: int
    max_tasks: int | None = None
    #: Peak resident memory in KiB after which the child is replaced, as Celery counts it.
    max_memory_kib: int | None = None
    #: It can stop one of its tasks when it is told to, and need not be killed for it.
    can_stop: bool = False
    #: It can have more slots, or fewer, when it is told to.
    can_resize: bool = False


class Worker:
    """What a child does from its start to its end.

    Monitoring libraries wrap `workloop`, which they know from `billiard.pool`, to send what they have before the child
    leaves: it ends by `os._exit`.
    """

    def __init__(self, serve: Serve, line: Line, site: Any, options: ChildOptions) -> None:
        self._serve = serve
        self._arguments = (line, site, options)

    def workloop(self) -> int:
        return self._serve(*self._arguments)


# -- the parent's end


@dataclass(slots=True)
class Job:
    """A claim that was sent to a child."""

    claim: Claim
    sent_at: float
    #: The hard time limit, known once the task begins, and when it is up by the monotonic clock.
    limit_s: float | None = None
    kill_at: float | None = None
    #: The claim is not the worker's any more: what comes of it is not to be settled.
    is_void: bool = False


class Child:
    """A forked child as its parent sees it."""

    _numbers = itertools.count(1)

    def __init__(
        self, serve: Serve, site: Any, options: ChildOptions, close_in_child: Callable[[], None], *, index: int = 0
    ) -> None:
        self.options = options
        self.index = index  # its place among the children of its worker, which a successor takes over
        self.number = next(self._numbers)
        self.jobs: dict[int, Job] = {}
        self.is_leaving = False
        self.last_ended_at = time.monotonic()
        self._next = 0
        self._unsent = bytearray()
        self._hear: Callable[[], None] | None = None
        self._frames = _Frames()
        self._sock, theirs = socketpair()
        self._tickets, self._tickets_read = socketpair()
        self.pid = fork(lambda: self._be_child(serve, site, theirs, close_in_child))
        theirs.close()
        self._sock.setblocking(False)

    def _be_child(self, serve: Serve, site: Any, theirs: PlainSocket, close_in_child: Callable[[], None]) -> int:
        self._sock.close()
        self._tickets.close()
        close_in_child()
        # The name that Celery's children have in logs.
        process = multiprocessing.current_process()
        process.name = f"ForkPoolWorker-{self.number}"
        process.index = self.index  # type: ignore[attr-defined]  # as billiard's have: %i in names of log files
        site.app.log.setup_pool_process()
        signals.worker_process_init.send(sender=site.hostname)
        _state._set_task_join_will_block(True, everywhere=True)
        site.app.loader.init_worker_process()
        status = 1
        try:
            status = Worker(serve, Line(theirs, self._tickets_read), site, self.options).workloop()
        finally:
            signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=status)
        return status

    def fileno(self) -> int:
        return self._sock.fileno()

    def descriptors(self) -> tuple[int, ...]:
        """What other children must not inherit."""
        return (self._sock.fileno(), self._tickets.fileno(), self._tickets_read.fileno())

    # -- work

    def send(self, claims: Iterable[Claim]) -> None:
        """Give the child claims to run, after those it has."""
        now, tickets = time.monotonic(), bytearray()
        for claim in claims:
            self._next += 1
            self.jobs[self._next] = Job(claim, now)
            self._unsent += _frame((self._next, pack_claim(claim)))
            tickets += _TICKET.pack(self._next)
        self.flush()
        try:
            self._tickets.sendall(tickets)
        except OSError:
            pass  # it died, or was dismissed; the claims are found among its jobs

    def stop(self, claim_id: UUID, fate: str) -> None:
        """Have the child stop one of its tasks, which gets this fate; nothing if that has just ended."""
        for number, job in self.jobs.items():
            if job.claim.id == claim_id:
                self._unsent += _frame((number, fate))
        self.flush()

    def resize(self, slots: int) -> None:
        """Have so many slots from now on, in a child that can."""
        self.options, self._unsent = replace(self.options, slots=slots), self._unsent + _frame((0, slots))
        self.flush()

    @property
    def wants_to_write(self) -> bool:
        return bool(self._unsent)

    def flush(self) -> None:
        """Send what the socket takes; a child deep in a task takes only what fits its buffer."""
        try:
            while self._unsent:
                sent = self._sock.send(self._unsent)
                del self._unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # it died; the reading side will tell

    def begun(self) -> list[Job]:
        """The jobs that a slot has taken up: all but those whose tickets are still in the socket."""
        try:
            tickets = self._tickets_read.recv(_READ, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            tickets = b""
        waiting = {number for (number,) in _TICKET.iter_unpack(tickets[: len(tickets) // _TICKET.size * _TICKET.size])}
        return [job for number, job in self.jobs.items() if number not in waiting]

    def take_back(self) -> list[Claim]:
        """Take back all claims that no slot has started."""
        claims: list[Claim] = []
        while True:
            try:
                ticket = self._tickets_read.recv(_TICKET.size, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return claims
            if not ticket:
                return claims
            job = self.jobs.pop(_TICKET.unpack(ticket)[0], None)
            if job is not None:
                claims.append(job.claim)

    def hear_with(self, listen: Callable[[Child], None]) -> Callable[[], None]:
        """The reaction of an event loop to this child's socket: the same object every time."""
        if self._hear is None:

            def hear() -> None:
                self.flush()
                listen(self)

            self._hear = hear
        return self._hear

    def receive(self) -> list[Report] | None:
        """Reports that have arrived; None when the child has gone."""
        reports: list[Report] = []
        while True:
            try:
                data = self._sock.recv(_READ)
            except BlockingIOError:
                return reports
            except OSError:
                data = b""
            if not data:
                return reports or None
            reports.extend(self._understand(data))
            if len(data) < _READ:
                return reports

    def _understand(self, data: bytes) -> Iterator[Report]:
        now = time.monotonic()
        for packed in self._frames.feed(data):
            report = _unpack_report(packed, lambda number: self.jobs[number].claim)
            if isinstance(report, Ended):
                job = self.jobs.pop(report.number, None)
                self.last_ended_at = now
                if job is not None and job.is_void:
                    report = report._replace(outcome=report.outcome._replace(kind="gone"))
            elif isinstance(report, Begun):
                job = self.jobs[report.number]
                job.limit_s, job.kill_at = report.limit_s, now + report.limit_s
            else:
                self.is_leaving = True
            yield report

    # -- end

    def dismiss(self) -> None:
        """Tell the child that nothing more will come: it ends when its slots have."""
        self._tickets.close()

    def kill(self, signum: int = signal.SIGKILL) -> None:
        try:
            os.kill(self.pid, signum)
        except ProcessLookupError:
            pass

    def bury(self) -> int:
        """Wait for the dead child; gives its exit status, negative for the signal that killed it."""
        _, status = os.waitpid(self.pid, 0)
        self.dismiss()
        self._sock.close()
        self._tickets_read.close()
        return os.waitstatus_to_exitcode(status)
