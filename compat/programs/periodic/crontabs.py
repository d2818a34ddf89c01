"""crontab parses the documented grammar, prints itself, compares, and says when it is due."""

import pickle
from datetime import UTC, datetime

from celery import Celery
from celery.schedules import ParseException, crontab, crontab_parser

from compat.harness import outcome

app = Celery("crontabs")
START = datetime(2024, 2, 28, 23, 58, 30, tzinfo=UTC)

SCHEDULES = {
    "every minute": {},
    "midnight": {"minute": 0, "hour": 0},
    "every 15 minutes": {"minute": "*/15"},
    "office hours": {"minute": 0, "hour": "9-17/2", "day_of_week": "mon-fri"},
    "lists": {"minute": "0,30,45", "hour": "1,2"},
    "names": {"minute": 0, "hour": 0, "day_of_week": "sun,sat", "month_of_year": "jan,dec"},
    "first of month": {"minute": 0, "hour": 0, "day_of_month": "1"},
    "leap day": {"minute": 0, "hour": 0, "day_of_month": "29", "month_of_year": "2"},
    "even days": {"minute": 0, "hour": 0, "day_of_month": "2-30/2"},
    "both day fields": {"minute": 0, "hour": 0, "day_of_month": "13", "day_of_week": "fri"},
    "wraps around": {"minute": 0, "hour": "22-2"},
    "iterables": {"minute": {5, 10}, "hour": [1]},
    "quarters": {"minute": 0, "hour": 0, "day_of_month": 1, "month_of_year": "*/3"},
}


def main():
    for name, fields in SCHEDULES.items():
        schedule = crontab(**fields, nowfun=lambda: START, app=app)
        upcoming, last = [], START
        for _ in range(4):
            start, delta, now = schedule.remaining_delta(last)
            last = start + delta
            upcoming.append(last.strftime("%y-%m-%d %a %H:%M"))
        print(f"{name:18} {schedule!r}")
        print(f"{'':18} {upcoming}")
        print(
            f"{'':18} {sorted(schedule.minute)[:8]} {sorted(schedule.hour)[:8]} {sorted(schedule.day_of_week)} {len(schedule.day_of_month)} {len(schedule.month_of_year)}"
        )
    for wrong in (
        {"minute": "60"},
        {"hour": "a"},
        {"minute": "*/0"},
        {"minute": "5-"},
        {"day_of_week": "7"},
        {"minute": 1.5},
        {"day_of_month": "31", "month_of_year": "2"},
        {"month_of_year": "0"},
        {"minute": ""},
    ):
        print(wrong, outcome(crontab, **wrong))
    print(
        crontab(minute=5) == crontab(minute="5"), crontab() == crontab(hour="*"), crontab(minute=1) != crontab(minute=2)
    )
    due = crontab(minute="*/5", nowfun=lambda: datetime(2024, 1, 1, 12, 5, 10, tzinfo=UTC), app=app)
    print(
        due.is_due(datetime(2024, 1, 1, 12, 0, 0, tzinfo=UTC)), due.is_due(datetime(2024, 1, 1, 12, 5, 1, tzinfo=UTC))
    )
    print(due.remaining_estimate(datetime(2024, 1, 1, 12, 5, 1, tzinfo=UTC)))
    print(
        sorted(crontab_parser(60).parse("*/20")),
        sorted(crontab_parser(24).parse("1-3,8-10/2")),
        sorted(crontab_parser(31, 1).parse("5-7")),
        outcome(crontab_parser(7).parse, "9"),
    )
    print(issubclass(ParseException, Exception))
    print(pickle.loads(pickle.dumps(crontab(minute=3))) == crontab(minute=3))
