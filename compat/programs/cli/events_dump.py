"""celery events --dump writes each event as a line"""

import re
import subprocess

from celery import Celery

from compat.harness import _command, scratch, show, until, worker

app = Celery("events_dump")


@app.task
def add(x, y):
    return x + y


def main():
    path = scratch("dumped")
    with worker("-E", "-n", "w@h", "--heartbeat-interval=1"), open(path, "w") as out:
        dumping = subprocess.Popen(_command("events", "--dump"), stdout=out, stderr=subprocess.DEVNULL)
        try:
            until(lambda: "HEARTBEAT" in open(path).read().upper())
            add.delay(2, 2).get(timeout=20)
            until(lambda: "task succeeded" in open(path).read())
        finally:
            dumping.terminate()
            dumping.wait(30)
    lines = [line for line in open(path).read().splitlines() if "task" in line and "heartbeat" not in line]
    show(map(steady, lines))


def steady(line):
    line = re.sub(r"\[[^\]]*\]", "[<time>]", line)
    return re.sub(r"\b(clock|pid|local_received|runtime)=[0-9.e-]+", r"\1=<number>", line)
