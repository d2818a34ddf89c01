"""--autoscale adds processes while tasks wait"""

import os

from celery import Celery

from compat.harness import said, say, scratch, until, worker

app = Celery("autoscaling")


@app.task
def holds(n):
    say("began", n)
    until(lambda: os.path.exists(scratch("go-on")))
    return os.getpid()


def main():
    with worker("--autoscale=3,1", "--concurrency=1", "-n", "w@h"):
        results = [holds.delay(n) for n in range(3)]
        print(len(said(at_least=3)))
        stats = app.control.inspect(["w@h"], timeout=5).stats()["w@h"]
        print(stats["autoscaler"]["max"], stats["autoscaler"]["min"], len(stats["pool"]["processes"]))
        open(scratch("go-on"), "w").close()
        print(len({result.get(timeout=20) for result in results}))
        print(app.control.autoscale(5, 2, destination=["w@h"], reply=True, timeout=5))
