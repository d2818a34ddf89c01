"""schedule, the plain interval: when it is due, how it prints, and maybe_schedule."""

from datetime import UTC, datetime, timedelta

from celery import Celery
from celery.schedules import BaseSchedule, maybe_schedule, schedstate, schedule

app = Celery("intervals")
NOW = datetime(2024, 1, 1, 12, 0, 10, tzinfo=UTC)


def main():
    every = schedule(run_every=30, nowfun=lambda: NOW, app=app)
    print(
        every,
        every.is_due(NOW - timedelta(seconds=10)),
        every.is_due(NOW - timedelta(seconds=30)),
        every.is_due(NOW - timedelta(seconds=95)),
    )
    print(
        type(every.is_due(NOW)).__name__,
        every.is_due(NOW) == schedstate(False, 30.0),
        every.seconds,
        every.human_seconds,
    )
    relative = schedule(run_every=timedelta(minutes=1), relative=True, nowfun=lambda: NOW, app=app)
    print(
        relative, relative.is_due(NOW - timedelta(seconds=20)), relative.remaining_estimate(NOW - timedelta(seconds=20))
    )
    print(maybe_schedule(5), maybe_schedule(timedelta(hours=2)), maybe_schedule(every) is every, maybe_schedule(2.5))
    print(
        schedule(5) == schedule(timedelta(seconds=5)),
        schedule(5) == schedule(6),
        schedule(5) == 5,
        issubclass(schedule, BaseSchedule),
    )
    print([repr(schedule(seconds)) for seconds in (0.5, 1, 61, 3600, 86400, 90061)])
