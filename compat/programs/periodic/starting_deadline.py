"""beat_cron_starting_deadline: a crontab that was missed for too long waits for its next time"""

from datetime import datetime, timedelta, timezone

from celery import Celery
from celery.schedules import crontab

app = Celery("starting_deadline")


def hourly(now):
    return crontab(minute=0, nowfun=lambda: now, app=app)


def main():
    now = datetime(2026, 5, 4, 10, 30, tzinfo=timezone.utc)
    for deadline in (None, 60, 3600):
        app.conf.beat_cron_starting_deadline = deadline
        for ago in (timedelta(minutes=20), timedelta(minutes=40), timedelta(hours=5)):
            is_due, next_s = hourly(now).is_due(now - ago)
            print(deadline, ago, is_due, round(next_s))
