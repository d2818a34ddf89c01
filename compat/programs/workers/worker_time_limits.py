"""--time-limit and --soft-time-limit hold for tasks that set none themselves."""

import time

from celery import Celery

from compat.harness import outcome, worker

app = Celery("worker_time_limits")


@app.task
def sleep(seconds):
    time.sleep(seconds)
    return "finished"


@app.task(soft_time_limit=30, time_limit=60)
def own_limit(seconds):
    time.sleep(seconds)
    return "finished"


def main():
    with worker("--soft-time-limit", "1", "--time-limit", "30"):
        print(outcome(sleep.delay(20).get, timeout=15), own_limit.delay(1.5).get(timeout=15))
    with worker("--time-limit", "1"):
        print(outcome(sleep.delay(20).get, timeout=15), sleep.delay(0).get(timeout=15))
