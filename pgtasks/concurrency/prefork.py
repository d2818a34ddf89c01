"""The prefork pool: many children with one slot each. The default.

A child runs one task at a time in its main thread. The soft time limit is an alarm there; the hard one is the
parent's business. TERM is raised in the task, so that its `finally` blocks run before it ends the process. After a
number of tasks, or above a peak of memory, a child leaves and is replaced.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from pgtasks import _state
from pgtasks.concurrency.base import ChildOptions
from pgtasks.concurrency.line import Begun, Ended, Leaving, Line, Passed
from pgtasks.exceptions import SoftTimeLimitExceeded
from pgtasks.execution import Limits, Site, execute
from pgtasks.execution.passing import Links
from pgtasks.message import Claim

try:
    from pgtasks.concurrency.weaving import Weaver
except ImportError:  # without greenlet there is one run at a time
    Weaver = None  # type: ignore[assignment, misc]

is_signal_safe = True


class AlarmLimits(Limits):
    """Time limits of a task in the main thread: an alarm for the soft one, a word to the parent for the hard one."""

    def __init__(self, report: Callable[[Begun], None]) -> None:
        self._report = report
        self._is_armed = self._is_late = False
        #: Of the claim that runs.
        self.number = 0
        #: The exit status that the task's own code has asked for.
        self.status: int | None = None

    def arm(self, hard_s: float | None, soft_s: float | None) -> None:
        self.is_counting = True
        if hard_s:
            self._report(Begun(self.number, hard_s))
        if soft_s:
            signal.signal(signal.SIGALRM, self._raise_soft)
            self._is_armed, self._is_late = True, False
            signal.setitimer(signal.ITIMER_REAL, soft_s)

    def disarm(self) -> bool:
        self.is_counting = False
        if not self._is_armed:
            return False
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._is_armed = False
        return self._is_late

    def _raise_soft(self, signum: int, frame: Any) -> None:
        self._is_late = True
        _raise_soft(signum, frame)

    def leave(self, status: int) -> None:
        self.status = status

    def heed_term(self) -> None:
        """From now on TERM is raised as `SystemExit`, as in Celery's children; a second one ends the process at once."""
        self.fate = None
        signal.signal(signal.SIGTERM, self._raise_exit)

    def _raise_exit(self, signum: int, frame: Any) -> None:
        signal.signal(signum, signal.SIG_DFL)
        self.fate = "terminated"
        raise SystemExit(signum - 256)


def _raise_soft(signum: int, frame: Any) -> None:
    raise SoftTimeLimitExceeded()


def serve(line: Line, site: Site, options: ChildOptions) -> int:
    """Run claims one after the other until the line closes, it is time to leave, or TERM comes."""
    # Celery's soft time limit signal; also sent by revoke(terminate=True, signal="SIGUSR1").
    signal.signal(signal.SIGUSR1, _raise_soft)
    limits = AlarmLimits(line.report)
    limits.heed_term()
    try:
        return _serve(line, site, options, limits)
    except SystemExit:
        if limits.fate is None:
            raise
        # What was to be cleaned up is: die of the signal, so that the parent sees what it was.
        sys.stdout.flush()
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGTERM)
        raise


def _serve(line: Line, site: Site, options: ChildOptions, limits: AlarmLimits) -> int:
    # run() makes the app of the parent this process' own.
    site.app.set_current()
    _state.set_default_app(site.app)
    site = site.opened(limits)
    weaver = Weaver(line, site, limits) if Weaver is not None else None
    links = Links(site)
    done = 0
    left: tuple[int, Any] | None = None
    while (taken := left or line.take()) is not None:
        number, claim = taken
        if weaver is not None and weaver.takes(claim):
            ran, left = weaver.run(number, claim, options.max_tasks and options.max_tasks - done)
            done += ran
        else:
            left, limits.number = None, number
            began_at = time.monotonic()
            outcome = execute(site, claim)
            ended = Ended(number, outcome, time.monotonic() - began_at)
            done += 1
            if options.may_pass_on and _goes_on(line, limits, done, options):
                report, left = _passed_on(links, claim, ended, -done)
                line.report(report)
            else:
                line.report(ended)
        if limits.fate is not None:
            limits.heed_term()  # the task has caught what was to end it
        if left is not None:
            continue
        if limits.status is not None:
            line.report(Leaving(f"its task ended it with status {limits.status}"))
            return limits.status
        if reason := _reason_to_leave(done, options):
            line.report(Leaving(reason))
            break
    return 0


def _goes_on(line: Line, limits: AlarmLimits, done: int, options: ChildOptions) -> bool:
    """Would it wait now for something to do?"""
    return limits.fate is None and limits.status is None and not _reason_to_leave(done, options) and not line.has_ticket()


def _passed_on(
    links: Links, claim: Claim, ended: Ended, as_number: int
) -> tuple[Ended | Passed, tuple[int, Claim] | None]:
    """Settle a link of a chain; gives what is to be reported, and what to go on with, if that is how it went."""
    passed = links.pass_on(claim, ended.outcome)
    if passed is None:
        return ended, None
    following = passed.claim
    if following is None or not links.can_be_kept(following):
        return Passed(ended.number, ended.outcome, ended.ran_s, following, 0), None
    return Passed(ended.number, ended.outcome, ended.ran_s, following, as_number), (as_number, following)


def _reason_to_leave(done: int, options: ChildOptions) -> str | None:
    if options.max_tasks and done >= options.max_tasks:
        return f"it has run {done} tasks"
    if options.max_memory_kib:
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if sys.platform == "darwin":
            peak_kib //= 1024
        if peak_kib > options.max_memory_kib:
            return f"its memory reached {peak_kib} KiB"
    return None
