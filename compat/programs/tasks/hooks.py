"""The hooks of a task run in a fixed order around each attempt, with the documented arguments."""

from celery import Celery, Task

from compat.harness import outcome, said, say, show, worker

app = Celery("hooks")


class Watched(Task):
    def before_start(self, task_id, args, kwargs):
        say(self.request.retries, "before_start", args, kwargs)

    def on_success(self, retval, task_id, args, kwargs):
        say("on_success", retval, task_id == self.request.id, args, kwargs)

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        say("on_retry", repr(exc), args, kwargs, type(einfo.exception).__name__)

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        say("on_failure", repr(exc), args, kwargs, str(einfo).splitlines()[-1])

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        say("after_return", status, repr(retval), args, kwargs, type(einfo).__name__)


@app.task(base=Watched)
def divide(a, b):
    say("run", a, b)
    return a / b


@app.task(base=Watched, bind=True, max_retries=1)
def stubborn(self, word="no"):
    say("run", word)
    raise self.retry(exc=ValueError(word), countdown=0)


def main():
    with worker():
        print(divide.delay(6, b=3).get(timeout=10))
        print(outcome(divide.delay(6, 0).get, timeout=10))
        print(outcome(stubborn.delay().get, timeout=10))
    show(said())
