"""With worker_soft_shutdown_timeout a cold shutdown first gives running tasks that long."""

import signal
from pathlib import Path

from celery import Celery

from compat.harness import said, say, scratch, show, until, worker

app = Celery("soft_shutdown", worker_soft_shutdown_timeout=20)


@app.task
def blocked():
    say("start")
    until(Path(scratch("go")).exists)
    say("end")
    return "finished"


def main():
    with worker() as running:
        result = blocked.delay()
        said(at_least=1)
        running.kill(signal.SIGQUIT)
        until(lambda: any("shutdown" in line.lower() for line in running.log()))
        Path(scratch("go")).touch()
        running.wait()
        print(result.get(timeout=5))
    show(said())
