"""Arguments are checked against the task's signature when it is called, not when it runs."""

from celery import Celery

from compat.harness import outcome, worker

app = Celery("arguments")


@app.task
def add(a, b=1, *, c=0):
    return a + b + c


@app.task(bind=True)
def bound(self, a):
    return a


@app.task(typing=False)
def untyped(a):
    return a


@app.task
def anything(*args, **kwargs):
    return args, kwargs


def main():
    print(outcome(add.delay))
    print(outcome(add.delay, 1, 2, 3))
    print(outcome(add.delay, 1, d=3))
    print(outcome(add.apply_async, (1,), {"a": 1}))
    print(outcome(bound.delay))
    print(outcome(bound.delay, 1, 2))
    print(outcome(add.apply_async, "12"))
    print(outcome(add.apply_async, {1, 2}))
    print(outcome(add.apply_async, 5))
    print(outcome(add.apply_async, (1,), [2]))
    print(outcome(add.s().apply_async))
    with worker():
        print(
            add.delay(1).get(timeout=10),
            add.delay(1, 2, c=3).get(timeout=10),
            add.apply_async([1], {"c": 5}).get(timeout=10),
        )
        print(add.apply_async(kwargs={"a": 1}).get(timeout=10), add.apply_async((1,), None).get(timeout=10))
        print(anything.delay(1, (2, 3), {"k": None}, x=True, y=1.5).get(timeout=10))
        print(bound.delay({"1": [None, "é", "\u0000"]}).get(timeout=10))
        print(outcome(untyped.delay().get, timeout=10))
        print(outcome(app.send_task("arguments.add", (1, 2, 3, 4)).get, timeout=10))
