"""A task class may bring its own Request, whose hooks see timeouts and failures from the worker's side"""

import time

from celery import Celery, Task
from celery.exceptions import SoftTimeLimitExceeded
from celery.worker.request import Request

from compat.harness import outcome, said, say, show, worker

app = Celery("custom_requests")


class MyRequest(Request):
    """A minimal custom request to log failures and hard time limits."""

    def on_timeout(self, soft, timeout):
        super().on_timeout(soft, timeout)
        say("timeout", "soft" if soft else "hard", self.name, timeout)

    def on_failure(self, exc_info, send_failed_event=True, return_ok=False):
        super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        say("failure", self.name, type(exc_info.exception).__name__)


class MyTask(Task):
    Request = MyRequest


@app.task(base=MyTask, time_limit=1)
def too_long():
    time.sleep(60)


@app.task(base=MyTask)
def fails():
    raise ValueError("seen by the request")


@app.task(base=MyTask)
def works():
    return "fine"


def main():
    with worker():
        print(works.delay().get(timeout=20))
        print(outcome(fails.delay().get, timeout=20))
        print(type(too_long.delay().get(timeout=30, propagate=False)).__name__)
        print(works.delay().get(timeout=20))
        show(sorted(said(at_least=1)))
