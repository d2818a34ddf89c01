"""--max-tasks-per-child replaces each process after so many tasks; init and shutdown handlers run in each."""

import os

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown

from compat.harness import said, say, show, worker

app = Celery("recycling")


@worker_process_init.connect
def starting(**kwargs):
    say("init")


@worker_process_shutdown.connect
def stopping(pid, exitcode, **kwargs):
    say("shutdown", pid == os.getpid())


@app.task
def pid():
    return os.getpid()


def main():
    with worker("--max-tasks-per-child", "2"):
        pids = [pid.delay().get(timeout=15) for _ in range(5)]
        print([pids.index(each) for each in pids])
    show(sorted(said()))
