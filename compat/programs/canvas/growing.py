"""Canvases made inside tasks: replace by every kind, add_to_chord, nested calls with allow_join_result."""

from celery import Celery, chain, chord, group
from celery.result import allow_join_result

from compat.harness import outcome, worker

app = Celery("growing")


@app.task
def add(*numbers):
    return sum(numbers)


@app.task
def total(values):
    return sum(values)


@app.task(bind=True)
def becomes(self, kind, n):
    return self.replace(
        {
            "task": add.s(n, n),
            "chain": chain(add.s(n), add.s(1), add.s(1)),
            "group": group(add.s(n), add.s(n + 1)),
            "chord": chord([add.s(n), add.s(n)], total.s()),
            "itself": becomes.s("task", n + 1),
            "immutable": add.si(7),
        }[kind]
    )


@app.task(bind=True)
def fails_to_become(self):
    return self.replace(chain(add.s(1), add.s("a")))


@app.task(bind=True)
def grows(self, n):
    if n:
        self.add_to_chord(grows.si(n - 1))
    return n


@app.task
def waits(n):
    with allow_join_result():
        return add.delay(n, 1).get(timeout=10)


@app.task
def refuses():
    return outcome(add.delay(1).get, timeout=10)[:40]


@app.task(bind=True)
def starts(self):
    result = chain(add.s(1, 1), add.s(1)).delay()
    return result.id, len(self.request.children)


def main():
    with worker("--concurrency=2"):
        for kind in ("task", "chain", "group", "chord", "itself", "immutable"):
            alone = becomes.delay(kind, 3).get(timeout=15)
            followed = outcome(
                chain(becomes.si(kind, 3), total.s() if kind == "group" else add.s(100))().get, timeout=15
            )
            collected = outcome(chord([becomes.si(kind, 3), add.s(1)], group_total.s())().get, timeout=15)
            print(f"{kind:10} {alone} {followed} {collected}")
        print(outcome(fails_to_become.delay().get, timeout=15)[:60])
        print(chord([grows.s(3), grows.s(0)], count.s())().get(timeout=15))
        print(waits.delay(4).get(timeout=15), refuses.delay().get(timeout=15))
        result = starts.delay()
        chain_id, children = result.get(timeout=15)
        print(app.AsyncResult(chain_id).get(timeout=15), children)
        print(group(becomes.s("chain", 1), becomes.s("group", 1))().get(timeout=15))


@app.task
def group_total(values):
    return sum(sum(value) if isinstance(value, list) else value for value in values)


@app.task
def count(values):
    return sorted(values)
