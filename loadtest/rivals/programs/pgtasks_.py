"""pgtasks: results stored, two worker processes."""

import os
import sys

from common import URL, main, note, note_end, note_step, several, timed

from pgtasks import Celery, chain, chord, wf

app = Celery("rivals", broker=URL)


@app.task(name="noop")
def noop(number):
    return note(number)


@app.task(name="follow")
def follow(number):
    return number + 1


@app.task(name="total")
def total(numbers):
    return sum(numbers)


@app.workflow(name="walk")
def walk(steps):
    number = 0
    for _ in range(steps):
        number = wf.step(note_step, number)
    return number


@app.workflow(name="five")
def five(number):
    for _ in range(5):
        number = wf.step(note_step, number)
    return note_end(number)


def worker():
    command = [sys.executable, "-m", "pgtasks", "-A", "pgtasks_", "worker", "-c", "2", "-l", "WARNING"]
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    os.execv(command[0], command)


def ten():
    return chain(follow.s(0), *(follow.s() for _ in range(9))).delay().get(timeout=60)


def hundred():
    return chord([follow.s(number) for number in range(100)])(total.s()).get(timeout=60)


if __name__ == "__main__":
    main(
        prepare=lambda: app.database.ping(),
        worker=worker,
        send=lambda count: timed(lambda: [noop.delay(number) for number in range(count)]),
        bulk=lambda count: timed(lambda: noop.delay_many(range(count))),
        trip=lambda count: several(count, lambda: follow.delay(1).get(timeout=60), 2),
        chain=lambda count: several(count, ten, 10),
        chord=lambda count: several(count, hundred, 5050),
        flows=lambda count: timed(lambda: five.delay_many(range(count))),
        walk=lambda count, steps: timed(lambda: [walk.delay(steps).get(timeout=60) for _ in range(count)]),
        flow=lambda count: several(count, lambda: five.delay(0).get(timeout=60), 5),
    )
