"""What a task logs or prints goes to the worker's log, in the documented formats and under Celery's logger names."""

import logging

from celery import Celery
from celery.utils.log import get_task_logger

from compat.harness import show, worker

app = Celery(
    "task_logging",
    worker_log_format="W|%(levelname)s|%(name)s|%(message)s",
    worker_task_log_format="T|%(levelname)s|%(name)s|%(task_name)s|%(message)s",
    worker_log_color=False,
)
logger = get_task_logger(__name__)


@app.task
def talkative():
    logger.info("info from the task logger")
    logger.debug("not shown at INFO")
    logging.getLogger("shop").warning("from an ordinary logger")
    print("printed")
    return "x" * 5


@app.task(throws=(KeyError,))
def expected():
    raise KeyError("expected")


@app.task(bind=True, max_retries=1)
def unexpected(self):
    if not self.request.retries:
        self.retry(countdown=0, exc=OSError("again"))
    raise ValueError("unexpected")


@app.task(bind=True)
def ignoring(self):
    from celery.exceptions import Ignore

    raise Ignore()


def main():
    with worker() as running:
        talkative.delay().get(timeout=10)
        ignoring.delay()
        expected.delay().get(timeout=10, propagate=False)
        unexpected.apply_async(shadow="shadow.name").get(timeout=10, propagate=False)
    lines = [line for line in running.log() if line.startswith(("W|", "T|"))]
    print([line for line in lines if line.endswith("ready.")])
    show(line for line in lines if "|celery.worker.strategy|" in line)
    print("in the pool")
    show(
        line
        for line in lines
        if "|celery.app.trace|" in line or "|celery.redirected|" in line or "shop" in line or line.startswith("T|")
    )
