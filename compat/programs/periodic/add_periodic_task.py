"""add_periodic_task adds entries under their name or their signature's text."""

from celery import Celery
from celery.schedules import crontab

from compat.harness import show

app = Celery("add_periodic_task", timezone="Europe/Berlin")


@app.on_after_finalize.connect
def setup(sender, **kwargs):
    sender.add_periodic_task(10.0, test.s("hello"), name="add every 10")
    sender.add_periodic_task(30.0, test.s("world"), expires=10)
    sender.add_periodic_task(
        crontab(hour=7, minute=30, day_of_week=1), test.s("Happy Mondays!"), kwargs={"k": 1}, queue="slow"
    )
    sender.add_periodic_task(5, test.s("once"), args=(2,)), sender.add_periodic_task(6, test.s("once"))


@app.task
def test(arg, *args, **kwargs):
    return arg


def main():
    app.finalize()
    for name, entry in sorted(app.conf.beat_schedule.items()):
        print(name)
        show(f"{key}: {value!r}" for key, value in sorted(entry.items()))
    print(app.timezone, app.conf.timezone)
