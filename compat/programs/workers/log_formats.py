"""The lines of the worker's log that people search for, in their default formats."""

import re

from celery import Celery
from celery.utils.log import get_task_logger

from compat.harness import show, worker

app = Celery("log_formats")
logger = get_task_logger(__name__)


@app.task
def succeed():
    logger.warning("a word from the task")
    return "value"


@app.task
def fail():
    raise ValueError("failed")


@app.task(bind=True)
def retry(self):
    if not self.request.retries:
        self.retry(countdown=0)


def main():
    with worker("-n", "w@h") as running:
        succeed.delay().get(timeout=10)
        fail.delay().get(timeout=10, propagate=False)
        retry.delay().get(timeout=10)
        succeed.apply_async(countdown=0.1).get(timeout=10)
    stamp = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}")
    lines = [
        stamp.sub("<now>", line) for line in running.log() if "Task " in line or "a word" in line or "ready." in line
    ]
    show(re.sub(r"ETA:.*", "ETA:<time>", line) for line in lines if "MainProcess" in line and "Task" not in line)
    print("received")
    show(line for line in lines if "] received" in line)
    print("the rest, by the process that ran the task")
    words = ("succeeded", "raised", " retry: ", "a word")
    show(
        re.sub(r"/\w+?-\d+\]|/MainProcess\]", "/<process>]", line)
        for line in lines
        if any(word in line for word in words)
    )
