"""Ignore ends a task without a result; Reject gives its message up, or back to the queue."""

from celery import Celery, Task, signals
from celery.exceptions import Ignore, Reject

from compat.harness import outcome, said, say, show, until, worker

app = Celery("ignore_and_reject")


@app.task(bind=True)
def ignored(self, custom):
    if custom:
        self.update_state(state="CUSTOM", meta={"kept": True})
    say("ignored runs")
    raise Ignore()


class Hooked(Task):
    def on_failure(self, exc, *args):
        say("on_failure", exc)

    def after_return(self, status, *args):
        say("after_return", status)


@app.task(bind=True, acks_late=True, base=Hooked)
def rejected(self):
    say("rejected runs")
    raise Reject("no use", requeue=False)


@app.task(bind=True, acks_late=True)
def requeued(self):
    if not self.request.delivery_info["redelivered"]:
        say("requeued runs first")
        raise Reject("again", requeue=True)
    say("requeued runs again")
    return "second delivery"


@signals.task_failure.connect
def told(sender, exception, **kwargs):
    say("task_failure", sender.name, repr(exception))


@app.task
def marker():
    return "reached"


def main():
    with worker():
        plain, custom = ignored.delay(False), ignored.delay(True)
        print(marker.delay().get(timeout=10))
        print(plain.state, plain.result, custom.state, custom.result)
        rejection = rejected.delay()
        until(rejection.ready)
        until(lambda: any("task_failure" in line for line in said()))
        print(rejection.state, outcome(rejection.get, timeout=10))
        print(requeued.delay().get(timeout=10))
    show(said())
    reject = Reject("why", requeue=True)
    print(repr(reject), str(reject), reject.reason, reject.requeue)
    print(outcome(ignored, False), outcome(rejected))
