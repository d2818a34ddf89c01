"""print in a task goes to the log; a task may send it to its own logger, as the guide shows"""

import sys

from celery import Celery
from celery.utils.log import get_task_logger

from compat.harness import show, worker

app = Celery("redirected_output")
app.conf.worker_log_format = app.conf.worker_task_log_format = "%(levelname)s %(name)s %(message)s"
logger = get_task_logger("redirected_output")


@app.task
def prints():
    print("printed")
    print("to stderr", file=sys.stderr)


@app.task(bind=True)
def add(self, x, y):
    old_outs = sys.stdout, sys.stderr
    rlevel = self.app.conf.worker_redirect_stdouts_level
    try:
        self.app.log.redirect_stdouts_to_logger(logger, rlevel)
        print(f"Adding {x} + {y}")
        return x + y
    finally:
        sys.stdout, sys.stderr = old_outs


def main():
    with worker() as running:
        prints.delay().get(timeout=20)
        print(add.delay(1, 2).get(timeout=20))
    show(line for line in running.log() if "printed" in line or "stderr" in line or "Adding" in line)
