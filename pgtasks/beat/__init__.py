"""Periodic tasks: entries, schedulers that send those that are due, and the service that runs a scheduler."""

from pgtasks.beat.durable import DurableEntry, PersistentScheduler
from pgtasks.beat.entry import (
    BeatLazyFunc,
    ScheduleEntry,
    SchedulingError,
    _evaluate_entry_args,
    _evaluate_entry_kwargs,
)
from pgtasks.beat.remote import NODENAME_DEFAULT, BeatPidbox, beat_nodename
from pgtasks.beat.scheduler import DEFAULT_MAX_INTERVAL, Scheduler, event_t
from pgtasks.beat.service import EmbeddedService, Service
from pgtasks.exceptions import reraise

__all__ = (
    "DEFAULT_MAX_INTERVAL",
    "NODENAME_DEFAULT",
    "BeatLazyFunc",
    "BeatPidbox",
    "DurableEntry",
    "EmbeddedService",
    "PersistentScheduler",
    "ScheduleEntry",
    "Scheduler",
    "SchedulingError",
    "Service",
    "_evaluate_entry_args",
    "_evaluate_entry_kwargs",
    "beat_nodename",
    "event_t",
    "reraise",
)
