"""Celery, with the broker and the result backend of its environment: two worker processes.

As its documentation has it for many short tasks: prefork, -O fair (the default), a prefetch multiplier of 64 in the place
of 4, no gossip and no mingling, messages acknowledged before they run (the default: one that a worker held when it died
is lost), hiredis to read the answers of Redis. Messages are persistent, publisher confirms are off (the default). A call
subscribes to its result, as that of an application that may ask for it does.
"""

import os
import sys

from celery import Celery, chain, chord, group
from common import main, note, note_end, note_step, several, timed

app = Celery("rivals", broker=os.environ["RIVALS_BROKER"], backend=os.environ["RIVALS_BACKEND"])
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_hijack_root_logger = False
app.conf.worker_prefetch_multiplier = 64


@app.task(name="noop")
def noop(number):
    return note(number)


@app.task(name="follow")
def follow(number):
    return number + 1


@app.task(name="walk")
def walk(number):
    return note_step(number)


@app.task(name="arrive")
def arrive(number):
    return note_end(note_step(number))


@app.task(name="total")
def total(numbers):
    return sum(numbers)


def worker():
    options = "worker -c 2 -P prefork -O fair --without-gossip --without-mingle -l WARNING"
    command = [sys.executable, "-m", "celery", "-A", "celery_", *options.split()]
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    os.execv(command[0], command)


def in_groups(count):
    for start in range(0, count, 1000):
        group(noop.s(number) for number in range(start, min(start + 1000, count))).apply_async()


def ten():
    return chain(follow.s(0), *(follow.s() for _ in range(9))).delay().get(timeout=60)


def five(number):
    """The nearest there is to a workflow of five steps."""
    return chain(walk.s(number), *(walk.s() for _ in range(3)), arrive.s()).delay()


def hundred():
    return chord([follow.s(number) for number in range(100)])(total.s()).get(timeout=60)


if __name__ == "__main__":
    main(
        prepare=lambda: None,
        worker=worker,
        send=lambda count: timed(lambda: [noop.delay(number) for number in range(count)]),
        bulk=lambda count: timed(lambda: in_groups(count)),
        trip=lambda count: several(count, lambda: follow.delay(1).get(timeout=60), 2),
        chain=lambda count: several(count, ten, 10),
        chord=lambda count: several(count, hundred, 5050),
        flows=lambda count: timed(lambda: [five(number) for number in range(count)]),
        flow=lambda count: several(count, lambda: five(0).get(timeout=60), 5),
    )
