"""Soft and hard time limits: from the task, the call, the worker; what the task may do, and which hooks run."""

import time

from celery import Celery, Task
from celery.exceptions import SoftTimeLimitExceeded

from compat.harness import outcome, said, say, show, worker

app = Celery("limits")


class Watched(Task):
    def on_failure(self, exc, task_id, args, kwargs, einfo):
        say("on_failure", self.name.split(".")[-1], repr(exc))

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        say("after_return", self.name.split(".")[-1], status)


@app.task(base=Watched, soft_time_limit=0.5)
def cleans_up():
    try:
        time.sleep(20)
    except SoftTimeLimitExceeded:
        say("cleaned up")
        return "stopped early"


@app.task(base=Watched)
def sleeps(seconds):
    time.sleep(seconds)
    return "slept"


@app.task(base=Watched, bind=True, soft_time_limit=0.5, max_retries=1, default_retry_delay=0)
def retries(self):
    try:
        if not self.request.retries:
            time.sleep(20)
    except SoftTimeLimitExceeded as exc:
        raise self.retry(exc=exc) from exc
    return self.request.retries


@app.task(
    base=Watched,
    bind=True,
    autoretry_for=(SoftTimeLimitExceeded,),
    soft_time_limit=0.5,
    retry_kwargs={"countdown": 0, "max_retries": 1},
)
def autoretries(self):
    if not self.request.retries:
        time.sleep(20)
    return self.request.retries, self.request.timelimit


def main():
    with worker():
        print(cleans_up.delay().get(timeout=15))
        print(outcome(sleeps.apply_async((20,), soft_time_limit=0.5).get, timeout=15))
        print(outcome(sleeps.apply_async((0,), soft_time_limit=5, time_limit=10).get, timeout=15))
        print(outcome(sleeps.apply_async((20,), time_limit=1).get, timeout=15))
        print(retries.delay().get(timeout=15), autoretries.delay().get(timeout=15))
        print(outcome(sleeps.apply_async, (1,), soft_time_limit=10, time_limit=1))
        print(sleeps.delay(0).get(timeout=10))
    show(said())
