"""The turns of a crontab are those of croniter, an independent reader of cron's language, over changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgtasks.beat.durable import next_run, turns
from pgtasks.schedules import crontab

croniter = pytest.importorskip("croniter", reason="croniter is not installed")

minutes = st.sampled_from(["*", "0", "*/5", "*/15", "30", "59", "0,30", "10-20/5"])
hours = st.sampled_from(["*", "0", "2", "3", "1-3", "*/6", "23", "0,12"])
days_of_month = st.sampled_from(["*", "1", "28", "*/10", "1-7", "28-30"])
months = st.sampled_from(["*", "3", "*/3", "10,11", "1"])
days_of_week = st.sampled_from(["*", "1", "0", "1-5", "0,6"])
#: Months in which the clock is changed in one zone or another.
moments = st.builds(
    lambda year, month, seconds: datetime(year, month, 1) + timedelta(seconds=seconds),
    st.integers(2020, 2032),
    st.sampled_from([2, 3, 4, 9, 10, 11]),
    st.integers(0, 30 * 86400),
)


def cron(zone: str, fields: tuple[str, ...]) -> crontab:
    minute, hour, day_of_month, month, day_of_week = fields
    app = SimpleNamespace(timezone=ZoneInfo(zone), conf=SimpleNamespace(enable_utc=True))
    return crontab(minute, hour, day_of_week, day_of_month, month, app=app)


def of_croniter(fields: tuple[str, ...], start: datetime, count: int) -> list[datetime]:
    """Times by a clock that nobody ever changes."""
    times: Any = croniter.croniter(" ".join(fields), start, day_or=False)
    return [times.get_next(datetime) for _ in range(count)]


@settings(max_examples=300, deadline=None)
@given(st.tuples(minutes, hours, days_of_month, months, days_of_week), moments)
def test_turns_are_those_of_croniter(fields: tuple[str, ...], start: datetime) -> None:
    end = datetime(2500, 1, 1, tzinfo=UTC)

    found = list(islice(turns(cron("UTC", fields), start.replace(tzinfo=UTC), end), 10))

    assert [turn.replace(tzinfo=None) for turn in found] == of_croniter(fields, start, 10)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"]),
    st.tuples(minutes, hours, days_of_month, months, days_of_week),
    moments,
)
def test_turns_are_at_the_times_of_the_local_clock_whenever_it_shows_them(
    zone: str, fields: tuple[str, ...], start: datetime
) -> None:
    local = start.replace(tzinfo=UTC).astimezone(ZoneInfo(zone))
    end = datetime(2500, 1, 1, tzinfo=UTC)

    found = list(islice(turns(cron(zone, fields), local, end), 10))

    shown = {turn.replace(tzinfo=None) for turn in found}
    expected = of_croniter(fields, local.replace(tzinfo=None), 10)
    last = max(shown)
    for moment in expected:
        if moment <= last and exists(moment, zone):
            assert moment in shown
    # Nothing else runs, but for what falls into a gap and is made up for right after it.
    for moment in shown - set(of_croniter(fields, local.replace(tzinfo=None), 20)):
        assert not exists(moment - timedelta(hours=1), zone) or not exists(moment - timedelta(minutes=30), zone)


def exists(moment: datetime, zone: str) -> bool:
    """Does the clock of a zone ever show this time?"""
    there = moment.replace(tzinfo=ZoneInfo(zone))
    return there.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) == moment


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe"]),
    st.tuples(minutes, hours, days_of_month, months, days_of_week),
    moments,
    st.integers(0, 10_000),
)
def test_the_next_turn_is_the_same_from_whenever_one_looks(
    zone: str, fields: tuple[str, ...], start: datetime, seconds: int
) -> None:
    """So that schedulers that look at different moments make the same id of a turn."""
    schedule = cron(zone, fields)
    at = start.replace(tzinfo=UTC).astimezone(ZoneInfo(zone))
    upcoming = next_run(schedule, at)
    assert upcoming is not None

    later = min(at.astimezone(UTC) + timedelta(seconds=seconds), upcoming - timedelta(seconds=1))

    if later > at:
        assert next_run(schedule, later.astimezone(ZoneInfo(zone))) == upcoming
