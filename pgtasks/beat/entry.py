"""Entries: what is called periodically, when, with what, and when it was last.

They are what schedulers read, and subclass, from elsewhere; the names are Celery's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from kombu.utils.functional import reprcall

from pgtasks.schedules import maybe_schedule

__all__ = ("BeatLazyFunc", "ScheduleEntry", "SchedulingError")


class SchedulingError(Exception):
    """A periodic task could not be sent."""


class BeatLazyFunc:
    """An argument of an entry that is computed by a function whenever the entry is sent."""

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._func = func
        self._args, self._kwargs = args, kwargs

    def __call__(self) -> Any:
        return self.delay()

    def delay(self) -> Any:
        return self._func(*self._args, **self._kwargs)


class ScheduleEntry:
    """One periodic task: what to call, when, when it was last sent and how often."""

    name: Any = None
    schedule: Any = None
    args: Any = None
    kwargs: Any = None
    options: Any = None
    last_run_at: Any = None
    total_run_count: int = 0

    def __init__(
        self,
        name: str | None = None,
        task: str | None = None,
        last_run_at: datetime | None = None,
        total_run_count: int | None = None,
        schedule: Any = None,
        args: Any = (),
        kwargs: Any = None,
        options: Any = None,
        relative: bool = False,
        app: Any = None,
    ) -> None:
        self.app = app
        self.name = name
        self.task = task
        self.args = args
        self.kwargs = kwargs or {}
        self.options = options or {}
        self.schedule = maybe_schedule(schedule, relative, app=app)
        self.last_run_at = last_run_at or self.default_now()
        self.total_run_count = total_run_count or 0

    def default_now(self) -> Any:
        """Now, in the zone of the schedule."""
        return self.schedule.now() if self.schedule else self.app.now()

    _default_now = default_now

    def is_due(self) -> Any:
        """Whether it must be sent now, and in how many seconds to ask again."""
        return self.schedule.is_due(self.last_run_at)

    def __next__(self, last_run_at: datetime | None = None) -> Self:
        """The entry as it is once it has been sent, now or at another time."""
        sent = {"last_run_at": last_run_at or self.default_now(), "total_run_count": self.total_run_count + 1}
        return type(self)(**{**dict(self), **sent})

    next = _next_instance = __next__

    def update(self, other: Any) -> None:
        """Take over what to call and when; when it was last sent stays."""
        for field in ("task", "schedule", "args", "kwargs", "options"):
            setattr(self, field, getattr(other, field))

    def editable_fields_equal(self, other: Any) -> bool:
        return all(
            getattr(self, field) == getattr(other, field) for field in ("task", "args", "kwargs", "options", "schedule")
        )

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(vars(self).items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScheduleEntry) and self.editable_fields_equal(other)

    def __lt__(self, other: object) -> bool:
        """Any order will do: it decides between entries of a heap that are due at the same moment."""
        return id(self) < id(other) if isinstance(other, ScheduleEntry) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # an entry changes

    def __reduce__(self) -> Any:
        fields = (self.name, self.task, self.last_run_at, self.total_run_count, self.schedule)
        return type(self), (*fields, self.args, self.kwargs, self.options)

    def __repr__(self) -> str:
        call = reprcall(self.task or "", self.args or (), self.kwargs or {})
        return f"<{type(self).__name__}: {self.name} {call} {self.schedule}>"


def _evaluate_entry_args(args: Sequence[Any] | None) -> list[Any]:
    return [value() if isinstance(value, BeatLazyFunc) else value for value in args or ()]


def _evaluate_entry_kwargs(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value() if isinstance(value, BeatLazyFunc) else value for name, value in (kwargs or {}).items()}
