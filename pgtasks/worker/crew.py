"""The children of a worker: which claims each one runs, time limits, deaths and replacements.

    accept(claims) -> backlog -> dispatch -> child -> outcomes
                         ^                     |
                         +---- taken back <----+   from a child busy for long, dying or leaving

The crew decides from what it is told and from the clock; it never touches the database. What has happened to claims
comes out as outcomes to settle, or as claims with a fate ("timeout:10", "lost"), which a child then ends with all that
belongs to it: errbacks and signals are user code, which this process does not run.

A task that was lost before is a suspect: it begins in a free slot, charged beforehand, never queued behind another one
(docs/decisions/0002-charging.md).
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice, takewhile
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

from pgtasks import signals
from pgtasks.concurrency.base import Child, ChildOptions, Job, Serve
from pgtasks.concurrency.line import Ended, Leaving, Passed
from pgtasks.concurrency.solo import SoloChild
from pgtasks.execution import give_up
from pgtasks.message import Claim, Outcome
from pgtasks.platforms import signal_number
from pgtasks.utils.log import get_logger
from pgtasks.worker.losses import after_timeout, delivered_again, fate_after_death, returned

process_logger = get_logger("celery.concurrency")

#: How much work, in seconds, a slot should have before it: enough to cover a round trip to the database.
AHEAD_S = 0.05
#: Most claims that one slot has before it.
MOST_AHEAD = 512
#: How much the mean time of a task remembers of what it was before the last one.
REMEMBERED = 0.95
#: So many claims before each slot keep a child busy while nobody listens to it.
DEEP = 8
#: A task that runs longer gives back what waits behind it.
LONG_S = 0.02
#: So long a task that is ended by TERM may take over its `finally` blocks before its process is killed.
GRACE_S = 5.0
#: What is known of a child that is not being killed.
_NOBODY: tuple[UUID | None, str | None] = (None, None)
#: Seconds after which claims that no slot is free for go back to the queue.
SURPLUS_S = 1.0


class CrewOptions(NamedTuple):
    """What a crew is made of."""

    #: The body of a child; None for the pool that runs tasks in this process.
    serve: Serve | None
    children: int
    child: ChildOptions
    max_deliveries: int


class Crew:
    """Children, the claims they were sent, and those still waiting for a free slot."""

    def __init__(
        self,
        site: Any,
        options: CrewOptions,
        *,
        is_at_most_once: Callable[[Claim], bool],
        private_descriptors: Callable[[], Iterable[int]],
    ) -> None:
        self.site = site
        self.options = options
        self.children: list[Any] = []  # Child, or SoloChild
        self.backlog: deque[Claim] = deque()
        self._outcomes: list[Outcome] = []
        self._passed: list[Passed] = []
        #: A child has gone, and may have taken a link of a chain of which it could not tell any more.
        self.is_unsure = False
        self._is_at_most_once = is_at_most_once
        self._private_descriptors = private_descriptors
        self._mean_s: float | None = None
        self._surplus_since: float | None = None
        #: Tasks wait that were lost before: they begin before any other.
        self.has_suspects = False
        self._is_dismissed = False
        #: Children that are being killed on purpose: because of which claim, and what becomes of that.
        self._condemned: dict[int, tuple[UUID, str]] = {}
        self.ended = 0

    # -- size

    @property
    def slots(self) -> int:
        return self.options.children * self.options.child.slots

    def muster(self) -> None:
        """Start the children that are missing."""
        while not self._is_dismissed and len(self.children) < self.options.children:
            self.children.append(self._start_child())

    def _start_child(self) -> Any:
        serve, options = self.options.serve, self.options.child
        if serve is None:
            return SoloChild(self.site, options, lambda ended: self._hear_ended([ended]))
        signals.worker_before_create_process.send(sender=self)
        index = next(index for index in count() if index not in {child.index for child in self.children})
        return Child(serve, self.site, options, self._close_private_descriptors, index=index)

    def _close_private_descriptors(self) -> None:
        """In a new child: let go of what is this process' own."""
        others = [descriptor for child in self.children for descriptor in child.descriptors()]
        for descriptor in (*self._private_descriptors(), *others):
            if descriptor >= 0:
                os.close(descriptor)

    # -- work

    def in_hand(self) -> list[Claim]:
        """Every claim this worker holds and has not settled."""
        running = [job.claim for child in self.children for job in child.jobs.values()]
        return [*self.backlog, *running]

    def busy(self) -> int:
        return len(self.backlog) + sum(len(child.jobs) for child in self.children)

    def room(self) -> int:
        """How many more claims can be put to use soon; behind long tasks none, so that what is urgent is not behind others."""
        if self.slots and len(self.children) == self.options.children and all(map(self._is_stuck, self.children)):
            return 0
        return max(0, self.slots * self._ahead() - self.busy())

    def is_starving(self) -> bool:
        """True when a slot has nothing to run."""
        return not self.backlog and any(
            len(child.jobs) < child.options.slots for child in self.children if not child.is_leaving
        )

    def spare_s(self) -> float:
        """For how long no child needs anything; 0 unless all of them have many short tasks before them."""
        if self.backlog or not self._mean_s or not self.children:
            return 0.0
        least: int = min(len(child.jobs) // child.options.slots for child in self.children)
        if least < DEEP or any(child.wants_to_write for child in self.children):
            return 0.0
        return least * self._mean_s / 2

    def _ahead(self) -> int:
        if not self._mean_s:
            return 1 if self._mean_s is None else MOST_AHEAD
        return max(1, min(MOST_AHEAD, int(AHEAD_S / self._mean_s)))

    def accept(self, claims: Sequence[Claim]) -> None:
        """Take claims to run, behind those that wait already."""
        self.has_suspects = self.has_suspects or any(map(_is_suspect, claims))
        self.backlog.extend(claims)
        self.dispatch()

    def suspects(self) -> list[Claim]:
        """The suspects that a slot is free for; the caller charges them, then lets them `begin`."""
        self._put_suspects_first()
        free = sum(child.options.slots - len(child.jobs) for child in self._with_free_slots())
        return list(takewhile(_is_suspect, islice(self.backlog, free)))

    def _put_suspects_first(self) -> None:
        self.backlog = deque(sorted(self.backlog, key=lambda claim: not _is_suspect(claim)))
        self.has_suspects = bool(self.backlog) and _is_suspect(self.backlog[0])

    def begin(self, suspects: Sequence[Claim], allowed: Collection[UUID]) -> None:
        """Start suspects that have been charged, but for those that are no longer this worker's."""
        for suspect in suspects:
            self.backlog.remove(suspect)
            if suspect.id in allowed:
                min(self._with_free_slots(), key=lambda child: len(child.jobs)).send([suspect])
        self._put_suspects_first()
        self.dispatch()

    def _with_free_slots(self) -> list[Any]:
        return [child for child in self.children if not child.is_leaving and len(child.jobs) < child.options.slots]

    def dispatch(self) -> None:
        """Deal the backlog to the children, first to those that have least to do, in turns: the urgent run first."""
        if self.has_suspects or not self.backlog:
            return
        ahead = self._ahead()
        hands: list[tuple[Any, int, list[Claim]]] = []
        for child in sorted(self.children, key=lambda child: len(child.jobs)):
            free = child.options.slots * ahead - len(child.jobs)
            if free > 0 and not child.is_leaving and not self._is_stuck(child):
                hands.append((child, free, []))
        while self.backlog and hands:
            for _, _, hand in hands:
                if self.backlog:
                    hand.append(self.backlog.popleft())
            for child, free, hand in hands:
                if hand and (len(hand) >= free or not self.backlog):
                    child.send(hand)
            hands = [each for each in hands if len(each[2]) < each[1]]

    def _is_stuck(self, child: Child) -> bool:
        """True when every slot of a child is in a task that has been running for long."""
        if len(child.jobs) < child.options.slots:
            return False
        since = max(child.last_ended_at, min(job.sent_at for job in child.jobs.values()))
        return time.monotonic() - since > LONG_S

    def rebalance(self) -> None:
        """Take back what waits behind long tasks, for a free slot to run."""
        stuck = [c for c in self.children if len(c.jobs) > c.options.slots and self._is_stuck(c)]
        if back := [claim for child in stuck for claim in child.take_back()]:
            self.backlog = deque(sorted([*back, *self.backlog], key=attrgetter("rank", "seq")))
        self.dispatch()

    def give_back_surplus(self) -> None:
        """Return what no slot has been free for in a while: another worker may have one."""
        now = time.monotonic()
        if not self.backlog:
            self._surplus_since = None
        elif self._surplus_since is None:
            self._surplus_since = now
        elif now - self._surplus_since > SURPLUS_S:
            self.return_backlog()

    def return_backlog(self) -> None:
        """Return everything that waits for a slot to the queue, uncharged."""
        self._outcomes.extend(returned(claim) for claim in self.backlog)
        self.backlog.clear()
        self._surplus_since = None

    # -- what the children say

    def catch_up(self) -> None:
        """Listen to all children: a round trip to the database is long enough for many short tasks to end."""
        for child in [child for child in self.children if child.jobs]:
            self.listen(child)

    def listen(self, child: Child) -> None:
        """Process what a child reports, including its death."""
        reports = child.receive()
        if reports is None:
            self._bury(child)
            return
        if ended := [report for report in reports if isinstance(report, Ended)]:
            # A task may live through the signal that was to end it; its child is as good as any other then.
            if any(self._condemned.get(child.pid, _NOBODY)[0] == report.outcome.id for report in ended):
                del self._condemned[child.pid]
            self._hear_ended(ended)
        if passed := [report for report in reports if isinstance(report, Passed)]:
            self._passed += passed
            self._note_times(passed)
        for report in reports:
            if isinstance(report, Leaving):
                self.backlog.extendleft(reversed(child.take_back()))
                # Slots that wait for a ticket learn only from this that there will be none.
                child.dismiss()
                process_logger.info("Child process %s leaves: %s", child.pid, report.reason)
        if self.backlog:
            self.dispatch()

    def _hear_ended(self, reports: Sequence[Ended]) -> None:
        self._outcomes += [report.outcome for report in reports if report.outcome.kind != "gone"]
        self._note_times(reports)

    def _note_times(self, reports: Sequence[Ended] | Sequence[Passed]) -> None:
        count = len(reports)
        self.ended += count
        # Of those heard of together the mean counts: one that was interrupted among many short ones says little.
        mean_s = sum(report.ran_s for report in reports) / count
        self._mean_s = mean_s if self._mean_s is None else mean_s + REMEMBERED**count * (self._mean_s - mean_s)

    def take_outcomes(self) -> list[Outcome]:
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def take_passed(self) -> list[Passed]:
        """What children have settled by themselves, and gone on from."""
        passed, self._passed = self._passed, []
        return passed

    def put_back(self, outcomes: Iterable[Outcome]) -> None:
        """Keep outcomes that could not be settled, for another try."""
        self._outcomes[:0] = outcomes

    @property
    def has_outcomes(self) -> int:
        """How many outcomes wait to be settled."""
        return len(self._outcomes)

    def is_crowded(self) -> bool:
        """True when claims wait behind something, so that it is worth looking again soon."""
        return bool(self.backlog) or any(len(child.jobs) > child.options.slots for child in self.children)

    def disclaim(self, ids: Collection[UUID]) -> None:
        """Drop claims that are not this worker's any more; those that run go on, and their outcomes are ignored."""
        self.backlog = deque(claim for claim in self.backlog if claim.id not in ids)
        for child in self.children:
            for job in child.jobs.values():
                job.is_void = job.is_void or job.claim.id in ids

    def hold(self) -> None:
        """Start nothing more: what was sent and not begun comes back to wait here."""
        for child in self.children:
            self.backlog.extendleft(reversed(child.take_back()))

    def _bury(self, child: Child) -> None:
        """A child has gone: keep what it had not begun, and decide what becomes of what it was running."""
        self.children.remove(child)
        self.backlog.extendleft(reversed(child.take_back()))
        self.is_unsure = self.is_unsure or bool(child.jobs)
        status = child.bury()
        guilty, verdict = self._condemned.pop(child.pid, _NOBODY)
        for job in list(child.jobs.values()):
            if guilty is not None and guilty != job.claim.id:
                # A run that was parked beside the one which the child was killed for.
                self._outcomes.append(returned(job.claim))
            else:
                self._mourn(job, child, status, verdict)
        self.muster()
        self.dispatch()

    def _mourn(self, job: Job, child: Child, status: int, verdict: str | None) -> None:
        claim = job.claim
        if claim.fate != "live":
            # Even ending it killed a child: an errback or a signal's receiver did. What is left is to do without them.
            self._outcomes.append(
                give_up(self.site, claim, f"The process that was to end the task died too ({claim.fate})")
            )
        elif verdict is not None and (verdict.startswith("terminated") or job.kill_at is not None):
            is_late, most = verdict.startswith("timeout"), self.options.max_deliveries
            if is_late and (again := after_timeout(self.site.app, claim, job.limit_s, most)) is not None:
                self._outcomes.append(again)
            else:
                self.backlog.appendleft(claim._replace(fate=verdict))
        else:
            self._lose(claim, child, status)

    def _lose(self, claim: Claim, child: Child, status: int) -> None:
        task = self.site.app.tasks.get(claim.name)
        fate = fate_after_death(
            claim, task, child.pid, status,
            is_at_most_once=self._is_at_most_once(claim), max_deliveries=self.options.max_deliveries,
        )  # fmt: skip
        if fate is None:
            self._outcomes.append(delivered_again(claim))
        else:
            self.backlog.appendleft(claim._replace(fate=fate))

    # -- time and force

    def next_deadline(self) -> float | None:
        """When, by the monotonic clock, the next hard time limit is up."""
        return min((job.kill_at for child in self.children for job in child.jobs.values() if job.kill_at), default=None)

    def enforce_time_limits(self) -> None:
        """Kill children whose task is past its hard time limit, or has not ended when it was told to."""
        now = time.monotonic()
        for child in self.children:
            for job in child.jobs.values():
                if job.kill_at is None or job.kill_at > now:
                    continue
                if child.pid in self._condemned:
                    child.kill()
                else:
                    self.condemn(child, job.claim, f"timeout:{job.limit_s!r}")

    def condemn(self, child: Child, claim: Claim, verdict: str, signum: int = signal.SIGKILL) -> None:
        """Kill a child on purpose, because of a task that it runs, which gets this fate."""
        self._condemned[child.pid] = claim.id, verdict
        child.kill(signum)

    def revoke(self, claim_id: Any, signal_name: str) -> None:
        """Drop a revoked claim if no slot has started it; kill the one that runs it if a signal is named."""
        for claim in self.backlog:
            if claim.id == claim_id and claim.fate == "live":
                self.backlog.remove(claim)
                self.backlog.appendleft(claim._replace(fate="revoked"))
                self.dispatch()
                return
        for child in self.children:
            job = next((job for job in child.jobs.values() if job.claim.id == claim_id), None)
            if job is None or job.claim.fate != "live":
                continue
            taken_back = child.take_back()
            if any(claim.id == claim_id for claim in taken_back):
                taken_back = [c._replace(fate="revoked") if c.id == claim_id else c for c in taken_back]
            elif signal_name and child.options.can_stop:
                child.stop(claim_id, f"terminated:{signal_name}")
            elif signal_name and child.options.slots == 1 and child.pid not in self._condemned:
                signum = signal_number(signal_name)
                self.condemn(child, job.claim, f"terminated:{signal_name}", signum)
                if signum == signal.SIGTERM:
                    limit = time.monotonic() + GRACE_S
                    job.kill_at = limit if job.kill_at is None else min(job.kill_at, limit)
            self.backlog.extendleft(reversed(taken_back))
            self.dispatch()
            return

    # -- what others ask

    def whereabouts(self) -> Iterator[tuple[Claim, int | None, float | None]]:
        """Every unsettled claim, the process it was sent to, and since when it runs by the monotonic clock."""
        for child in self.children:
            begun = child.begun()
            for job in list(child.jobs.values()):
                since = max(job.sent_at, child.last_ended_at) if child.options.slots == 1 else job.sent_at
                yield job.claim, child.pid, since if job in begun else None
        for claim in list(self.backlog):
            yield claim, None, None

    def resize(self, children: int) -> None:
        """Have this many children from now on; those that are too many leave when they have ended their task."""
        self.options = self.options._replace(children=max(0, children))
        staying = [child for child in self.children if not child.is_leaving]
        for child in sorted(staying, key=lambda child: len(child.jobs))[: max(0, len(staying) - self.options.children)]:
            self._let_go(child)
        self.muster()
        self.dispatch()

    def resize_slots(self, slots: int) -> None:
        """Let each child run so many tasks at a time from now on, of those that can; what is running ends."""
        self.options = self.options._replace(child=replace(self.options.child, slots=max(1, slots)))
        for child in self.children:
            child.resize(self.options.child.slots)
        self.dispatch()

    def renew(self) -> None:
        """Replace every child by one that is forked now, when it has ended its task."""
        for child in self.children if self.options.serve is not None else ():
            self._let_go(child)
        self.dispatch()

    def _let_go(self, child: Child) -> None:
        self.backlog.extendleft(reversed(child.take_back()))
        child.is_leaving = True
        child.dismiss()

    # -- the end

    def recall(self) -> None:
        """Take back all that has not been started and return it to the queue."""
        self.hold()
        self.return_backlog()

    def dismiss(self) -> None:
        """Let every child go when it has ended its task; none is replaced."""
        self._is_dismissed = True
        for child in self.children:
            child.dismiss()

    def end(self, is_urgent: Callable[[], bool]) -> list[Job]:
        """Have every child end what it runs, and kill those that do not in time, or when it is urgent; gives what they ran."""
        self._is_dismissed = True
        self.hold()
        for child in self.children:
            child.kill(signal.SIGTERM)
        limit = time.monotonic() + GRACE_S
        while not all(child.has_ended() for child in self.children):
            if time.monotonic() >= limit or is_urgent():
                break
            time.sleep(0.01)
        return self.kill()

    def kill(self) -> list[Job]:
        """Kill every child at once; gives what they were running."""
        self._is_dismissed = True
        self.hold()
        for child in self.children:
            child.kill()
        for child in self.children:
            # What had ended before shall not be run again.
            if ended := [report for report in child.last_words() if isinstance(report, Ended)]:
                self._hear_ended(ended)
        jobs = [job for child in self.children for job in child.jobs.values()]
        for child in self.children:
            child.bury()
        self.children.clear()
        return jobs


def _is_suspect(claim: Claim) -> bool:
    """Was this task, which is to run, lost with a worker or a child before? It may be what killed them."""
    return claim.losses > 0 and claim.fate == "live"
