"""--max-memory-per-child replaces a process once it has grown, after its task has ended"""

import os

from celery import Celery

from compat.harness import worker

app = Celery("memory_per_child")
hoard = []


@app.task
def process():
    return os.getpid()


@app.task
def grow(megabytes):
    hoard.append(bytearray(megabytes * 1024 * 1024))
    return os.getpid()


def main():
    with worker("--max-memory-per-child=250000"):
        first = process.delay().get(timeout=20)
        print("same while small:", process.delay().get(timeout=20) == first)
        print("ends its task:", grow.delay(300).get(timeout=20) == first)
        second = process.delay().get(timeout=20)
        print("then another:", second != first)
        print("which stays:", process.delay().get(timeout=20) == second)
