"""Two apps in one process keep their tasks and settings apart."""

from celery import Celery

from compat.harness import worker

app = Celery("two_apps")
other = Celery("other", set_as_current=False, task_default_queue="other", task_serializer="json")


@app.task
def mine():
    return "mine"


@other.task(shared=False)
def theirs():
    return "theirs"


def main():
    print(mine.app.main, theirs.app.main, mine.name in other.tasks, theirs.name in app.tasks)
    with worker("-Q", "celery,other"):
        print(mine.delay().get(timeout=10))
        print(mine.app.AsyncResult("x").app.main, theirs.AsyncResult("x").app.main)
        print(other.send_task(mine.name).get(timeout=10))
        failed = theirs.delay()
        print(failed.app.main)
    print(app.conf.task_default_queue, other.conf.task_default_queue)
