"""shared_task makes a task of every app, past and future, and resolves to the current one."""

from celery import Celery, shared_task

from compat.harness import outcome, worker

before = Celery("before")


@shared_task
def add(a, b):
    return a + b


@shared_task(bind=True, name="named.by.hand", max_retries=7)
def named(self):
    return self.name, self.max_retries, self.app.main


@shared_task(shared=False)
def private():
    pass


app = Celery("shared_tasks")


def main():
    for each in (before, app):
        print(each.main, sorted(name for name in each.tasks if not name.startswith("celery.")))
    print(type(add).__name__, add.name, add(1, 2), named())
    print(add.app is app, named.s().task)
    with worker():
        print(add.delay(1, 2).get(timeout=10), named.delay().get(timeout=10))
    print(outcome(shared_task, add))
    print(before.tasks["named.by.hand"]()[2])
