"""The scheduler that keeps its state in the database, shared by any number of instances.

    due? -> advance the row from what was seen -+-> enqueue, in the same transaction
                                                +-> somebody else has: take over what they wrote

A turn is one due time of an entry. It is taken by whoever advances the row, so of ten schedulers that find the same
turn due one sends it. The id of the task is made of the entry's name and of the moment of the turn, so that even with
a memory that was lost or restored a turn of a crontab is not sent twice.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from copy import copy
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from pgtasks.beat.entry import ScheduleEntry
from pgtasks.beat.scheduler import Scheduler
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.schedules import crontab
from pgtasks.store import faults, schedules
from pgtasks.store.database import OwnConnection, connect
from pgtasks.utils.log import get_logger
from pgtasks.utils.time import maybe_make_aware

__all__ = ("DurableEntry", "PersistentScheduler", "next_run", "turn_id", "turns")

logger = get_logger("celery.beat")

#: Seconds between two looks at what other schedulers and operators have changed.
LOOK_EVERY_S = 5.0
#: Seconds between two registrations, which say that an entry is still in somebody's code.
REGISTER_EVERY_S = 3600.0
#: Seconds after which a turn that could not be taken is tried again.
AGAIN_S = 1.0

CATCH_UP = ("one", "all", "none")
OVERLAP = ("allow", "skip", "wait")
#: With catch_up 'none' a turn counts as missed when it is later than this, in seconds.
GRACE_S = 60.0


class DurableEntry(ScheduleEntry):
    """An entry with policies, which may be given with the others in `beat_schedule`.

    `catch_up`: of the turns that were missed while nobody was there, make up for "one" (as Celery does), for "all", each
    on its own, or for "none". `overlap`: while the task of an earlier turn has not ended, "allow" the next, "skip" it, or
    let it "wait".
    """

    def __init__(self, *args: Any, catch_up: str = "one", overlap: str = "allow", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.catch_up = _one_of(CATCH_UP, catch_up, self.name, "catch_up")
        self.overlap = _one_of(OVERLAP, overlap, self.name, "overlap")

    def __reduce__(self) -> Any:
        return _again, (type(self), {name: value for name, value in self if name != "app"})

    def update(self, other: Any) -> None:
        super().update(other)
        self.catch_up, self.overlap = other.catch_up, other.overlap


def _again(cls: type[DurableEntry], fields: dict[str, Any]) -> DurableEntry:
    return cls(**fields)


def _one_of(known: tuple[str, ...], value: str, name: Any, field: str) -> str:
    if value not in known:
        raise ImproperlyConfigured(
            f"The periodic task {name!r} has {field}={value!r}. It may be {', '.join(map(repr, known))}."
        )
    return value


class PersistentScheduler(Scheduler):
    """Shares its state with all schedulers of the app: any number may run, and each turn is sent once."""

    Entry = DurableEntry
    max_interval = LOOK_EVERY_S

    def __init__(self, *args: Any, schedule_filename: str | None = None, **kwargs: Any) -> None:
        self._own: OwnConnection | None = None
        self._looked_at = self._registered_at = -1e9
        self._turn_options: dict[str, Any] = {}
        self._paused: set[str] = set()
        super().__init__(*args, **kwargs)

    @property
    def app_name(self) -> str:
        """The name under which the schedulers of an app share their state."""
        return self.app.main or ""

    # -- memory

    def setup_schedule(self) -> None:
        super().setup_schedule()
        self._register()

    def _register(self) -> None:
        described = [
            schedules.Described(entry.name, str(entry.task), repr(entry.schedule), maybe_make_aware(entry.last_run_at))
            for entry in self.schedule.values()
        ]
        self._remember(self.app.database.run(schedules.register(self.app_name, described)))
        self._registered_at = time.monotonic()

    def _look(self) -> None:
        """Read what other schedulers and operators have changed."""
        if time.monotonic() - self._registered_at > REGISTER_EVERY_S:
            self._register()
        else:
            self._remember(self.app.database.run(schedules.recall(self.app_name)))

    def _remember(self, memories: list[schedules.Memory]) -> None:
        self._looked_at = time.monotonic()
        unforeseen = []
        for memory in memories:
            entry = self.schedule.get(memory.name)
            if entry is None:
                continue
            if memory.next_run_at is None and (following := _foreseen(entry, memory.last_run_at)):
                unforeseen.append((memory.name, memory.last_run_at, following))
            last_run_at = memory.last_run_at.astimezone(self.app.timezone)
            if (entry.last_run_at, memory.is_paused) != (last_run_at, memory.name in self._paused):
                self._heap = None
            entry.last_run_at, entry.total_run_count = last_run_at, memory.runs
            (self._paused.add if memory.is_paused else self._paused.discard)(memory.name)
        if unforeseen:
            self.app.database.run(schedules.expect(self.app_name, unforeseen))

    def close(self) -> None:
        super().close()
        if self._own is not None:
            self._own.close()
            self._own = None

    @property
    def info(self) -> str:
        return f"    . memory -> pgtasks.schedules, as {self.app_name!r}"

    # -- turns

    def tick(self) -> float:
        if time.monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._look()
        return super().tick()

    def is_due(self, entry: Any) -> Any:
        return (False, self.max_interval) if entry.name in self._paused else super().is_due(entry)

    def _send(self, entry: Any, next_s: float | None) -> tuple[Any, float | None]:
        turn = self._turn(entry, next_s)
        verdict = self._take(entry, turn)
        if verdict is None:
            # Another scheduler was faster, or somebody paused it, or the row is gone: then it is created again.
            self._register()
            return entry, AGAIN_S
        if verdict == "wait":
            return entry, AGAIN_S
        if verdict == "pass":
            logger.info("Scheduler: Passing over a turn of %s (%s)", entry.name, entry.task)
        entry.last_run_at = turn.moment
        entry.total_run_count += verdict == "send"
        # What was missed may be more than this turn.
        return entry, 0 if entry.catch_up == "all" else next_s

    def _turn(self, entry: Any, next_s: float | None) -> schedules.Turn:
        now, seen = maybe_make_aware(entry.default_now()), maybe_make_aware(entry.last_run_at)
        slot = next_run(entry.schedule, seen)
        is_late = slot is not None and (now - slot).total_seconds() > GRACE_S
        return schedules.Turn(
            app=self.app_name,
            name=entry.name,
            seen=seen,
            moment=slot.astimezone(self.app.timezone) if slot and entry.catch_up == "all" else now,
            next=None if next_s is None else now + timedelta(seconds=next_s),
            task=turn_id(self.app_name, entry.name, slot if slot and isinstance(entry.schedule, crontab) else seen),
            overlap=entry.overlap,
            is_missed=is_late and entry.catch_up == "none",
        )

    def _take(self, entry: Any, turn: schedules.Turn) -> str | None:
        """Take a turn and send its task, both or neither; returns whether it was sent, passed over, or must wait."""
        conn = self._connection()
        try:
            with conn.transaction():
                verdict = conn.run(schedules.advance(turn))
                if verdict == "send":
                    self._turn_options = {"conn": conn}
                    if "task_id" not in entry.options:
                        self._turn_options["task_id"] = str(turn.task)
                    self.apply_entry(entry, producer=self.producer)
            return verdict
        except psycopg.Error as error:
            if faults.breaks_connection(error):
                conn.close()
            raise faults.translate(error, self.app.database_url) from error
        finally:
            self._turn_options = {}

    def _connection(self) -> OwnConnection:
        if self._own is None or self._own.closed:
            try:
                self._own = connect(self.app.database_url)
            except psycopg.Error as error:
                raise faults.translate(error, self.app.database_url) from error
        return self._own

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        if not self._turn_options:
            return super().apply_async(entry, producer, advance, **kwargs)
        # What cannot be sent is rolled back, and logged by the caller; the turn is taken all the same.
        with self._turn_options["conn"].transaction():
            return super().apply_async(entry, producer, advance, **{**self._turn_options, **kwargs})

    # -- on request

    def backfill(
        self, entry: Any, start: datetime, end: datetime, is_dry: bool = False
    ) -> Iterator[tuple[datetime, Any]]:
        """Send an entry for every turn after `start`, up to `end`; gives each moment and its result.

        The task finds the moment in `request.headers["scheduled_for"]`. A turn of a crontab that was sent already, on
        time or by an earlier call, and whose result is still kept, is not sent again.
        """
        for slot in turns(entry.schedule, start, end):
            if is_dry:
                yield slot, None
                continue
            headers = {**(entry.options.get("headers") or {}), "scheduled_for": slot.isoformat()}
            task_id = str(turn_id(self.app_name, entry.name, slot))
            yield slot, self.apply_async(entry, advance=False, task_id=task_id, headers=headers)


def _foreseen(entry: Any, last_run_at: datetime) -> datetime | None:
    """When an entry is due next, for monitors; one that cannot be computed is logged when it is asked whether it is due."""
    try:
        return next_run(entry.schedule, last_run_at)
    except Exception:
        return None


def next_run(schedule: Any, after: datetime) -> datetime | None:
    """The first moment after `after` at which a schedule is due, in UTC; None where it cannot be told."""
    asked = copy(schedule)
    try:
        asked.app, asked.nowfun = schedule.app, lambda: after
        left: timedelta = asked.remaining_estimate(after)
    except (AttributeError, NotImplementedError):
        return None
    return maybe_make_aware(after).astimezone(UTC) + left


def turns(schedule: Any, start: datetime, end: datetime) -> Iterator[datetime]:
    """Every moment after `start`, up to `end`, at which a schedule is due."""
    at = start
    while (following := next_run(schedule, at)) is not None and at < following <= end:
        at = following.astimezone(start.tzinfo)
        yield at


def turn_id(app: str, name: str, moment: datetime) -> UUID:
    """The id of the task of one turn: the same on every scheduler, and time ordered as other ids are."""
    milliseconds = int(moment.timestamp() * 1000)
    digest = hashlib.sha256(f"{app}\0{name}\0{moment.astimezone(UTC).isoformat()}".encode()).digest()
    random = int.from_bytes(digest[:10], "big")
    return UUID(int=(milliseconds << 80) | (7 << 76) | ((random >> 68) << 64) | (2 << 62) | (random & ((1 << 62) - 1)))
