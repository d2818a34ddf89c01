"""Options and settings of the worker: hostname expansion, prefetch, includes, events, logs in files."""

import socket
from pathlib import Path

from celery import Celery

from compat.harness import scratch, worker

app = Celery("worker_options")


@app.task(bind=True)
def hostname(self):
    return self.request.hostname


def main():
    host = socket.gethostname()
    for name, expected in (("w%n@%h", f"w{{}}@{host}"), ("plain", f"plain@{host}"), ("a@b", "a@b")):
        with worker("-n", name):
            print(name, hostname.delay().get(timeout=10))
    with worker(
        "-n",
        "x@h",
        "-f",
        scratch("%n.log"),
        "--prefetch-multiplier",
        "2",
        "-O",
        "fair",
        "-I",
        "json",
        "--without-heartbeat",
        "--pidfile",
        scratch("%n.pid"),
    ):
        hostname.delay().get(timeout=10)
        print(Path(scratch("x.log")).exists(), Path(scratch("x.pid")).read_text().strip().isdigit())
        print("ready." in Path(scratch("x.log")).read_text())
    print(Path(scratch("x.pid")).exists())
