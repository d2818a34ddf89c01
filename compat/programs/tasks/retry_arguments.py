"""self.retry with other arguments and options: which win, what the next attempt sees, and how it ends."""

from celery import Celery
from celery.exceptions import MaxRetriesExceededError, Retry

from compat.harness import outcome, said, say, show, worker

app = Celery("retry_arguments")


@app.task(bind=True, default_retry_delay=0, max_retries=3)
def look(self, *args, **kwargs):
    request = self.request
    say(
        request.retries,
        args,
        sorted(kwargs.items()),
        request.delivery_info["routing_key"],
        request.delivery_info["priority"],
        request.headers,
        request.timelimit,
        request.expires is not None,
    )
    steps = {
        0: {"args": (1, 2)},
        1: {"kwargs": {"x": 1}},
        2: {"args": (), "kwargs": {}, "queue": "other", "priority": 5, "headers": {"h": 1}, "time_limit": 30, "expires": 100},
    }
    if request.retries in steps:
        raise self.retry(**steps[request.retries])
    return "done"


@app.task(bind=True, default_retry_delay=0)
def once(self):
    raise self.retry(max_retries=1, exc=KeyError("mine"))


@app.task(bind=True, default_retry_delay=0, max_retries=1)
def exhausted(self, n):
    try:
        raise self.retry()
    except MaxRetriesExceededError as exc:
        return type(exc).__name__, exc.task_args, exc.task_kwargs


@app.task(bind=True, default_retry_delay=0)
def not_thrown(self):
    if self.request.retries:
        say("runs once more", self.request.retries)
        return "second"
    error = self.retry(throw=False)
    say("goes on", type(error).__name__, error.when, error.is_eager, error.sig.task)
    return "first"


@app.task(bind=True, default_retry_delay=0)
def keeps(self):
    if not self.request.retries:
        raise self.retry(shadow="renamed")
    return (
        self.request.shadow,
        self.request.root_id == self.request.id,
        self.request.correlation_id == self.request.id,
    )


@app.task
def linked(value):
    say("linked", value)


@app.task
def errback(request, exc, traceback):
    say("errback", request.retries, repr(exc))


def main():
    with worker("-Q", "celery,other"):
        print(look.apply_async((0,), {"k": 9}, headers={"own": 1}).get(timeout=15))
        print(outcome(once.apply_async(link_error=errback.s()).get, timeout=15))
        print(exhausted.delay(4).get(timeout=15))
        result = not_thrown.delay()
        print(result.get(timeout=15))
        print(keeps.apply_async(link=linked.s()).get(timeout=15))
        said(8)
    show(said())
    print(outcome(look.retry), outcome(once.retry, exc=ValueError("outside")), issubclass(Retry, Exception))
