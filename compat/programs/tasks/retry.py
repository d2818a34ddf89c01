"""retry publishes the task again under the same id, until max_retries; then the reason, or MaxRetriesExceededError, is the result."""

from celery import Celery
from celery.exceptions import MaxRetriesExceededError

from compat.harness import outcome, said, say, show, worker

app = Celery("retry")


@app.task(bind=True, max_retries=2, default_retry_delay=0)
def with_reason(self):
    say("with_reason", self.request.retries, self.request.parent_id == self.request.id)
    try:
        raise KeyError("reason")
    except KeyError as exc:
        raise self.retry(exc=exc)


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def without_reason(self, a, b=2):
    say("without_reason", self.request.retries, self.request.args, self.request.kwargs)
    self.retry()


@app.task(bind=True, default_retry_delay=0)
def in_handler(self):
    say("in_handler", self.request.retries)
    try:
        1 / 0
    except ZeroDivisionError:
        self.retry(max_retries=1)


@app.task(bind=True, max_retries=None, default_retry_delay=0)
def for_ever(self):
    if self.request.retries < 5:
        self.retry()
    return self.request.retries


@app.task(bind=True, max_retries=0, default_retry_delay=0)
def never(self):
    try:
        self.retry(exc=ValueError("exhausted at once"))
    except MaxRetriesExceededError as exc:
        return "caught", str(exc)


@app.task(bind=True, max_retries=0)
def never_without_reason(self, a):
    try:
        self.retry()
    except MaxRetriesExceededError as exc:
        return "caught", exc.task_args, exc.task_kwargs


@app.task(bind=True)
def changed(self, n, note=None):
    if n < 3:
        self.retry(args=(n + 1,), kwargs={"note": f"was {n}"}, countdown=0)
    return n, note, self.request.retries


@app.task(bind=True)
def continued(self):
    if self.request.retries:
        return "second attempt"
    answer = self.retry(countdown=0, throw=False)
    say("continued", type(answer).__name__, str(answer), answer.humanize(), answer.when)
    return "first attempt"


@app.task(bind=True)
def elsewhere(self):
    if self.request.retries:
        return self.request.delivery_info["routing_key"], self.request.delivery_info["priority"], self.request.headers
    self.retry(countdown=0, queue="other", priority=3)


@app.task(bind=True)
def state_of_retry(self):
    if not self.request.retries:
        self.retry(countdown=0, exc=OSError("not yet"))
    return app.AsyncResult(self.request.id).state


def main():
    with worker("-Q", "celery,other"):
        print(outcome(with_reason.delay().get, timeout=10))
        print(outcome(without_reason.delay(1, b=3).get, timeout=10).replace("[", " [", 1).split("[")[0])
        print(outcome(in_handler.delay().get, timeout=10))
        print(for_ever.delay().get(timeout=10))
        print(outcome(never.delay().get, timeout=10))
        print(never_without_reason.delay(1).get(timeout=10))
        print(changed.delay(1).get(timeout=10))
        print(continued.delay().get(timeout=10))
        print(elsewhere.apply_async(headers={"kept": "yes"}).get(timeout=10))
        print(state_of_retry.delay().get(timeout=10))
    show(said())
    print(outcome(with_reason))
    print(outcome(without_reason, 1))
