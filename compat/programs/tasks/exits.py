"""What a task may raise besides Exception: exits and interrupts of its process."""

import re

from celery import Celery

from compat.harness import worker

app = Celery("exits")


class Wild(BaseException):
    pass


@app.task
def leave(kind):
    raise {"SystemExit": SystemExit(3), "Wild": Wild("wild")}[kind]


@app.task
def fine():
    return "fine"


def without_job(exc):
    return re.sub(r"\.? Job: [^.]+", "", repr(exc))


def main():
    with worker():
        print(without_job(leave.delay("SystemExit").get(timeout=15, propagate=False)))
        print(fine.delay().get(timeout=15))
        print(repr(leave.delay("Wild").get(timeout=15, propagate=False)))
        print(fine.delay().get(timeout=15))
