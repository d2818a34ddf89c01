"""Dates are aware; eta without a zone is read as UTC; timezone and enable_utc decide which."""

from datetime import UTC, datetime, timedelta

from celery import Celery
from celery.schedules import crontab
from celery.utils.time import localize, make_aware, maybe_iso8601, maybe_make_aware, maybe_timedelta, remaining, to_utc

from compat.harness import worker

app = Celery("time_zones", timezone="Asia/Tokyo")


@app.task(bind=True)
def eta(self):
    return self.request.eta


def main():
    print(app.timezone, app.now().utcoffset(), app.uses_utc_timezone())
    for options in ({}, {"enable_utc": False, "timezone": "Europe/Paris"}, {"timezone": "US/Eastern"}):
        each = Celery("each", set_as_current=False, **options)
        print(options, each.uses_utc_timezone(), each.timezone)
    winter, summer = datetime(2024, 1, 15, 12, 0), datetime(2024, 7, 15, 12, 0)
    paris = Celery("paris", set_as_current=False, timezone="Europe/Paris").timezone
    print(
        [make_aware(moment, paris).isoformat() for moment in (winter, summer)],
        to_utc(make_aware(winter, paris)).isoformat(),
    )
    print(
        maybe_make_aware(winter).isoformat(),
        maybe_iso8601("2024-01-15T12:00:00Z").isoformat(),
        maybe_iso8601(None),
        maybe_timedelta(30),
        maybe_timedelta(timedelta(1)),
    )
    print(localize(make_aware(winter, UTC), paris).isoformat())
    print(remaining(make_aware(winter, UTC), timedelta(minutes=5), now=make_aware(winter, UTC) + timedelta(minutes=2)))
    # A night in Berlin when the clocks go forward, and one when they go back.
    for day in (datetime(2024, 3, 31), datetime(2024, 10, 27)):
        berlin = Celery("berlin", set_as_current=False, timezone="Europe/Berlin")
        start = make_aware(day - timedelta(minutes=1), berlin.timezone)
        nightly = crontab(minute=30, hour=2, nowfun=lambda: start, app=berlin)
        begin, delta, now = nightly.remaining_delta(start)
        print(day.date(), (begin + delta).isoformat())
    with worker():
        soon = datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=0.4)
        stamped = eta.apply_async(eta=soon).get(timeout=15)
        print(abs(datetime.fromisoformat(stamped).replace(tzinfo=None) - soon) < timedelta(seconds=1))
        aware = datetime.now(UTC) + timedelta(seconds=0.2)
        print(datetime.fromisoformat(eta.apply_async(eta=aware).get(timeout=15)) == aware)
