"""The settings around eager mode: propagating errors, storing results, ignoring results."""

import warnings

from celery import Celery

from compat.harness import outcome

app = Celery("eager_settings", task_always_eager=True, task_eager_propagates=True)


@app.task
def add(a, b):
    return a + b


@app.task
def fail():
    raise ValueError("failed")


@app.task(bind=True, max_retries=1)
def retried(self):
    raise self.retry(exc=KeyError("again"), countdown=0)


@app.task(ignore_result=True)
def ignored():
    return 1


@app.task(store_eager_result=True)
def stored(n):
    return n


def main():
    print(outcome(fail.delay), outcome(retried.delay), outcome(fail.apply), outcome(fail.apply, throw=False).state)
    app.conf.task_eager_propagates = False
    print(outcome(fail.delay).state, outcome(fail.apply_async, throw=True))
    print(ignored.delay().get(), ignored.delay().state)
    result = stored.delay(7)
    print(result.get(), app.AsyncResult(result.id).state, app.AsyncResult(result.id).get(timeout=1))
    app.conf.task_store_eager_result = True
    result = add.delay(1, 2)
    print(app.AsyncResult(result.id).state)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sent = app.send_task("eager_settings.add", (1, 2))
        print(type(sent).__name__, sent.state, [w.category.__name__ for w in caught])
    app.conf.task_always_eager = False
    print(type(add.delay(1, 2)).__name__)
