"""A scheduler sends the entries of its schedule when they are due.

    scheduler = Scheduler(app)      the entries of `beat_schedule`
    while True: sleep(scheduler.tick())

The methods and attributes are Celery's contract for subclasses, which read entries from elsewhere (`setup_schedule`,
`schedule`, `sync`), decide what has changed (`schedules_equal`, `_heap`), or send in another way (`apply_entry`,
`apply_async`, `send_task`). This one keeps what it knows in memory; `durable` has the one that shares it.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from copy import copy
from typing import Any, NamedTuple

from pgtasks.beat.entry import ScheduleEntry, SchedulingError, _evaluate_entry_args, _evaluate_entry_kwargs
from pgtasks.utils.log import get_logger
from pgtasks.utils.time import maybe_make_aware

__all__ = ("DEFAULT_MAX_INTERVAL", "Scheduler", "event_t")

logger = get_logger("celery.beat")

#: Most seconds between two looks at the schedule.
DEFAULT_MAX_INTERVAL = 300
#: All entries are as urgent as each other.
_PRIORITY = 5
#: An entry is looked at again a moment early: by then it is as good as due.
_EARLY_S = 0.010


class event_t(NamedTuple):
    """When to check an entry, in seconds since the epoch."""

    time: float
    priority: int
    entry: Any


class Scheduler:
    """Sends the entries of `schedule` when they are due."""

    Entry: Any = ScheduleEntry

    max_interval: float = DEFAULT_MAX_INTERVAL
    #: How many seconds, and how many tasks, may pass without a call of `sync`.
    sync_every = 3 * 60
    sync_every_tasks: int | None = None

    #: What is not used here, and passed on to what is overridden.
    producer: Any = None
    connection: Any = None

    _last_sync: float | None = None
    _tasks_since_sync = 0
    _heap: list[event_t] | None = None
    old_schedulers: Any = None

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
        self.Producer = Producer
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

    # -- what is due

    def tick(self) -> float:
        """Send the entry that is due, if one is; gives the seconds until the next look, 0 for at once."""
        if self._heap is None or not self.schedules_equal(self.old_schedulers, self.schedule):
            self.old_schedulers = copy(self.schedule)
            self.populate_heap()
        heap = self._heap
        if not heap:
            return self.max_interval
        event = heap[0]
        left_s = event.time - self._when(event.entry, 0)
        if left_s > 0:
            return min(left_s, self.max_interval)
        is_due, next_s = self._ask(event.entry)
        entry, next_s = self._send(event.entry, next_s) if is_due else (event.entry, next_s)
        if not heap or heap[0] is not event:  # sending it changed the schedule
            return 0
        again_s = self.max_interval if next_s is None else next_s
        heapq.heapreplace(heap, event_t(self._when(entry, again_s), event.priority, entry))
        # When it was not due after all, the others get their turn before it is asked again.
        return 0 if is_due or heap[0].entry is not entry else min(self.adjust(again_s), self.max_interval)

    def _send(self, entry: Any, next_s: float | None) -> tuple[Any, float | None]:
        """Send an entry that is due; gives the entry as it is from then on, and in how many seconds to ask it again."""
        reserved = self.reserve(entry)
        self.apply_entry(entry, producer=self.producer)
        return reserved, next_s

    def populate_heap(self) -> None:
        """Order the entries by when they are due."""
        self._heap = []
        for entry in list(self.schedule.values()):
            is_due, next_s = self._ask(entry)
            wait_s = 0 if is_due else self.max_interval if next_s is None else next_s
            self._heap.append(event_t(self._when(entry, wait_s), _PRIORITY, entry))
        heapq.heapify(self._heap)

    def _ask(self, entry: Any) -> tuple[bool, float | None]:
        try:
            is_due, next_s = self.is_due(entry)
        except Exception:
            # One entry whose times cannot be computed must not stop all others.
            logger.exception("Cannot compute when %r is due; asking again in %s s.", entry.name, self.max_interval)
            return False, self.max_interval
        return is_due, next_s

    def is_due(self, entry: Any) -> Any:
        return entry.is_due()

    def adjust(self, n: float | None, drift: float = -_EARLY_S) -> float:
        return n + drift if n and n > 0 else n or 0.0

    def _when(self, entry: Any, next_s: float | None) -> float:
        """A delay from now, by the entry's clock, as seconds since the epoch."""
        return maybe_make_aware(entry.default_now()).timestamp() + self.adjust(next_s)

    def schedules_equal(self, old: Any, new: Any) -> bool:
        """Say whether two schedules have the same entries, so that the order of looking at them still holds."""
        if old is None or new is None:
            return old is new
        return old.keys() == new.keys() and all(new.get(name) == entry for name, entry in old.items())

    # -- sending

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
        """Send an entry and return its result; raises `SchedulingError`. Further options win over the entry's."""
        entry = self.reserve(entry) if advance else entry
        task = self.app.tasks.get(entry.task)
        try:
            arguments = _evaluate_entry_args(entry.args), _evaluate_entry_kwargs(entry.kwargs)
            options = {**entry.options, **kwargs}
            options["headers"] = {**(options.get("headers") or {}), "celery_beat_task": True}
            if task:
                return task.apply_async(*arguments, producer=producer, **options)
            return self.send_task(entry.task, *arguments, producer=producer, **options)
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
