"""Canvases whose members keep no results: chains pass values on, chords still need theirs."""

from celery import Celery, chain, chord

from compat.harness import outcome, said, say, show, until, worker

app = Celery("ignored_results")


@app.task(ignore_result=True)
def silent(n=0):
    return n + 1


@app.task
def note(value):
    say("note", value)
    return value


def main():
    with worker():
        print(chain(silent.s(1), silent.s(), note.s())().get(timeout=10))
        print(chain(silent.s(1), silent.s())().ignored, silent.s(1).delay().ignored)
        print(outcome(chord([silent.s(1), silent.s(2)])(note.s()).get, timeout=3))
        chord([note.s(1), note.s(2)])(silent.si())
        until(lambda: len(said()) >= 4)
    show(said())
