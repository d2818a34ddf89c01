"""Where tasks run: the app, the worker that claimed them, and how time limits are kept there."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

__all__ = ("Limits", "Site")


class Limits:
    """How a pool keeps the time limits of a running task; not at all, in this base class."""

    def arm(self, hard_s: float | None, soft_s: float | None) -> None:
        """The task begins: count from now."""

    def disarm(self) -> None:
        """The task's own code is over: nothing may be raised any more."""

    def translate(self) -> Exception | None:
        """The exception that a cancellation of the running coroutine stands for, if it was a limit's."""
        return None


class Site(NamedTuple):
    """Where tasks are run: the app, the worker that claimed them, and how time limits are kept there."""

    app: Any
    worker: UUID
    hostname: str
    limits: Limits = Limits()
