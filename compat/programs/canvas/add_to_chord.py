"""A header task may add another to its own chord before the body runs."""

from celery import Celery, chord

from compat.harness import outcome, worker

app = Celery("add_to_chord")


@app.task
def number(n):
    return n


@app.task(bind=True)
def grows(self, n):
    self.add_to_chord(number.s(n + 1))
    return n


@app.task
def collect(values):
    return sorted(values)


def main():
    with worker():
        print(chord([grows.s(1), number.s(5)])(collect.s()).get(timeout=10))
        print(outcome(grows.delay(1).get, timeout=10))
