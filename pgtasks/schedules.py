"""When periodic tasks run: every so often, by a crontab, or with the sun.

A schedule is asked `is_due(last_run_at)` and answers `(is_due, seconds until to ask again)`. It knows the
time and the zone from its app (or from `nowfun`), so the same schedule means the same in every process.
Answers, attributes and pickles are Celery's; user code subclasses these classes.

What happens on days with a change of the clock is decided in `pgtasks.utils.time.remaining`: deadlines are
compared in real time, times that are skipped run after the gap, times that happen twice run the first time.
"""

from calendar import monthrange
from collections.abc import Callable, Iterable, Mapping
from datetime import MAXYEAR, date, datetime, timedelta, tzinfo
from functools import cached_property
from typing import Any, NamedTuple, cast

from pgtasks._state import current_app
from pgtasks.crontab_parser import ParseException, crontab_parser
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.utils.time import (
    ffwd,
    humanize_seconds,
    localize,
    maybe_make_aware,
    maybe_timedelta,
    remaining,
    subtract_datetimes,
    timezone,
)

__all__ = (
    "BaseSchedule",
    "ParseException",
    "crontab",
    "crontab_parser",
    "maybe_schedule",
    "schedstate",
    "schedule",
    "solar",
)

#: What a field of a crontab can be given as.
Cronspec = int | str | Iterable[int]


class schedstate(NamedTuple):
    """Whether a task is due, and in how many seconds to ask again."""

    is_due: bool
    next: float


class BaseSchedule:
    """What all schedules have: a clock and a zone, taken from the app unless `nowfun` is given."""

    def __init__(self, nowfun: Callable[[], datetime] | None = None, app: Any = None) -> None:
        self.nowfun = nowfun
        self._app = app

    def now(self) -> datetime:
        """Return the time by this schedule's clock."""
        return (self.nowfun or self.app.now)()

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return the time from now until the next run; negative if that is past."""
        raise NotImplementedError

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Say whether the task should run now, and in how many seconds to ask again."""
        raise NotImplementedError

    def maybe_make_aware(self, dt: datetime, naive_as_utc: bool = True) -> datetime:
        """Give a naive time the schedule's zone: converted from UTC, or else taken as it is."""
        return maybe_make_aware(dt, self.tz, naive_as_utc=naive_as_utc)

    @property
    def app(self) -> Any:
        return self._app or current_app._get_current_object()

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    @cached_property
    def tz(self) -> tzinfo:
        return cast(tzinfo, self.app.timezone)

    @cached_property
    def utc_enabled(self) -> bool:
        return bool(self.app.conf.enable_utc)

    def to_local(self, dt: datetime) -> datetime:
        """Convert to the system's zone, if the app does not use UTC."""
        return dt if self.utc_enabled else timezone.to_local_fallback(dt)

    def __eq__(self, other: object) -> bool:
        return other.nowfun == self.nowfun if isinstance(other, BaseSchedule) else NotImplemented


class schedule(BaseSchedule):
    """Runs every `run_every` (seconds or timedelta).

    `relative` rounds to the clock: every hour on the hour, every day at midnight.
    """

    relative = False

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: Any = None,
    ) -> None:
        self.run_every: timedelta = maybe_timedelta(run_every)
        self.relative = relative
        super().__init__(nowfun=nowfun, app=app)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return the time from now until the next run; negative if that is past."""
        last, now = self.maybe_make_aware(last_run_at), self.maybe_make_aware(self.now())
        return remaining(last, self.run_every, now, self.relative)

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Say whether the task should run now, and in how many seconds to ask again."""
        last_run_at = self.maybe_make_aware(last_run_at)
        left_s = self.remaining_estimate(last_run_at).total_seconds()
        if left_s > 0:
            return schedstate(False, left_s)
        if not self.relative:
            return schedstate(True, self.seconds)
        # The next boundary of the clock can be nearer than an interval: after a late run, or when the clock
        # changes. For intervals below a second it is not ahead at all.
        now = self.maybe_make_aware(self.now()).astimezone(last_run_at.tzinfo)
        boundary_s = self.remaining_estimate(now).total_seconds()
        return schedstate(True, boundary_s if boundary_s > 0 else self.seconds)

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    def __eq__(self, other: object) -> bool:
        return bool(self.run_every == (other.run_every if isinstance(other, schedule) else other))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run_every, self.relative, self.nowfun)

    @property
    def seconds(self) -> float:
        return max(self.run_every.total_seconds(), 0)

    @property
    def human_seconds(self) -> str:
        return humanize_seconds(self.seconds)


def maybe_schedule(s: Any, relative: bool = False, app: Any = None) -> Any:
    """Make a schedule of seconds or a timedelta; give a schedule its app; let None pass."""
    if s is None:
        return None
    if isinstance(s, (int, float)):
        s = timedelta(seconds=s)
    if isinstance(s, timedelta):
        return schedule(s, relative, app=app)
    s.app = app
    return s


# -- crontab ----------------------------------------------------------------------------------------------


class crontab(BaseSchedule):
    """Runs whenever minute, hour, day of week, day of month and month of year all match, like cron(5).

    A field is a number, several, or text as `crontab_parser` reads it: `*`, `*/15`, `8-17/2`, `mon-fri`,
    `1,15`. Days of the week count from 0, Sunday. Unlike in cron, both kinds of day must match. Raises
    ValueError for a field out of range, and for a day none of the months has.
    """

    def __init__(
        self,
        minute: Cronspec = "*",
        hour: Cronspec = "*",
        day_of_week: Cronspec = "*",
        day_of_month: Cronspec = "*",
        month_of_year: Cronspec = "*",
        **kwargs: Any,
    ) -> None:
        self._orig_minute = minute
        self._orig_hour = hour
        self._orig_day_of_week = day_of_week
        self._orig_day_of_month = day_of_month
        self._orig_month_of_year = month_of_year
        self._orig_kwargs = kwargs
        self.hour = self._expand_cronspec(hour, 24)
        self.minute = self._expand_cronspec(minute, 60)
        self.day_of_week = self._expand_cronspec(day_of_week, 7)
        self.day_of_month = self._expand_cronspec(day_of_month, 31, 1)
        self.month_of_year = self._expand_cronspec(month_of_year, 12, 1)
        self._refuse_impossible_date()
        super().__init__(**kwargs)

    @classmethod
    def from_string(cls, crontab: str) -> "crontab":
        """Make a crontab of the five fields of a crontab line: minute, hour, day, month, day of week."""
        minute, hour, day_of_month, month_of_year, day_of_week = crontab.split(" ")
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    @staticmethod
    def _expand_cronspec(cronspec: Any, max_: int, min_: int = 0) -> set[int]:
        """Return the numbers a field stands for; a name like `monday` is one."""
        if isinstance(cronspec, int):
            numbers = {cronspec}
        elif isinstance(cronspec, str):
            numbers = crontab_parser(max_, min_).parse(cronspec)
        elif isinstance(cronspec, Iterable):
            numbers = set(cronspec)
        else:
            raise TypeError(
                "Argument cronspec needs to be of any of the following types: int, str, or an iterable type. "
                f"{type(cronspec)!r} was given."
            )
        for number in numbers:
            if not min_ <= number < max_ + min_:
                raise ValueError(
                    f"Invalid crontab pattern.  Valid range is {min_}-{max_ - 1 + min_}. '{number}' was found."
                )
        return numbers

    def _refuse_impossible_date(self) -> None:
        a_leap_year = 2000
        last_day = max((monthrange(a_leap_year, month)[1] for month in self.month_of_year), default=0)
        if min(self.day_of_month, default=32) > last_day:
            raise ValueError(
                f"Invalid crontab: day_of_month {self._orig_day_of_month!r} never occurs in "
                f"month_of_year {self._orig_month_of_year!r}."
            )

    def remaining_delta(
        self, last_run_at: datetime, tz: str | tzinfo | None = None, ffwd: Callable[..., Any] = ffwd
    ) -> tuple[datetime, Any, datetime]:
        """Return the last run, how to fast-forward it to the next, and now, all in the schedule's zone."""
        zone = timezone.get_timezone(tz or self.tz)
        last = self.maybe_make_aware(last_run_at).astimezone(zone)
        now = self.maybe_make_aware(self.now()).astimezone(zone)
        runs_that_day = (
            last.month in self.month_of_year
            and last.day in self.day_of_month
            and last.isoweekday() % 7 in self.day_of_week
        )
        later_minutes = [minute for minute in self.minute if minute > last.minute]
        later_hours = [hour for hour in self.hour if hour > last.hour]
        move: dict[str, int] = {"second": 0, "microsecond": 0}
        if runs_that_day and last.hour in self.hour and later_minutes:
            move["minute"] = min(later_minutes)
        elif runs_that_day and later_hours:
            move.update(hour=min(later_hours), minute=min(self.minute))
        else:
            day = self._next_day(last.date())
            move.update(year=day.year, month=day.month, day=day.day)
            move.update(hour=min(self.hour), minute=min(self.minute))
        return last, ffwd(**move), now

    def _next_day(self, after: date) -> date:
        """Return the first day after `after` that all three fields of days match."""
        days, months = sorted(self.day_of_month), sorted(self.month_of_year)
        for year in range(after.year, MAXYEAR + 1):
            for month in months:
                if (year, month) < (after.year, after.month):
                    continue
                last_day = monthrange(year, month)[1]
                for day in days:
                    candidate = date(year, month, min(day, last_day))
                    if day <= last_day and candidate > after and candidate.isoweekday() % 7 in self.day_of_week:
                        return candidate
        raise RuntimeError(f"{self!r} has no day after {after}. Is the day of the week empty?")

    def remaining_estimate(self, last_run_at: datetime, ffwd: Callable[..., Any] = ffwd) -> timedelta:
        """Return the time from now until the next run; negative if that is past."""
        return remaining(*self.remaining_delta(last_run_at, ffwd=ffwd))

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Say whether the task should run now, and in how many seconds to ask again.

        A run that was missed by more than `beat_cron_starting_deadline` seconds is left out.
        """
        left_s = self.remaining_estimate(last_run_at).total_seconds()
        if left_s > 0:
            return schedstate(False, left_s)
        next_s = max(self.remaining_estimate(self.now()).total_seconds(), 0)
        return schedstate(not (left_s < 0 and self._is_too_late()), next_s)

    def _is_too_late(self) -> bool:
        """Say whether no run fell into the time within which a missed one is made up for."""
        deadline_s = self.app.conf.beat_cron_starting_deadline
        if deadline_s is None:
            return False
        now = self.maybe_make_aware(self.now())
        # A microsecond more, for a run exactly at the deadline to be in time.
        since = now.astimezone(timezone.utc) - timedelta(seconds=deadline_s, microseconds=1)
        return self.remaining_estimate(since.astimezone(now.tzinfo)).total_seconds() > 0

    def __repr__(self) -> str:
        return (
            f"<crontab: {self._orig_minute} {self._orig_hour} {self._orig_day_of_month} "
            f"{self._orig_month_of_year} {self._orig_day_of_week} (m/h/dM/MY/d)>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (
            self._orig_minute,
            self._orig_hour,
            self._orig_day_of_week,
            self._orig_day_of_month,
            self._orig_month_of_year,
        )
        return type(self), fields, self._orig_kwargs

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__init__(**state)
        self._orig_kwargs = dict(state)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, crontab):
            return NotImplemented
        return (
            other.month_of_year == self.month_of_year
            and other.day_of_month == self.day_of_month
            and other.day_of_week == self.day_of_week
            and other.hour == self.hour
            and other.minute == self.minute
            and super().__eq__(other)
        )


# -- the sun ----------------------------------------------------------------------------------------------

_SOLAR_NOON = "solar_noon"


class solar(BaseSchedule):
    """Runs at an event of the sun, at a latitude and longitude in degrees; needs the ephem package.

    Events: dawn_astronomical, dawn_nautical, dawn_civil, sunrise, solar_noon, sunset, dusk_civil,
    dusk_nautical, dusk_astronomical.
    """

    #: The height of the sun at the event.
    _horizons = {
        "dawn_astronomical": "-18",
        "dawn_nautical": "-12",
        "dawn_civil": "-6",
        "sunrise": "-0:34",
        _SOLAR_NOON: "0",
        "sunset": "-0:34",
        "dusk_civil": "-6",
        "dusk_nautical": "-12",
        "dusk_astronomical": "-18",
    }
    _all_events = frozenset(_horizons)

    #: How many days to look ahead, because beyond the polar circles not every day has every event.
    max_search_days = 366

    def __init__(self, event: str, lat: float, lon: float, **kwargs: Any) -> None:
        try:
            import ephem  # optional
        except ImportError as exc:
            raise ImproperlyConfigured(
                "Solar schedules need the ephem library. Install it by: pip install 'pgtasks[solar]'"
            ) from exc
        if event not in self._all_events:
            known = ", ".join(sorted(self._all_events))
            raise ValueError(f'Argument event "{event}" is invalid, must be one of {known}.')
        if not -90 <= lat <= 90:
            raise ValueError(f"Argument latitude {lat} is invalid, must be between -90 and 90.")
        if not -180 <= lon <= 180:
            raise ValueError(f"Argument longitude {lon} is invalid, must be between -180 and 180.")
        super().__init__(**kwargs)
        self.ephem = ephem
        self.event = event
        self.lat = lat
        self.lon = lon
        self.cal = ephem.Observer()
        self.cal.lat, self.cal.lon = str(lat), str(lon)
        self.cal.elev = self.cal.pressure = 0
        self.cal.horizon = self._horizons[event]
        if event == _SOLAR_NOON:
            self.method = "next_transit"
        else:
            self.method = "next_rising" if event == "sunrise" or event.startswith("dawn") else "next_setting"
        self.use_center = event.startswith(("dawn", "dusk"))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.event, self.lat, self.lon)

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, solar):
            return NotImplemented
        return (other.event, other.lat, other.lon) == (self.event, self.lat, self.lon)

    def _next_event(self, start: Any) -> Any:
        """Return when the event happens next, or if not within `max_search_days`, when to look again."""
        sun = self.ephem.Sun()
        options = {"use_center": True} if self.use_center else {}
        for _ in range(self.max_search_days):
            try:
                return getattr(self.cal, self.method)(sun, start=start, **options)
            except self.ephem.CircumpolarError:  # not that day
                start = self.cal.next_antitransit(sun, start=start)
        return start

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return the time from now until the next event; negative if that is past."""
        last_utc = localize(self.maybe_make_aware(last_run_at), timezone.utc)
        self.cal.date = last_utc
        upcoming = self._next_event(self.ephem.Date(last_utc)).datetime()
        return subtract_datetimes(self.maybe_make_aware(upcoming), self.maybe_make_aware(self.now()))

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Say whether the task should run now, and in how many seconds to ask again."""
        left_s = self.remaining_estimate(last_run_at).total_seconds()
        if left_s > 0:
            return schedstate(False, left_s)
        return schedstate(True, max(self.remaining_estimate(self.now()).total_seconds(), 0))
