"""TERM lets running tasks end; what had not started stays for the next worker."""

import signal
from pathlib import Path

from celery import Celery
from celery.signals import worker_shutdown, worker_shutting_down

from compat.harness import said, say, scratch, show, until, worker

app = Celery("warm_shutdown")


@app.task
def blocked(name):
    say("start", name)
    until(Path(scratch(name)).exists)
    say("end", name)
    return name


@worker_shutting_down.connect
def shutting_down(sig, how, exitcode, **kwargs):
    say("worker_shutting_down", sig, how, exitcode)


@worker_shutdown.connect
def shut_down(**kwargs):
    say("worker_shutdown")


def main():
    with worker() as first:
        results = [blocked.delay(name) for name in ("one", "two", "three")]
        scheduled = blocked.apply_async(("scheduled",), countdown=1)
        until(lambda: "start one" in said())
        first.kill(signal.SIGTERM)
        until(lambda: any(line.startswith("worker_shutting_down") for line in said()))
        Path(scratch("one")).touch()
        print("exit status", first.wait(), [result.state for result in results], scheduled.state)
    for name in ("two", "three", "scheduled"):
        Path(scratch(name)).touch()
    with worker():
        print([result.get(timeout=15) for result in results], scheduled.get(timeout=15))
    show(sorted(set(said())))
