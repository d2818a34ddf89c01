"""Solar schedules: sunrise, sunset and twilights of a place"""

from datetime import datetime, timezone

from celery import Celery
from celery.schedules import solar

from compat.harness import outcome

app = Celery("solar")
MELBOURNE = -37.81753, 144.96715


def main():
    now = datetime(2026, 6, 1, 0, 0, tzinfo=timezone.utc)
    for event in ("sunset", "sunrise", "solar_noon", "dawn_civil", "dusk_nautical", "dawn_astronomical"):
        schedule = solar(event, *MELBOURNE, app=app, nowfun=lambda: now)
        due = schedule.is_due(now)
        print(event, due.is_due, round(due.next / 60), schedule)
    print(solar("sunset", 1, 2) == solar("sunset", 1, 2), solar("sunset", 1, 2) == solar("sunrise", 1, 2))
    for arguments in (("noon", 1, 2), ("sunset", 91, 2), ("sunset", 1, 181)):
        print(outcome(solar, *arguments).splitlines()[0][:60])
