"""Dates, intervals and time zones, by Celery's names and with Celery's answers.

Zones are `zoneinfo` zones. A wall-clock time that a zone skips is moved forward by the gap, one that happens
twice means its first occurrence, and differences are always real time, taken in UTC.
"""

import logging
import numbers
import os
import random
import re
import time as _time
from calendar import monthrange
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from datetime import timezone as fixed_timezone
from functools import cached_property
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from kombu.utils.functional import dictfilter, reprcall

from pgtasks.utils.text import pluralize

__all__ = (
    "LocalTimezone",
    "add_seconds_to_datetime",
    "adjust_timestamp",
    "delta_resolution",
    "ffwd",
    "get_exponential_backoff_interval",
    "humanize_seconds",
    "is_naive",
    "localize",
    "make_aware",
    "maybe_iso8601",
    "maybe_make_aware",
    "maybe_timedelta",
    "rate",
    "remaining",
    "subtract_datetimes",
    "timezone",
    "to_utc",
    "utcoffset",
    "weekday",
    "yearmonth",
)

logger = logging.getLogger("celery.utils.time")

DAYNAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
WEEKDAYS = {name: number for number, name in enumerate(DAYNAMES)}
MONTHNAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
YEARMONTHS = {name: number for number, name in enumerate(MONTHNAMES, 1)}

RATE_MODIFIER_MAP: dict[str, Callable[[float], float]] = {
    "s": lambda n: n,
    "m": lambda n: n / 60.0,
    "h": lambda n: n / 60.0 / 60.0,
}
TIME_UNITS = (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))
ZERO = timedelta(0)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


# -- zones ------------------------------------------------------------------------------------------------


class LocalTimezone(tzinfo):
    """The system's zone as the C library knows it: for machines whose zone has no findable name."""

    def __init__(self) -> None:
        # Asked here and not at import, because time.tzset() may change it.
        self.STDOFFSET = timedelta(seconds=-_time.timezone)
        self.DSTOFFSET = timedelta(seconds=-_time.altzone) if _time.daylight else self.STDOFFSET
        self.DSTDIFF = self.DSTOFFSET - self.STDOFFSET

    def __repr__(self) -> str:
        return f"<LocalTimezone: UTC{int(self.DSTOFFSET.total_seconds() / 3600):+03d}>"

    def utcoffset(self, dt: datetime | None) -> timedelta:
        return self.DSTOFFSET if self._isdst(dt) else self.STDOFFSET

    def dst(self, dt: datetime | None) -> timedelta:
        return self.DSTDIFF if self._isdst(dt) else ZERO

    def tzname(self, dt: datetime | None) -> str:
        return _time.tzname[self._isdst(dt)]

    def fromutc(self, dt: datetime) -> datetime:
        zone = fixed_timezone(self.utcoffset(dt))
        return zone.fromutc(dt.replace(tzinfo=zone))

    def _isdst(self, dt: datetime | None) -> bool:
        dt = dt or datetime.now()
        stamp = _time.mktime((dt.year, dt.month, dt.day, dt.hour, dt.minute, dt.second, dt.weekday(), 0, 0))
        return _time.localtime(stamp).tm_isdst > 0


class _Zone:
    """The zones an app deals with."""

    def tz_or_local(self, tzinfo: tzinfo | str | None = None) -> tzinfo:
        """Return the zone given, by name or itself, or the system's."""
        return self.local if tzinfo is None else self.get_timezone(tzinfo)

    def to_local(self, dt: datetime, local: tzinfo | str | None = None, orig: tzinfo | None = None) -> datetime:
        """Convert to `local` (default: the system's zone); naive times are in `orig` (default: UTC)."""
        if is_naive(dt):
            dt = make_aware(dt, orig or self.utc)
        return localize(dt, self.tz_or_local(local))

    def to_system(self, dt: datetime) -> datetime:
        """Convert to the zone of the C library, with a fixed offset."""
        return dt.astimezone(tz=None)

    def to_local_fallback(self, dt: datetime) -> datetime:
        """Convert to the system's zone; naive times are in it already."""
        return make_aware(dt, self.local) if is_naive(dt) else localize(dt, self.local)

    def get_timezone(self, zone: str | tzinfo) -> tzinfo:
        """Return the zone of that name, or `zone` itself if it is one."""
        return ZoneInfo(zone) if isinstance(zone, str) else zone

    @cached_property
    def local(self) -> tzinfo:
        """The system's zone."""
        name = _local_zone_name()
        try:
            return ZoneInfo(name) if name else LocalTimezone()
        except Exception as exc:  # the name is no zone, or tzdata is not installed
            logger.warning("Failed to retrieve local timezone (%s): %s", type(exc).__name__, exc)
            return LocalTimezone()

    @cached_property
    def utc(self) -> tzinfo:
        """UTC."""
        return ZoneInfo("UTC")


timezone = _Zone()


def _local_zone_name() -> str | None:
    """Find the name of the system's zone: $TZ, then /etc/timezone, then where /etc/localtime points."""
    name = os.environ.get("TZ", "").lstrip(":")
    if name:
        return name.rpartition("zoneinfo/")[2]
    try:
        name = Path("/etc/timezone").read_text(encoding="ascii").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError):
        name = ""
    return name or os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2] or None


def utcoffset(time: Any = _time, localtime: Callable[..., _time.struct_time] = _time.localtime) -> float:
    """Return how many hours the local time is behind UTC now; east of Greenwich is negative."""
    return float(time.altzone if localtime().tm_isdst else time.timezone) / 3600


def adjust_timestamp(ts: float, offset: float, here: Callable[..., float] = utcoffset) -> float:
    """Move a timestamp made with UTC offset `offset` (in hours) to the local one."""
    return ts - (offset - here()) * 3600


# -- aware and naive --------------------------------------------------------------------------------------


def is_naive(dt: datetime) -> bool:
    """Say whether the time has no zone."""
    return dt.tzinfo is None or dt.tzinfo.utcoffset(dt) is None


def _is_imaginary(dt: datetime) -> bool:
    """Say whether the zone of `dt` skips it; only zones that know about folds can tell."""
    zone = dt.tzinfo
    if not isinstance(zone, ZoneInfo) and not hasattr(zone, "is_ambiguous"):
        return False
    try:
        back = dt.astimezone(UTC).astimezone(zone)
    except (ValueError, OverflowError):
        return False
    return back.replace(tzinfo=None) != dt.replace(tzinfo=None)


def _resolve_imaginary(dt: datetime) -> datetime:
    """Move a skipped time forward by the size of the gap."""
    before, after = (dt - DAY).utcoffset(), (dt + DAY).utcoffset()
    return dt + (after - before) if before is not None and after is not None else dt


def make_aware(dt: datetime, tz: tzinfo) -> datetime:
    """Say that `dt` is a time in `tz`: the first one if it happens twice, a later one if it is skipped."""
    dt = dt.replace(tzinfo=tz)
    if _is_imaginary(dt):
        return _resolve_imaginary(dt)
    return dt.replace(fold=0) if dt.fold and isinstance(tz, ZoneInfo) and _happens_twice(dt) else dt


def _happens_twice(dt: datetime) -> bool:
    return dt.replace(fold=0).utcoffset() != dt.replace(fold=1).utcoffset()


def localize(dt: datetime, tz: tzinfo) -> datetime:
    """Convert a UTC time to `tz`. A naive time is in `tz` already; one in another zone stays as it is."""
    if is_naive(dt):
        dt = make_aware(dt, tz)
    return dt.astimezone(tz) if dt.tzinfo == timezone.utc else dt


def to_utc(dt: datetime) -> datetime:
    """Say that a naive time is in UTC."""
    return make_aware(dt, timezone.utc)


def maybe_make_aware(dt: datetime, tz: tzinfo | None = None, naive_as_utc: bool = True) -> datetime:
    """Give a naive time a zone: take it as UTC (or as in `tz`), and convert it to `tz`."""
    if not is_naive(dt):
        return dt
    if naive_as_utc:
        dt = to_utc(dt)
    return localize(dt, timezone.utc if tz is None else timezone.tz_or_local(tz))


# -- arithmetic -------------------------------------------------------------------------------------------


def maybe_timedelta(delta: Any) -> Any:
    """Turn a number of seconds into a timedelta; anything else passes through."""
    return timedelta(seconds=float(delta)) if isinstance(delta, numbers.Real) else delta


def add_seconds_to_datetime(dt: datetime, seconds: float) -> datetime:
    """Add real time, not wall-clock time."""
    delta = timedelta(seconds=seconds)
    return dt + delta if is_naive(dt) else (dt.astimezone(UTC) + delta).astimezone(dt.tzinfo)


def subtract_datetimes(end: datetime, start: datetime) -> timedelta:
    """Return the real time between two times; naive ones are in UTC."""
    return maybe_make_aware(end).astimezone(UTC) - maybe_make_aware(start).astimezone(UTC)


def delta_resolution(dt: datetime, delta: timedelta) -> datetime:
    """Round `dt` down to the unit of `delta`: to the day, hour or minute that `delta` is at least one of."""
    if delta < MINUTE:
        return dt
    dt = dt.replace(second=0, microsecond=0)
    if delta >= HOUR:
        dt = dt.replace(minute=0)
    return dt.replace(hour=0) if delta >= DAY else dt


def remaining(
    start: datetime, ends_in: "timedelta | ffwd", now: datetime | None = None, relative: bool = False
) -> timedelta:
    """Return the real time from `now` until `start + ends_in`; negative if that is past.

    With `relative` the deadline is rounded down to the unit of `ends_in` on the local clock, but never to
    `start` or before; days are calendar days.
    """
    now = now or datetime.now(UTC)
    if isinstance(ends_in, timedelta) and not (relative and ends_in >= DAY):
        end = add_seconds_to_datetime(start, ends_in.total_seconds())
    else:
        end = start + ends_in
    if relative and isinstance(ends_in, timedelta):
        end = _rounded_end(start, end, ends_in)
    return end.astimezone(UTC) - now.astimezone(UTC)


def _rounded_end(start: datetime, end: datetime, ends_in: timedelta) -> datetime:
    """Round `end` down on the local clock, choosing among its occurrences one after `start`, in UTC."""
    candidates = _occurrences(delta_resolution(end, ends_in))
    start_utc = start.astimezone(UTC)
    if ends_in >= DAY:
        # The first midnight after the start: one that happens twice may have passed once already.
        return min((c for c in candidates if c > start_utc), default=end.astimezone(UTC))
    latest = start_utc + ends_in
    rounded = max((c for c in candidates if c <= latest), default=min(candidates))
    if ends_in < MINUTE or rounded > start_utc:
        return rounded
    # The clock was set back by part of an hour, so the boundary came before the start: take the next one of
    # the clock or of the calendar.
    unit = HOUR if ends_in >= HOUR else MINUTE
    for later in (end + unit, start + ends_in):
        candidates += _occurrences(delta_resolution(later, ends_in))
    future = [c for c in candidates if c > start_utc]
    return max((c for c in future if c <= latest), default=min(future, default=latest))


def _occurrences(wall: datetime) -> list[datetime]:
    """Return when a wall-clock time happens, in UTC: twice the same unless the clock is set back."""
    found = []
    for fold in (0, 1):
        candidate = wall.replace(microsecond=0, fold=fold)
        if _is_imaginary(candidate):
            # Some zones take a time that happens twice for a skipped one, and would move it back.
            candidate = max(candidate, _resolve_imaginary(candidate))
        found.append(candidate.astimezone(UTC))
    return found


class ffwd:
    """What to change in a date to fast-forward it: parts to set, weeks to add, a weekday to move on to."""

    def __init__(
        self,
        year: int | None = None,
        month: int | None = None,
        weeks: int = 0,
        weekday: int | None = None,
        day: int | None = None,
        hour: int | None = None,
        minute: int | None = None,
        second: int | None = None,
        microsecond: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.year = year
        self.month = month
        self.weeks = weeks
        self.weekday = weekday
        self.day = day
        self.hour = hour
        self.minute = minute
        self.second = second
        self.microsecond = microsecond
        self.days = weeks * 7
        self._has_time = hour is not None or minute is not None

    def __repr__(self) -> str:
        return str(reprcall("ffwd", (), self._fields(weeks=self.weeks, weekday=self.weekday)))

    def __radd__(self, other: Any) -> Any:
        if not isinstance(other, date):
            return NotImplemented
        year, month = self.year or other.year, self.month or other.month
        day = min(monthrange(year, month)[1], self.day or other.day)
        moved = other.replace(**{**self._fields(), "year": year, "month": month, "day": day})
        if self.weekday is not None:
            moved += timedelta(days=(7 - moved.weekday() + self.weekday) % 7)
        return moved + timedelta(days=self.days)

    def _fields(self, **extra: Any) -> dict[str, Any]:
        names = ("year", "month", "day", "hour", "minute", "second", "microsecond")
        return dict(dictfilter({name: getattr(self, name) for name in names}, **extra))


# -- reading and writing ----------------------------------------------------------------------------------


def rate(r: str | float | None) -> float:
    """Read a rate ("100/m", "2/h", "0.5/s", or a number) as a number per second; 0 means none."""
    if not isinstance(r, str):
        return r or 0
    count, _, unit = r.partition("/")
    return RATE_MODIFIER_MAP[unit or "s"](float(count)) if r else 0


def weekday(name: str) -> int:
    """Return the number of a weekday, 0 being Sunday, from a name of three letters or more."""
    try:
        return WEEKDAYS[name[:3].lower()]
    except KeyError:
        raise KeyError(name) from None


def yearmonth(name: str) -> int:
    """Return the number of a month, 1 being January, from a name of three letters or more."""
    try:
        return YEARMONTHS[name[:3].lower()]
    except KeyError:
        raise KeyError(name) from None


def humanize_seconds(secs: float, prefix: str = "", sep: str = "", now: str = "now", microseconds: bool = False) -> str:
    """Say a number of seconds in the largest unit that fits: 7200 is "2.00 hours", 0 is `now`."""
    secs = round(float(secs), 2)
    for unit, size in TIME_UNITS:
        if secs >= size:
            count = secs / size
            return f"{prefix}{sep}{count:.2f} {pluralize(count, unit)}"
    return f"{prefix}{sep}{secs:.2f} seconds" if microseconds and secs > 0 else now


def maybe_iso8601(dt: datetime | str | None) -> datetime | None:
    """Read a time in ISO 8601; a datetime passes through, and nothing gives None."""
    if not dt:
        return None
    if isinstance(dt, datetime):
        return dt
    if re.fullmatch(r"\d{4}(-\d\d)?", dt):  # a year or a month, which Python does not read
        return datetime(int(dt[:4]), int(dt[5:] or 1), 1)
    return datetime.fromisoformat(dt)


def get_exponential_backoff_interval(factor: int, retries: int, maximum: int, full_jitter: bool = False) -> int:
    """Return how many seconds to wait before a retry: `factor * 2**retries`, at most `maximum`.

    `full_jitter` picks a random number from 0 up to that (AWS Architecture Blog, "Exponential Backoff And
    Jitter").
    """
    countdown: int = min(maximum, factor * (2**retries))
    if full_jitter:
        countdown = random.randrange(countdown + 1)
    return max(0, countdown)
