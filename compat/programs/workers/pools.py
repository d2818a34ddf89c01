"""The same tasks run in each pool: prefork, threads and solo."""

import os
import threading

from celery import Celery

from compat.harness import outcome, worker

app = Celery("pools")


@app.task
def where():
    return os.getpid(), threading.current_thread() is threading.main_thread()


@app.task(bind=True, max_retries=1)
def retried(self):
    if not self.request.retries:
        self.retry(countdown=0)
    return self.request.retries


@app.task
def fail():
    raise ValueError("failed")


@app.task
def add(a, b):
    return a + b


def main():
    for pool in ("prefork", "threads", "solo"):
        with worker("-P", pool, "-c", "2") as running:
            pid, main_thread = where.delay().get(timeout=10)
            print(pool, "in the worker's own process:", pid == running.process.pid, "in the main thread:", main_thread)
            print(
                "  ",
                retried.delay().get(timeout=10),
                outcome(fail.delay().get, timeout=10),
                (add.s(1, 2) | add.s(3)).delay().get(timeout=10),
            )
