"""Where tasks run: the app, the worker that claimed them, and how time limits are kept there."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

from pgtasks.serialization import accepted
from pgtasks.store.workflows import Recorder

__all__ = ("Limits", "Rules", "Site", "accepted_content")


class Limits:
    """How a pool enforces the time limits of a running task; this base class enforces none."""

    #: A time limit of the running task is being counted.
    is_counting = False
    #: What is to become of the task, if it was stopped from outside without the death of its process.
    fate: str | None = None

    def arm(self, hard_s: float | None, soft_s: float | None) -> None:
        """The task begins: count from now."""

    def disarm(self) -> bool:
        """The task's own code is over: nothing may be raised any more. Tells, once, whether the soft limit was raised."""
        return False

    def leave(self, status: int) -> None:
        """The task's own code has asked its process to end. One that others run in as well does not."""

    def translate(self) -> Exception | None:
        """The exception that a cancellation of the running coroutine stands for, if it was a limit's."""
        return None


class Rules(NamedTuple):
    """What the settings say of every task."""

    #: Content types that messages may have.
    accept: frozenset[str] | None
    #: Time limits in seconds, where neither the call nor the task has any.
    hard_s: float | None
    soft_s: float | None

    @classmethod
    def of(cls, conf: Any) -> Rules:
        return cls(accepted_content(conf), conf.task_time_limit, conf.task_soft_time_limit)


class Site(NamedTuple):
    """Where tasks are run: the app, the worker that claimed them, and how time limits are kept there."""

    app: Any
    worker: UUID
    hostname: str
    limits: Limits = Limits()
    settled_rules: Rules | None = None
    #: By what the steps of this process' runs share commits, where several are under way.
    recorder: Recorder | None = None

    def opened(self, limits: Limits, recorder: Recorder | None = None) -> Site:
        """The site in the process that runs tasks; it keeps to the settings of this moment, as Celery's workers do."""
        return self._replace(limits=limits, settled_rules=Rules.of(self.app.conf), recorder=recorder)

    @property
    def rules(self) -> Rules:
        return self.settled_rules or Rules.of(self.app.conf)


def accepted_content(conf: Any) -> frozenset[str] | None:
    """The content types that messages may have here."""
    names = conf.accept_content
    known = _accepted_by_names.get(id(names))
    if known is None or known[0] is not names:
        known = _accepted_by_names[id(names)] = (names, accepted(names))
    return known[1]


_accepted_by_names: dict[int, tuple[Any, frozenset[str] | None]] = {}
