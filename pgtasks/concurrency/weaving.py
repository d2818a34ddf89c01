"""Several runs of workflows in one prefork child: one at a time, but not one after the other.

    run A    step ─┐        ┌─ step ─┐        ┌─ ...
    run B          └─ step ─┐        └─ step ─┐
    commit                  A, B              A, B

A run that has done a step, or goes to sleep, must wait for the disk before it may go on. Meanwhile the child takes up
another run, and when there is none that could go on, what all of them ask goes in one transaction. Each run is a greenlet:
all are in the main thread, one works at any moment, and none is left but where it asks the database. So to the user's code
it is the child that it knows.

A run that works holds up those that are parked. So a run is taken up beside others only where the steps of its workflow have
been short lately, and what is parked behind a step that takes long after all is given up, for another worker to go on with. A
run with a time limit is never parked, and neither is one that may not be run twice: others could kill its process.
"""

from __future__ import annotations

import resource
import threading
import time
from contextvars import copy_context
from typing import Any

from greenlet import getcurrent, greenlet

from pgtasks.concurrency.line import Ended, Line
from pgtasks.exceptions import RunLost
from pgtasks.execution import Site, execute
from pgtasks.message import Claim, Outcome
from pgtasks.store.records import Answer, Record, ask, record_together

__all__ = ("Weaver",)

Taken = tuple[int, Claim]

#: Whose use of resources is asked for: this thread's, or the process' where a system knows no threads.
_THREAD = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
#: The mean up to which the steps of a workflow are short.
SHORT_S = 0.01
#: So many runs may be under way at a time, and more, up to `MOST`, while the database takes longer than their steps do.
FEW, MOST = 16, 128
#: Most runs that begin before the child looks whether it should leave.
MOST_IN_A_ROW = 1000
#: What has been parked for so long is given up.
LONG_S = 1.0


class _Strand:
    """One run under way."""

    __slots__ = ("answer", "claim", "is_given_up", "number", "record", "resumed_at", "worked_s")

    def __init__(self, number: int, claim: Claim) -> None:
        self.number = number
        self.claim = claim
        #: What it is parked with: a step to be recorded, then what that was answered.
        self.record: Record | None = None
        self.answer: Answer = None
        self.is_given_up = False
        #: For how long it has worked, until it was resumed.
        self.worked_s = 0.0
        self.resumed_at = 0.0


class Weaver:
    """Runs workflows in this child, and records their steps together."""

    def __init__(self, line: Line, site: Site, limits: Any) -> None:
        self._line = line
        self._limits = limits
        self._site = site._replace(recorder=self)
        self._hub = getcurrent()
        self._strands: dict[greenlet, _Strand] = {}
        self._working: _Strand | None = None
        self._may_be_parked: dict[str, bool] = {}
        #: How long the steps of a workflow take, of late.
        self._mean_s: dict[str, float] = {}
        self._begun = 0
        self._room = FEW
        #: Held to resume a run or to give it up.
        self._lock = threading.Lock()
        self._watchman: threading.Thread | None = None

    def takes(self, claim: Claim) -> bool:
        """Is it a run that may be parked?"""
        may_be_parked = self._may_be_parked.get(claim.name)
        if may_be_parked is None:
            task = self._site.app.tasks.get(claim.name)
            may_be_parked = self._may_be_parked[claim.name] = task is not None and _may_be_parked(task)
        return may_be_parked and claim.fate == "live" and not claim.losses

    def run(self, number: int, claim: Claim, most: int | None) -> tuple[int, Taken | None]:
        """Run it to its end, and others with it, up to `most`.

        Gives how many there were, and what was taken from the line meanwhile and is yet to be run.
        """
        self._begun = 0
        most = min(most or MOST_IN_A_ROW, MOST_IN_A_ROW)
        self._begin(number, claim)
        left: Taken | None = None
        while self._strands:
            while left is None and self._has_room(most) and (left := self._next()):
                if self.takes(left[1]) and self._is_short(left[1]):
                    self._begin(*left)
                    left = None
            self._record()
        return self._begun, left

    def _has_room(self, most: int) -> bool:
        strands = self._strands.values()
        return len(strands) < self._room and self._begun < most and all(self._is_short(each.claim) for each in strands)

    def _is_short(self, claim: Claim) -> bool:
        return self._mean_s.get(claim.name, SHORT_S) < SHORT_S

    def _next(self) -> Taken | None:
        try:
            return self._line.take(wait=False)
        except BlockingIOError:
            return None

    # -- strands

    def _begin(self, number: int, claim: Claim) -> None:
        self._begun += 1
        if len(self._strands) == 1 and self._watchman is None:
            self._watchman = threading.Thread(target=self._watch, name="weave-watch", daemon=True)
            self._watchman.start()
        runner = greenlet(self._live, self._hub)
        runner.gr_context = copy_context()
        self._strands[runner] = strand = _Strand(number, claim)
        self._limits.number = number
        self._resume(runner, strand)

    def _live(self, strand: _Strand) -> None:
        outcome = execute(self._site, strand.claim)
        del self._strands[getcurrent()]
        if not strand.is_given_up:
            worked_s = strand.worked_s + time.monotonic() - strand.resumed_at
            self._line.report(Ended(strand.number, outcome, worked_s))

    def _resume(self, runner: greenlet, strand: _Strand) -> float:
        """Let a run go on until it records a step or ends; gives for how long it worked."""
        before = resource.getrusage(_THREAD)
        strand.resumed_at = time.monotonic()
        with self._lock:
            self._working = strand
        runner.switch(strand)
        with self._lock:
            self._working = None
        took_s = time.monotonic() - strand.resumed_at
        after = resource.getrusage(_THREAD)
        if after.ru_nvcsw == before.ru_nvcsw:
            # It waited for nothing: what is not CPU time of its own was taken by other programs, and says nothing of it.
            took_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        strand.worked_s += took_s
        mean_s = self._mean_s.get(strand.claim.name, took_s)
        self._mean_s[strand.claim.name] = mean_s + (took_s - mean_s) * 0.1
        return took_s

    # -- steps

    def record(self, asked: Record) -> Answer:
        """Ask the database for the run that calls this, together with others."""
        strand = self._strands.get(getcurrent())
        if strand is None or self._limits.is_counting:
            # Not one that may be parked here: in another thread of a run, or with a time limit.
            return ask(self._site.app.database, asked)
        strand.record = asked
        self._hub.switch()
        if strand.is_given_up:
            raise RunLost(f"Run {strand.claim.public_id} was parked for too long and left to another worker")
        if isinstance(strand.answer, BaseException):
            raise strand.answer
        return strand.answer

    def _record(self) -> None:
        """Record the steps of all that are parked, and let each go on."""
        parked = list(self._strands.items())
        began_at = time.monotonic()
        self._send([strand for _, strand in parked])
        sent_s = time.monotonic() - began_at
        worked_s = sum(self._resume(runner, strand) for runner, strand in parked)
        self._room = max(FEW, min(MOST, int(sent_s * len(parked) / max(worked_s, 1e-6))))

    def _send(self, strands: list[_Strand]) -> None:
        parked = [(strand, strand.record) for strand in strands if strand.record is not None]
        if parked:
            answers = record_together(self._site.app.database, [record for _, record in parked])
            for (strand, _), answer in zip(parked, answers, strict=True):
                strand.record, strand.answer = None, answer

    # -- what is parked for too long

    def _watch(self) -> None:
        while True:
            time.sleep(LONG_S / 2)
            with self._lock:
                working = self._working
                if working is None or time.monotonic() - working.resumed_at < LONG_S:
                    continue
                held_up = [each for each in list(self._strands.values()) if each is not working and not each.is_given_up]
                for strand in held_up:
                    strand.is_given_up = True
            self._give_up(held_up)

    def _give_up(self, strands: list[_Strand]) -> None:
        """Return runs to the queue, with what they have done; nobody is charged for it."""
        self._send(strands)
        for strand in strands:
            claim = strand.claim
            back = Outcome(
                id=claim.id, delivery=claim.delivery, kind="back", retries=claim.retries, losses=claim.losses
            )
            self._line.report(Ended(strand.number, back, strand.worked_s))


def _may_be_parked(task: Any) -> bool:
    return bool(
        task.remembers and not task.is_coroutine and task.acks_late is not False and task.reject_on_worker_lost is not False
    )
