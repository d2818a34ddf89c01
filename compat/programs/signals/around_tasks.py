"""The signals around a task: which, in which order, with which arguments, in which process."""

import os

from celery import Celery, signals
from celery.exceptions import Ignore, Reject, Retry

from compat.harness import outcome, said, say, show, worker

app = Celery("around_tasks")
MAIN_PROCESS = os.getpid()


def words(value):
    return str(value) if isinstance(value, Retry) else repr(getattr(value, "name", value))


def listener(name, *keys):
    def listen(sender, **kwargs):
        place = "main" if os.getpid() == MAIN_PROCESS else "child"
        say(
            name,
            place,
            getattr(sender, "name", type(sender).__name__),
            *(f"{key}={words(kwargs[key])}" for key in keys),
        )

    getattr(signals, name).connect(listen, weak=False)


listener("task_prerun", "args", "kwargs", "task")
listener("task_postrun", "args", "kwargs", "retval", "state")
listener("task_success", "result")
listener("task_failure", "exception", "args", "kwargs")
listener("task_retry", "reason")
listener("task_received")
listener("task_unknown", "name")
listener("task_rejected")


@app.task
def succeed(a, b=0):
    return a + b


@app.task
def fail():
    raise ValueError("failed")


@app.task(bind=True, max_retries=1)
def retry(self):
    raise self.retry(countdown=0, exc=KeyError("again"))


@app.task
def ignore():
    raise Ignore()


@app.task(acks_late=True)
def reject():
    raise Reject("no")


def main():
    with worker():
        succeed.delay(1, b=2).get(timeout=10)
        outcome(fail.delay().get, timeout=10)
        outcome(retry.delay().get, timeout=10)
        ignore.delay()
        outcome(reject.delay().get, timeout=10)
        outcome(app.send_task("no.such.task").get, timeout=10)
        succeed.delay(0).get(timeout=10)
    print("in the worker's main process")
    show(line for line in said() if " main " in line)
    print("in the pool")
    show(line for line in said() if " child " in line)
