"""Times, intervals and zones are calculated as by Celery, also where the clock is changed."""

from __future__ import annotations

import time as clock
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import celery.utils.time as theirs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgtasks.utils import time as ours

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Africa/Cairo",
    "Asia/Kolkata",
]

zones = st.one_of(
    st.sampled_from(ZONES).map(ZoneInfo), st.just(timezone(timedelta(hours=-3, minutes=-30))), st.just(UTC)
)
#: Half of the times are in months in which clocks are changed, to the half hour.
walls = st.one_of(
    st.datetimes(datetime(1990, 1, 1), datetime(2037, 12, 30)),
    st.builds(
        lambda year, month, halves, fold: (datetime(year, month, 1) + timedelta(minutes=30 * halves)).replace(
            fold=fold
        ),
        st.integers(2010, 2030),
        st.sampled_from([2, 3, 4, 10, 11]),
        st.integers(0, 48 * 28),
        st.sampled_from([0, 1]),
    ),
)


def same(left: Any, right: Any) -> bool:
    """Compare as instants, and as readings of the clock."""
    return (left, left.replace(tzinfo=None), left.utcoffset()) == (
        right,
        right.replace(tzinfo=None),
        right.utcoffset(),
    )


@settings(max_examples=500, deadline=None)
@given(wall=walls, zone=zones)
def test_a_wall_clock_time_is_the_same_instant_as_in_celery(wall: datetime, zone: tzinfo) -> None:
    assert same(ours.make_aware(wall, zone), theirs.make_aware(wall, zone))


@settings(max_examples=300, deadline=None)
@given(wall=walls, zone=zones, other=zones, naive=st.booleans(), naive_as_utc=st.booleans())
def test_conversions_agree_with_celery(
    wall: datetime, zone: tzinfo, other: tzinfo, naive: bool, naive_as_utc: bool
) -> None:
    given = wall if naive else wall.replace(tzinfo=zone)

    assert same(ours.localize(given, other), theirs.localize(given, other))
    assert same(
        ours.maybe_make_aware(given, other, naive_as_utc=naive_as_utc),
        theirs.maybe_make_aware(given, other, naive_as_utc=naive_as_utc),
    )
    assert same(ours.to_utc(wall), theirs.to_utc(wall))
    assert same(ours.timezone.to_local(given, other), theirs.timezone.to_local(given, other))
    assert ours.is_naive(given) == theirs.is_naive(given)


@settings(max_examples=500, deadline=None)
@given(
    start=walls,
    zone=zones,
    ends_in_s=st.one_of(st.floats(-10, 4000), st.integers(0, 4 * 86400), st.sampled_from([60, 3600, 86400])),
    passed_s=st.integers(-1000, 400_000),
    relative=st.booleans(),
)
def test_the_remaining_time_agrees_with_celery(
    start: datetime, zone: tzinfo, ends_in_s: float, passed_s: int, relative: bool
) -> None:
    begun = start.replace(tzinfo=zone)
    args = (
        begun,
        timedelta(seconds=ends_in_s),
        (begun.astimezone(UTC) + timedelta(seconds=passed_s)).astimezone(zone),
    )

    assert ours.remaining(*args, relative=relative) == theirs.remaining(*args, relative=relative)


@settings(max_examples=200, deadline=None)
@given(
    wall=walls,
    zone=zones,
    fields=st.fixed_dictionaries(
        {},
        optional={
            "year": st.integers(2000, 2030),
            "month": st.integers(1, 12),
            "day": st.integers(1, 31),
            "hour": st.integers(0, 23),
            "minute": st.integers(0, 59),
            "second": st.just(0),
            "microsecond": st.just(0),
            "weeks": st.integers(0, 3),
            "weekday": st.integers(0, 6),
        },
    ),
)
def test_fast_forwarding_agrees_with_celery(wall: datetime, zone: tzinfo, fields: dict[str, int]) -> None:
    start = wall.replace(tzinfo=zone)

    assert same(start + ours.ffwd(**fields), start + theirs.ffwd(**fields))
    assert repr(ours.ffwd(**fields)) == repr(theirs.ffwd(**fields))
    with pytest.raises(TypeError):
        3 + ours.ffwd(**fields)


@settings(max_examples=200, deadline=None)
@given(wall=walls, zone=zones, seconds=st.floats(-1e6, 1e6), naive=st.booleans())
def test_arithmetic_is_in_real_time_as_in_celery(wall: datetime, zone: tzinfo, seconds: float, naive: bool) -> None:
    start = wall if naive else wall.replace(tzinfo=zone)
    delta = timedelta(seconds=abs(seconds))

    assert same(ours.add_seconds_to_datetime(start, seconds), theirs.add_seconds_to_datetime(start, seconds))
    end = ours.add_seconds_to_datetime(start, seconds)
    assert ours.subtract_datetimes(end, start) == theirs.subtract_datetimes(end, start)
    assert same(ours.delta_resolution(start, delta), theirs.delta_resolution(start, delta))


# -- text


@pytest.mark.parametrize("text", ["100/m", "2/h", "0.5/s", "10", 3, 2.5, None, "", 0, "0/m"])
def test_rates_are_read_as_in_celery(text: Any) -> None:
    assert ours.rate(text) == theirs.rate(text)


@given(
    seconds=st.one_of(
        st.floats(0, 1e7), st.integers(0, 10**6), st.sampled_from([1, 60, 3600, 86400, 0.004, 0.006, 59.999])
    ),
    microseconds=st.booleans(),
)
def test_seconds_are_said_as_in_celery(seconds: float, microseconds: bool) -> None:
    options: dict[str, Any] = {"prefix": "in", "sep": " ", "microseconds": microseconds}

    assert ours.humanize_seconds(seconds, **options) == theirs.humanize_seconds(seconds, **options)


@pytest.mark.parametrize(
    "text",
    [
        "2024-02-29T12:30:15.123456+02:00",
        "2024-02-29T12:30:15Z",
        "2024-02-29 12:30",
        "20240229T123015",
        "2024-02-29",
        "2024-W09-4",
        "2024-02",
        "2024",
        "2024-02-29T12:30:15,5",
    ],
)
def test_dates_are_read_as_in_celery(text: str) -> None:
    assert ours.maybe_iso8601(text) == theirs.maybe_iso8601(text)


def test_what_is_no_date_text_passes_or_is_refused() -> None:
    now = datetime(2024, 1, 1)

    assert ours.maybe_iso8601(None) is None
    assert ours.maybe_iso8601(now) is now
    with pytest.raises(ValueError):
        ours.maybe_iso8601("tomorrow")


def test_days_and_months_have_names() -> None:
    assert [ours.weekday(name) for name in ("sunday", "Mon", "SAT")] == [0, 1, 6]
    assert [ours.yearmonth(name) for name in ("January", "dec")] == [1, 12]
    for read in (ours.weekday, ours.yearmonth):
        with pytest.raises(KeyError, match="nonsense"):
            read("nonsense")


# -- backoff


@pytest.mark.parametrize("factor", [0, 1, 3])
@pytest.mark.parametrize("retries", [0, 1, 5, 2000])
def test_backoff_doubles_up_to_its_maximum(factor: int, retries: int) -> None:
    args = (factor, retries, 600)

    assert ours.get_exponential_backoff_interval(*args) == theirs.get_exponential_backoff_interval(*args)
    assert ours.get_exponential_backoff_interval(*args, full_jitter=True) in range(601)


def test_negative_backoff_is_none() -> None:
    assert ours.get_exponential_backoff_interval(1, 3, -5) == 0


# -- the system's zone


@pytest.mark.parametrize(
    "name", ["Asia/Tokyo", "America/New_York", ":Europe/Berlin", "/usr/share/zoneinfo/Asia/Kolkata"]
)
def test_the_local_zone_is_that_of_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", name)

    assert type(ours.timezone)().local == ZoneInfo(name.lstrip(":").removeprefix("/usr/share/zoneinfo/"))


def test_a_zone_nobody_knows_falls_back_on_the_c_librarys(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TZ", "Atlantis/Capital")

    assert isinstance(type(ours.timezone)().local, ours.LocalTimezone)
    assert "Atlantis" in caplog.text


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TZ", "America/New_York")
    clock.tzset()
    yield
    monkeypatch.undo()
    clock.tzset()


@pytest.mark.usefixtures("in_new_york")
def test_the_c_librarys_zone_agrees_with_celerys() -> None:
    our, their = ours.LocalTimezone(), theirs.LocalTimezone()

    for wall in (datetime(2024, 1, 15, 12), datetime(2024, 7, 15, 12)):
        assert (our.utcoffset(wall), our.dst(wall), our.tzname(wall)) == (
            their.utcoffset(wall),
            their.dst(wall),
            their.tzname(wall),
        )
        assert wall.replace(tzinfo=UTC).astimezone(our).replace(tzinfo=None) == wall.replace(tzinfo=UTC).astimezone(
            their
        ).replace(tzinfo=None)
    assert repr(our) == repr(their)
    assert ours.utcoffset() in (4, 5)


def test_offsets_are_exact_for_zones_off_by_half_an_hour() -> None:
    kolkata = SimpleNamespace(timezone=-19800, altzone=-19800)
    winter = SimpleNamespace(tm_isdst=0)

    assert ours.utcoffset(time=kolkata, localtime=lambda: winter) == -5.5  # type: ignore[arg-type,return-value]
    assert ours.adjust_timestamp(1000.0, 1, here=lambda: 2) == theirs.adjust_timestamp(1000.0, 1, here=lambda: 2)


def test_numbers_become_timedeltas() -> None:
    assert ours.maybe_timedelta(1.5) == timedelta(seconds=1.5)
    assert ours.maybe_timedelta(timedelta(1)) == timedelta(1)
    assert ours.maybe_timedelta(None) is None
