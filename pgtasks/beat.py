"""Periodic tasks: entries, and a scheduler that sends those that are due.

    scheduler = Scheduler(app)      the entries of `beat_schedule`
    while True: sleep(scheduler.tick())

The methods are Celery's contract for subclasses, which read entries from elsewhere (`setup_schedule`, `schedule`,
`sync`) or send them in another way (`apply_entry`, `apply_async`, `send_task`). This one keeps what it knows in memory:
after a restart, intervals count anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Self

from kombu.utils.functional import reprcall

from pgtasks.schedules import maybe_schedule
from pgtasks.utils.log import get_logger

__all__ = ("BeatLazyFunc", "ScheduleEntry", "Scheduler", "SchedulingError")

logger = get_logger("celery.beat")

#: Most seconds between two looks at the schedule.
DEFAULT_MAX_INTERVAL = 300


class SchedulingError(Exception):
    """A periodic task could not be sent."""


class BeatLazyFunc:
    """An argument of an entry that is made anew, by calling a function, whenever the entry is sent."""

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

    def __next__(self) -> Self:
        """The entry as it is once it has been sent now."""
        return self._next_instance()

    def _next_instance(self, last_run_at: datetime | None = None) -> Self:
        sent = {"last_run_at": last_run_at or self.default_now(), "total_run_count": self.total_run_count + 1}
        return type(self)(**{**dict(self), **sent})

    next = __next__

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

    __hash__ = None  # type: ignore[assignment]  # an entry changes

    def __reduce__(self) -> Any:
        fields = (self.name, self.task, self.last_run_at, self.total_run_count, self.schedule)
        return type(self), (*fields, self.args, self.kwargs, self.options)

    def __repr__(self) -> str:
        call = reprcall(self.task or "", self.args or (), self.kwargs or {})
        return f"<{type(self).__name__}: {self.name} {call} {self.schedule}>"


class Scheduler:
    """Sends the entries of `schedule` when they are due."""

    Entry: Any = ScheduleEntry

    max_interval: float = DEFAULT_MAX_INTERVAL
    #: How many seconds, and how many tasks, may pass without a call of `sync`.
    sync_every = 3 * 60
    sync_every_tasks: int | None = None

    _last_sync: float | None = None
    _tasks_since_sync = 0

    logger = logger

    def __init__(
        self,
        app: Any,
        schedule: Any = None,
        max_interval: float | None = None,
        Producer: Any = None,
        lazy: bool = False,
        sync_every_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        self.data: Any = schedule if schedule is not None else {}
        self.max_interval = max_interval or app.conf.beat_max_loop_interval or self.max_interval
        self.sync_every_tasks = app.conf.beat_sync_every if sync_every_tasks is None else sync_every_tasks
        if not lazy:
            self.setup_schedule()

    # -- which entries there are

    def get_schedule(self) -> Any:
        return self.data

    def set_schedule(self, schedule: Any) -> None:
        self.data = schedule

    schedule = property(get_schedule, set_schedule)

    def setup_schedule(self) -> None:
        """Read the entries; called once, at the start."""
        self.install_default_entries(self.data)
        self.merge_inplace(self.app.conf.beat_schedule)

    def install_default_entries(self, data: Any) -> None:
        """Add what Celery adds: nothing, since workers remove old results."""

    def merge_inplace(self, entries: Mapping[str, Any]) -> None:
        """Make these the entries; those that are there already remember when they were sent."""
        schedule = self.schedule
        for name in set(schedule) ^ set(entries):
            schedule.pop(name, None)
        for name, fields in entries.items():
            entry = self.Entry(**{**dict(fields), "name": name, "app": self.app})
            if schedule.get(name):
                schedule[name].update(entry)
            else:
                schedule[name] = entry

    def update_from_dict(self, entries: Mapping[str, Any]) -> None:
        """Add entries, or replace those of the same names."""
        self.schedule.update({name: self._maybe_entry(name, entry) for name, entry in entries.items()})

    def add(self, **fields: Any) -> Any:
        """Add one entry; returns it."""
        entry = self.Entry(app=self.app, **fields)
        self.schedule[entry.name] = entry
        return entry

    def _maybe_entry(self, name: str, entry: Any) -> Any:
        if isinstance(entry, self.Entry):
            entry.app = self.app
            return entry
        return self.Entry(**{**dict(entry), "name": name, "app": self.app})

    # -- sending

    def tick(self) -> float:
        """Send all entries that are due; gives the seconds until the next look."""
        delay_s: float = self.max_interval
        for entry in list(self.schedule.values()):
            try:
                is_due, next_s = self.is_due(entry)
            except Exception:
                # One entry whose times cannot be computed must not stop all others.
                logger.exception("Cannot compute when %r is due; asking again in %s s.", entry.name, self.max_interval)
                continue
            if is_due:
                self.reserve(entry)
                self.apply_entry(entry)
            delay_s = min(delay_s, next_s if next_s is not None else delay_s)
        return delay_s

    def is_due(self, entry: Any) -> Any:
        return entry.is_due()

    def reserve(self, entry: Any) -> Any:
        """Note that an entry is sent now."""
        reserved = self.schedule[entry.name] = next(entry)
        return reserved

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send an entry; an error is logged, and its next time comes all the same."""
        logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        try:
            result = self.apply_async(entry, producer=producer, advance=False)
        except Exception as exc:
            logger.error("Message Error: %s", exc, exc_info=True)
        else:
            logger.debug("%s sent. id->%s", entry.task, getattr(result, "id", None))

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Send an entry and return its result; raises `SchedulingError`."""
        entry = self.reserve(entry) if advance else entry
        task = self.app.tasks.get(entry.task)
        try:
            args = [_evaluated(value) for value in entry.args or ()]
            kwargs = {name: _evaluated(value) for name, value in (entry.kwargs or {}).items()}
            options = {**entry.options, "headers": {**(entry.options.get("headers") or {}), "celery_beat_task": True}}
            if task:
                return task.apply_async(args, kwargs, producer=producer, **options)
            return self.send_task(entry.task, args, kwargs, producer=producer, **options)
        except Exception as exc:
            raise SchedulingError(f"Couldn't apply scheduled task {entry.name}: {exc}") from exc
        finally:
            self._tasks_since_sync += 1
            if self.should_sync():
                self._do_sync()

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        return self.app.send_task(*args, **kwargs)

    # -- keeping what is known

    def should_sync(self) -> bool:
        is_old = self._last_sync is None or time.monotonic() - self._last_sync > self.sync_every
        return is_old or bool(self.sync_every_tasks and self._tasks_since_sync >= self.sync_every_tasks)

    def _do_sync(self) -> None:
        try:
            self.sync()
        finally:
            self._last_sync = time.monotonic()
            self._tasks_since_sync = 0

    def sync(self) -> None:
        """Write down what must outlive this process; a hook for subclasses."""

    def close(self) -> None:
        """Called at the end."""
        self.sync()

    @property
    def info(self) -> str:
        """A line for the banner; a hook for subclasses."""
        return ""


def _evaluated(value: Any) -> Any:
    return value() if isinstance(value, BeatLazyFunc) else value
