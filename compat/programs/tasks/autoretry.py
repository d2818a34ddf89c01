"""autoretry_for retries listed errors with retry_kwargs and back-off, except those in dont_autoretry_for."""

from celery import Celery
from celery.exceptions import Retry
from celery.signals import task_retry

from compat.harness import outcome, said, say, show, worker

app = Celery("autoretry")


@task_retry.connect
def retried(sender, request, reason, einfo, **kwargs):
    say(sender.name.split(".")[-1], request.retries, str(reason), type(reason).__name__)


@app.task(bind=True, autoretry_for=(ValueError,), retry_kwargs={"max_retries": 2, "countdown": 0})
def simple(self):
    say("simple runs", self.request.retries)
    raise ValueError("again")


@app.task(bind=True, autoretry_for=(Exception,), dont_autoretry_for=(LookupError,), retry_kwargs={"countdown": 0})
def except_some(self):
    say("except_some runs", self.request.retries)
    raise (OSError("retried") if self.request.retries == 0 else KeyError("not retried"))


@app.task(bind=True, autoretry_for=(ValueError,), max_retries=1, retry_kwargs={"countdown": 0})
def recovers(self):
    if self.request.retries == 0:
        raise ValueError("first time")
    return self.request.retries


@app.task(autoretry_for=(ValueError,))
def other_error():
    raise TypeError("not in the list")


@app.task(bind=True, autoretry_for=(Exception,), retry_kwargs={"countdown": 0})
def by_hand(self):
    if self.request.retries < 1:
        raise self.retry(countdown=0, exc=RuntimeError("by hand"))
    return "by hand"


def backed_off(countdowns, **options):
    @app.task(bind=True, autoretry_for=(ValueError,), max_retries=None, **options)
    def task(self):
        raise ValueError

    def remember(*args, **kwargs):
        countdowns.append(kwargs.get("countdown"))
        raise Retry()

    task.retry = remember
    for retries in range(5):
        task.push_request(retries=retries)
        outcome(task.run)
        task.pop_request()
    return countdowns


def main():
    with worker():
        print(outcome(simple.delay().get, timeout=10))
        print(outcome(except_some.delay().get, timeout=10))
        print(recovers.delay().get(timeout=10))
        print(outcome(other_error.delay().get, timeout=10))
        print(by_hand.delay().get(timeout=10))
    show(said())
    print(backed_off([], retry_backoff=True, retry_jitter=False, name="b1"))
    print(backed_off([], retry_backoff=3, retry_backoff_max=20, retry_jitter=False, name="b2"))
    print(backed_off([], name="b3"))
    jittered = backed_off([], retry_backoff=2, name="b4")
    print(all(0 <= pause <= 2 * 2**n for n, pause in enumerate(jittered)))
