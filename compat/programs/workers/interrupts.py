"""INT stops like TERM the first time and at once the second time."""

import signal

from celery import Celery

from compat.harness import said, say, show, until, worker

app = Celery("interrupts")


@app.task(acks_late=True)
def blocked():
    say("start")
    until(lambda: False, patience_s=60)


def main():
    with worker() as idle:
        idle.kill(signal.SIGINT)
        print("idle, INT:", idle.wait())
    with worker() as busy:
        blocked.delay()
        said(1)
        busy.kill(signal.SIGINT)
        until(lambda: any("Warm shutdown" in line for line in busy.log()))
        busy.kill(signal.SIGINT)
        print("busy, INT twice:", busy.wait())
        show(line for line in busy.log() if line.startswith("worker: "))
