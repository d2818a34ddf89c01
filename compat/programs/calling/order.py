"""Tasks of one queue start in the order sent, those with a countdown when they are due."""

from celery import Celery

from compat.harness import said, say, show, worker

app = Celery("order")


@app.task
def note(word):
    say(word)


def main():
    for n in range(5):
        note.delay(n)
    later = note.apply_async(("last",), countdown=1.5)
    sooner = note.apply_async(("before last",), countdown=0.7)
    with worker():
        later.get(timeout=10), sooner.get(timeout=10)
    show(said())
