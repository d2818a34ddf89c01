"""A message for a task no worker knows fails with NotRegistered; the worker goes on."""

from celery import Celery
from celery.exceptions import NotRegistered

from compat.harness import outcome, worker

app = Celery("unknown")


@app.task
def known():
    return "fine"


def main():
    with worker() as running:
        result = app.send_task("no.such.task", (1,))
        print(known.delay().get(timeout=10))
        print(outcome(result.get, timeout=10), result.state, isinstance(result.result, NotRegistered))
        print(known.delay().get(timeout=10))
    print(any("Received unregistered task of type 'no.such.task'." in line for line in running.log()))
    print(outcome(lambda: app.tasks["no.such.task"]), repr(NotRegistered("x")))
