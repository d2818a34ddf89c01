"""Schedules answer what Celery's own schedules answer, also on the days the clock is changed."""

from __future__ import annotations

import pickle
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import celery.schedules as theirs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pgtasks.schedules as ours
from pgtasks.exceptions import ImproperlyConfigured

#: Zones that change the clock by an hour, by half an hour, at midnight, far from Greenwich, and never.
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Africa/Cairo",
]

zones = st.sampled_from(ZONES)
#: Most of the times are near changes of the clock, in March, April, October and November.
moments = st.one_of(
    st.datetimes(datetime(2015, 1, 1), datetime(2035, 1, 1)),
    st.builds(
        lambda year, month, seconds: datetime(year, month, 1) + timedelta(seconds=seconds),
        st.integers(2015, 2034),
        st.sampled_from([2, 3, 4, 10, 11]),
        st.integers(0, 31 * 86400),
    ),
)
pauses = st.one_of(st.integers(-3600, 3 * 86400), st.integers(0, 90 * 86400), st.sampled_from([0, 59, 60, 3600, 86400]))


def app_in(zone: str, deadline_s: float | None = None) -> Any:
    conf = SimpleNamespace(enable_utc=True, beat_cron_starting_deadline=deadline_s)
    return SimpleNamespace(timezone=ZoneInfo(zone), conf=conf, now=lambda: datetime.now(UTC))


def both(make: Any, zone: str, now: datetime, deadline_s: float | None = None) -> tuple[Any, Any]:
    """Make the same schedule of Celery's and of our classes, with the same clock."""
    app = app_in(zone, deadline_s)
    local_now = now.replace(tzinfo=UTC).astimezone(ZoneInfo(zone))
    return tuple(make(module, nowfun=lambda: local_now, app=app) for module in (theirs, ours))  # type: ignore[return-value]


def answer(schedule: Any, last_run_at: datetime) -> Any:
    try:
        due, next_s = schedule.is_due(last_run_at)
    except (ValueError, OverflowError) as exc:
        return type(exc).__name__
    return due, round(next_s, 6)


# -- intervals


@settings(max_examples=300, deadline=None)
@given(
    zone=zones,
    last=moments,
    pause=pauses,
    every=st.one_of(st.integers(0, 400), st.integers(1, 200_000), st.sampled_from([60, 3600, 86400, 0.5])),
    relative=st.booleans(),
    naive=st.booleans(),
)
def test_intervals_agree_with_celery_across_changes_of_the_clock(
    zone: str, last: datetime, pause: int, every: float, relative: bool, naive: bool
) -> None:
    their, our = both(
        lambda module, **kw: module.schedule(every, relative=relative, **kw),
        zone,
        last + timedelta(seconds=pause),
    )
    last_run = last if naive else last.replace(tzinfo=UTC).astimezone(ZoneInfo(zone))

    assert answer(our, last_run) == answer(their, last_run)


def test_an_interval_is_equal_to_its_timedelta_and_survives_pickling() -> None:
    every = ours.schedule(90)

    assert every == timedelta(seconds=90)
    assert every == ours.schedule(timedelta(seconds=90))
    assert pickle.loads(pickle.dumps(every)) == every
    assert repr(every) == repr(theirs.schedule(90)) == "<freq: 1.50 minutes>"


def test_maybe_schedule_makes_schedules_of_numbers_and_gives_others_the_app() -> None:
    app = app_in("UTC")
    crontab = ours.crontab()

    assert ours.maybe_schedule(None) is None
    assert ours.maybe_schedule(30).run_every == timedelta(seconds=30)
    assert ours.maybe_schedule(timedelta(hours=1), relative=True).relative
    assert ours.maybe_schedule(crontab, app=app) is crontab
    assert crontab.app is app


# -- crontab fields

part = st.one_of(
    st.integers(-2, 62).map(str),
    st.builds("{}-{}".format, st.integers(0, 61), st.integers(0, 61)),
    st.builds("{}-{}/{}".format, st.integers(0, 61), st.integers(0, 61), st.integers(1, 9)),
    st.builds("*/{}".format, st.integers(0, 20)),
    st.sampled_from(["*", "", "*/", "mon", "monday", "sun-tue", "fri-mon", "jan", "mar-may", "x", "1-", "-1", "1-x"]),
)


def parsed(parser: Any, spec: str) -> Any:
    try:
        return parser.parse(spec)
    except Exception as exc:
        return type(exc).__name__, str(exc)


@settings(max_examples=500, deadline=None)
@given(
    spec=st.lists(part, min_size=1, max_size=4).map(",".join),
    span=st.sampled_from([(60, 0), (24, 0), (7, 0), (31, 1), (12, 1)]),
)
def test_every_field_means_or_is_refused_for_what_celery_says(spec: str, span: tuple[int, int]) -> None:
    assert parsed(ours.crontab_parser(*span), spec) == parsed(theirs.crontab_parser(*span), spec)


@pytest.mark.parametrize(
    "fields",
    [
        {"minute": 60},
        {"hour": "24"},
        {"day_of_week": 7},
        {"day_of_month": 0},
        {"month_of_year": {13}},
        {"minute": object()},
        {"hour": None},
        {"day_of_month": 30, "month_of_year": 2},
        {"day_of_month": "31", "month_of_year": "4,6,9,11"},
    ],
)
def test_a_crontab_that_never_runs_is_refused_when_it_is_made(fields: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)) as theirs_says:
        theirs.crontab(**fields)

    with pytest.raises(theirs_says.type, match=re.escape(str(theirs_says.value))):
        ours.crontab(**fields)


# -- crontab times

minutes = st.one_of(st.just("*"), st.sampled_from(["0", "*/5", "*/15", "30", "59", "0,30", "10-20/5"]))
hours = st.one_of(st.just("*"), st.sampled_from(["0", "2", "3", "1-3", "*/6", "23", "0,12"]))
days_of_week = st.one_of(st.just("*"), st.sampled_from(["mon", "sun", "1-5", "0,6", "*/2"]))
days_of_month = st.one_of(st.just("*"), st.sampled_from(["1", "29", "31", "*/10", "1-7", "28-31"]))
months_of_year = st.one_of(st.just("*"), st.sampled_from(["2", "3", "*/3", "10,11", "feb", "1"]))


@settings(max_examples=600, deadline=None)
@given(
    zone=zones,
    last=moments,
    pause=pauses,
    fields=st.tuples(minutes, hours, days_of_week, days_of_month, months_of_year),
    naive=st.booleans(),
    deadline_s=st.sampled_from([None, None, 0, 60, 3600, 7 * 86400]),
)
def test_crontabs_agree_with_celery_across_changes_of_the_clock(
    zone: str,
    last: datetime,
    pause: int,
    fields: tuple[str, ...],
    naive: bool,
    deadline_s: float | None,
) -> None:
    if fields[3] == "31" and fields[4] in ("2", "feb"):
        return
    their, our = both(
        lambda module, **kw: module.crontab(*fields, **kw), zone, last + timedelta(seconds=pause), deadline_s
    )
    last_run = last if naive else last.replace(tzinfo=UTC).astimezone(ZoneInfo(zone))

    assert answer(our, last_run) == answer(their, last_run)


def test_the_29th_of_february_on_a_monday_is_found_decades_ahead() -> None:
    their, our = both(lambda module, **kw: module.crontab(0, 0, "mon", 29, 2, **kw), "UTC", datetime(2024, 3, 1))

    assert answer(our, datetime(2024, 3, 1)) == answer(their, datetime(2024, 3, 1))


def test_a_run_within_the_skipped_hour_runs_once_after_the_gap() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    now = datetime(2024, 3, 31, 12, tzinfo=berlin)
    nightly = ours.crontab(30, 2, nowfun=lambda: now, app=app_in("Europe/Berlin"))

    last, move, _ = nightly.remaining_delta(datetime(2024, 3, 30, 2, 30, tzinfo=berlin))

    assert (last + move).astimezone(UTC) == datetime(2024, 3, 31, 1, 30, tzinfo=UTC)


def test_a_crontab_survives_pickling_with_its_fields_as_given() -> None:
    nightly = ours.crontab(minute="*/15", hour=[1, 2], day_of_week="mon-fri")

    copy = pickle.loads(pickle.dumps(nightly))

    assert copy == nightly
    assert repr(copy) == repr(nightly)
    assert copy != ours.crontab()


def test_from_string_takes_the_fields_in_the_order_of_a_crontab_line() -> None:
    line = "0 4 1 */3 mon"

    assert repr(ours.crontab.from_string(line)) == repr(theirs.crontab.from_string(line))
    assert ours.crontab.from_string(line).day_of_week == {1}


# -- the sun


@settings(max_examples=60, deadline=None)
@given(
    event=st.sampled_from(sorted(ours.solar._all_events)),
    lat=st.sampled_from([-80, -33.9, 0, 48.1, 69.6]),
    lon=st.sampled_from([-122, 0, 18.9, 151]),
    last=st.datetimes(datetime(2015, 1, 1), datetime(2030, 1, 1)),
    pause=st.integers(0, 2 * 86400),
)
def test_the_sun_rises_and_sets_as_in_celery_also_beyond_the_polar_circles(
    event: str, lat: float, lon: float, last: datetime, pause: int
) -> None:
    pytest.importorskip("ephem")
    their, our = both(lambda module, **kw: module.solar(event, lat, lon, **kw), "UTC", last + timedelta(seconds=pause))

    assert answer(our, last) == answer(their, last)
    assert repr(our) == repr(their)


def test_without_ephem_a_solar_schedule_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ephem", None)

    with pytest.raises(ImproperlyConfigured, match="pgtasks\\[solar\\]"):
        ours.solar("sunset", 0, 0)
