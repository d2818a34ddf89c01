"""Waiting tasks run by priority."""

from celery import Celery

from compat.harness import said, say, show, worker

app = Celery("priorities", worker_prefetch_multiplier=1)


@app.task
def note(n):
    say(n)


def main():
    results = [note.apply_async((n,), priority=n) for n in (3, 0, 9, 6)]
    with worker():
        for result in results:
            result.get(timeout=10)
    show(said())
