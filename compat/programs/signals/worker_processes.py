"""worker_process_init and its kin: a database connection for each process, as the guide opens one"""

import os

from celery import Celery
from celery.signals import (
    worker_before_create_process,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_shutting_down,
)

from compat.harness import said, say, show, worker

app = Celery("worker_processes")
connection = None


@worker_init.connect
def in_parent(sender, **kwargs):
    say("worker_init", connection)


@worker_before_create_process.connect
def before(**kwargs):
    say("before_create_process")


@worker_process_init.connect
def open_connection(**kwargs):
    global connection
    connection = f"opened in {'a child' if os.getpid() != os.getppid() else 'the parent'}"
    say("process_init")


@worker_process_shutdown.connect
def close_connection(pid, exitcode, **kwargs):
    say("process_shutdown", pid == os.getpid(), exitcode)


@worker_shutting_down.connect
def leaving(sig, how, exitcode, **kwargs):
    say("shutting_down", sig, how, exitcode)


@app.task
def uses_it():
    return connection


def main():
    with worker("-c", "2"):
        print(uses_it.delay().get(timeout=20))
    show(sorted(set(said())))
