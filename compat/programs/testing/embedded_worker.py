"""celery.contrib.testing runs a worker in a thread of the test, for real queues and real results."""

from celery import Celery, chord, group
from celery.contrib.testing.worker import start_worker

from compat.harness import outcome

app = Celery("embedded_worker")


@app.task
def add(a, b=0):
    return a + b


@app.task
def total(values):
    return sum(values)


@app.task(bind=True, max_retries=1)
def retried(self):
    if not self.request.retries:
        self.retry(countdown=0)
    return self.request.retries


@app.task
def fail():
    raise ValueError("failed")


def main():
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR") as running:
        print(add.delay(1, 2).get(timeout=10), retried.delay().get(timeout=10), outcome(fail.delay().get, timeout=10))
        print(chord([add.s(1), add.s(2)])(total.s()).get(timeout=10), group(add.s(1), add.s(2))().get(timeout=10))
        print(running.hostname is not None)
