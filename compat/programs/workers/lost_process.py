"""When a task's process dies the task fails with WorkerLostError, or runs again where it is told to."""

import os
import re
import signal
from pathlib import Path

from celery import Celery
from celery.signals import task_failure

from compat.harness import outcome, said, say, scratch, show, worker

app = Celery("lost_process")


class Watched(app.Task):
    def on_failure(self, exc, task_id, args, kwargs, einfo):
        say("on_failure", repr(exc))


def die(how):
    say("runs", how)
    os._exit(7) if how == "exit" else os.kill(os.getpid(), signal.SIGKILL)


@app.task(base=Watched, acks_late=False)
def early(how):
    die(how)


@app.task(base=Watched, acks_late=True)
def late(how):
    die(how)


@app.task(acks_late=True, reject_on_worker_lost=True)
def requeued():
    first = not Path(scratch("died")).exists()
    Path(scratch("died")).touch()
    say("requeued runs", "first" if first else "again")
    if first:
        die("kill")
    return "second delivery"


@app.task(bind=True, acks_late=True, retry_on_worker_lost=True, default_retry_delay=0, max_retries=2)
def retried(self):
    if self.request.retries < 2:
        die("kill")
    return self.request.retries


@app.task(bind=True, acks_late=True, retry_on_worker_lost=True, default_retry_delay=0, max_retries=1)
def retried_in_vain(self):
    die("kill")


@app.task
def fine():
    return "fine"


@task_failure.connect
def failed(sender, exception, **kwargs):
    say("task_failure", sender.name, type(exception).__name__)


def tell(*words):
    """Job numbers are the pool's own business."""
    print(re.sub(r"\.? Job: [^.]+", "", " ".join(map(str, words))))


def main():
    with worker():
        for task in (early, late):
            for how in ("exit", "kill"):
                result = task.delay(how)
                tell(task.name, how, outcome(result.get, timeout=15), result.state)
        print(fine.delay().get(timeout=15))
        print(requeued.delay().get(timeout=15))
        tell(outcome(retried.delay().get, timeout=15))
        tell(outcome(retried_in_vain.delay().get, timeout=15))
    show(said())
