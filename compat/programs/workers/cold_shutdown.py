"""QUIT stops at once; a late-acknowledged task runs again in the next worker."""

import signal
from pathlib import Path

from celery import Celery

from compat.harness import said, say, scratch, show, until, worker

app = Celery("cold_shutdown")


@app.task(acks_late=True, bind=True)
def blocked(self):
    say("start, redelivered", self.request.delivery_info["redelivered"])
    until(Path(scratch("go")).exists)
    return "finished"


def main():
    with worker() as first:
        result = blocked.delay()
        until(lambda: said(1))
        first.kill(signal.SIGQUIT)
        print("exit status", first.wait(), result.state in ("PENDING", "RETRY"))
    Path(scratch("go")).touch()
    with worker():
        print(result.get(timeout=15))
    show(said())
