"""The cookbook's lock: a task runs only if nobody else does the same work, told by the cache"""

import os
from contextlib import contextmanager
from hashlib import md5

from celery import Celery
from celery.utils.log import get_task_logger

from compat.harness import said, say, scratch, show, until, worker

app = Celery("one_at_a_time")
logger = get_task_logger(__name__)


@contextmanager
def lock(lock_id, oid):
    path = scratch(lock_id)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        status = True
    except FileExistsError:
        status = False
    try:
        yield status
    finally:
        if status:
            os.unlink(path)


@app.task(bind=True)
def import_feed(self, feed_url):
    feed_url_hexdigest = md5(feed_url.encode()).hexdigest()
    lock_id = f"{self.name}-lock-{feed_url_hexdigest}"
    logger.debug("Importing feed: %s", feed_url)
    with lock(lock_id, self.app.oid) as acquired:
        if acquired:
            say("importing", feed_url)
            until(lambda: os.path.exists(scratch("go-on")))
            return "imported"
    logger.debug("Feed %s is already being imported by another worker", feed_url)
    return None


def main():
    with worker("-c", "2"):
        first = import_feed.delay("http://one")
        said(at_least=1)
        second = import_feed.delay("http://one")
        print(second.get(timeout=20))
        open(scratch("go-on"), "w").close()
        print(first.get(timeout=20))
        print(import_feed.delay("http://one").get(timeout=20))
    show(said())
