"""Children that run tasks: what a pool is made of, and a forked child as its parent sees it.

A pool is a function, `serve`, that takes claims from a `Line` and reports what came of them. What has been sent to a child and
not begun there can be taken back at any time, see `line`.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import socket
import time
from _socket import socketpair  # which gevent leaves as it is: its own cannot look without waiting
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from uuid import UUID

from pgtasks import _state, signals
from pgtasks.concurrency.forking import fork
from pgtasks.concurrency.line import (
    READ,
    TICKET,
    Begun,
    Ended,
    Frames,
    Line,
    Passed,
    Report,
    frame,
    open_pipe,
    pack_claim,
    unpack_report,
)
from pgtasks.concurrency.permit import Permit
from pgtasks.message import Claim

#: Claims that are framed together. A child begins with none of them before it has read all.
TOGETHER = 16


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
    #: While this is given it may settle links of chains by itself.
    may_pass_on: Permit = field(default_factory=Permit)


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
        self._frames = Frames()
        self._sock, sock = socketpair()
        self._tickets, self._tickets_read = socketpair()
        self._reports, reports = open_pipe()
        line = Line(sock, self._tickets_read, reports)
        self.pid = fork(lambda: self._be_child(serve, site, line, close_in_child))
        sock.close()
        os.close(reports)
        self._sock.setblocking(False)

    def _be_child(self, serve: Serve, site: Any, line: Line, close_in_child: Callable[[], None]) -> int:
        self._sock.close()
        self._tickets.close()
        os.close(self._reports)
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
            status = Worker(serve, line, site, self.options).workloop()
        finally:
            signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=status)
        return status

    def fileno(self) -> int:
        """What is readable when the child has reported something, or has gone."""
        return self._reports

    def outlet(self) -> int:
        """What is writable when the child takes more."""
        return self._sock.fileno()

    def descriptors(self) -> tuple[int, ...]:
        """What other children must not inherit."""
        return (self._reports, self._sock.fileno(), self._tickets.fileno(), self._tickets_read.fileno())

    # -- work

    def send(self, claims: Iterable[Claim]) -> None:
        """Give the child claims to run, after those it has."""
        now, tickets = time.monotonic(), bytearray()
        together: list[tuple[int, tuple[Any, ...]]] = []
        for number, claim in enumerate(claims, self._next + 1):
            self.jobs[number] = Job(claim, now)
            together.append((number, pack_claim(claim)))
            tickets += TICKET.pack(number)
            if len(together) == TOGETHER:
                self._unsent += frame(together)
                together = []
            self._next = number
        if together:
            self._unsent += frame(together)
        self.flush()
        try:
            self._tickets.sendall(tickets)
        except OSError:
            pass  # it died, or was dismissed; the claims are found among its jobs

    def stop(self, claim_id: UUID, fate: str) -> None:
        """Have the child stop one of its tasks, which gets this fate; nothing if that has just ended."""
        for number, job in self.jobs.items():
            if job.claim.id == claim_id:
                self._unsent += frame([(number, fate)])
        self.flush()

    def resize(self, slots: int) -> None:
        """Have so many slots from now on, in a child that can."""
        self.options, self._unsent = replace(self.options, slots=slots), self._unsent + frame([(0, slots)])
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
            tickets = self._tickets_read.recv(READ, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            tickets = b""
        waiting = {number for (number,) in TICKET.iter_unpack(tickets[: len(tickets) // TICKET.size * TICKET.size])}
        return [job for number, job in self.jobs.items() if number not in waiting]

    def take_back(self) -> list[Claim]:
        """Take back all claims that no slot has started."""
        claims: list[Claim] = []
        while True:
            try:
                ticket = self._tickets_read.recv(TICKET.size, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return claims
            if not ticket:
                return claims
            job = self.jobs.pop(TICKET.unpack(ticket)[0], None)
            if job is not None:
                claims.append(job.claim)

    def hear_with(self, listen: Callable[[Child], None]) -> Callable[[], None]:
        """The reaction of an event loop to this child's socket: the same object every time."""
        if self._hear is None:

            def hear() -> None:
                # Both its sockets are ready when it has died, and what the first one tells is that.
                if self._reports >= 0:
                    self.flush()
                    listen(self)

            self._hear = hear
        return self._hear

    def receive(self) -> list[Report] | None:
        """Reports that have arrived; None when the child has gone."""
        reports: list[Report] = []
        while True:
            try:
                data = os.read(self._reports, READ)
            except BlockingIOError:
                return reports
            if not data:
                return reports or None
            reports.extend(self._understand(data))
            if len(data) < READ:
                return reports

    def _claim_of(self, number: int) -> Claim:
        return self.jobs[number].claim

    def _understand(self, data: bytes) -> Iterator[Report]:
        now = time.monotonic()
        for packed in self._frames.feed(data):
            report = unpack_report(packed, self._claim_of)
            if isinstance(report, Ended):
                job = self.jobs.pop(report.number, None)
                self.last_ended_at = now
                if job is not None and job.is_void:
                    report = report._replace(outcome=report.outcome._replace(kind="gone"))
            elif isinstance(report, Passed):
                del self.jobs[report.number]
                self.last_ended_at = now
                if report.as_number and report.claim is not None:
                    self.jobs[report.as_number] = Job(report.claim, now)
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
        if self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    #: As of waitpid(2), when it has been waited for; its id may be another process' then.
    _status: int | None = None

    def has_ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def last_words(self) -> list[Report]:
        """Wait for a child that was killed; gives what it had reported before and nobody has heard."""
        self._wait()
        return self.receive() or []

    def _wait(self) -> int:
        if self._status is None:
            self._status = os.waitpid(self.pid, 0)[1]
        return self._status

    def bury(self) -> int:
        """Wait for the dead child; gives its exit status, negative for the signal that killed it."""
        status = self._wait()
        self.dismiss()
        self._sock.close()
        self._tickets_read.close()
        if self._reports >= 0:
            os.close(self._reports)
            self._reports = -1
        return os.waitstatus_to_exitcode(status)
