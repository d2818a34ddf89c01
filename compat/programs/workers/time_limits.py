"""The soft limit raises in the task, which may tidy up; the hard limit kills its process."""

import time

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_failure

from compat.harness import outcome, said, say, show, worker

app = Celery("time_limits")


class Watched(app.Task):
    def on_failure(self, exc, task_id, args, kwargs, einfo):
        say("on_failure", repr(exc))


@app.task(soft_time_limit=1, base=Watched)
def soft():
    time.sleep(20)


@app.task(soft_time_limit=1)
def tidies_up():
    try:
        time.sleep(20)
    except SoftTimeLimitExceeded as exc:
        return "tidied up", str(exc), exc.args


@app.task(time_limit=1, base=Watched)
def hard():
    time.sleep(20)


@app.task
def unlimited(seconds=20):
    time.sleep(seconds)
    return "finished"


@app.task(bind=True, soft_time_limit=1, max_retries=1)
def retried(self):
    try:
        time.sleep(20)
    except SoftTimeLimitExceeded as exc:
        raise self.retry(exc=exc, countdown=0)


@app.task(time_limit=1, acks_late=True)
def late():
    say("late runs")
    time.sleep(20)


@task_failure.connect
def failed(sender, task_id, exception, einfo, args, kwargs, traceback, **_):
    say("task_failure", sender.name, repr(exception), args, kwargs)


def main():
    with worker():
        print(outcome(soft.delay().get, timeout=15))
        print(tidies_up.delay().get(timeout=15))
        result = hard.delay()
        print(outcome(result.get, timeout=15), result.state)
        print(unlimited.delay(0).get(timeout=15))
        print(
            outcome(unlimited.apply_async(soft_time_limit=1).get, timeout=15),
            outcome(unlimited.apply_async(time_limit=1).get, timeout=15),
        )
        print(outcome(retried.delay().get, timeout=20))
        print(outcome(late.delay().get, timeout=15), unlimited.delay(0).get(timeout=15))
    show(said())
