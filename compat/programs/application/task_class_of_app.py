"""app.Task: replaced by assignment, by task_cls or by a string; shared tasks in several apps take each app's own."""

from celery import Celery, Task, current_app, shared_task

from compat.harness import worker


class First(Task):
    abstract = True
    which = "first"


class Second(Task):
    abstract = True
    which = "second"

    def __call__(self, *args, **kwargs):
        return self.which, self.run(*args, **kwargs)


@shared_task
def shared(n=0):
    return n, current_app.main


@shared_task(bind=True, name="named.shared", max_retries=9)
def bound(self):
    return self.app.main, self.name, self.max_retries


other = Celery("other", task_cls=First)
strings = Celery("strings", task_cls="task_class_of_app:First")
app = Celery("task_class_of_app")
app.Task = Second


@app.task
def own():
    return "own"


@other.task
def theirs():
    return "theirs"


def main():
    print(own.which, theirs.which, strings.Task.which, app.Task.which, issubclass(other.Task, First))
    print(
        own(),
        theirs(),
        isinstance(own, Second),
        isinstance(theirs, First),
        own.app is app,
        theirs.app is other,
    )
    print(app.tasks["task_class_of_app.shared"].which, other.tasks["task_class_of_app.shared"].which)
    print(shared.app.main, bound.app.main, shared.name, bound.name, bound.max_retries)
    other.set_current()
    print(shared.app.main, shared(1), bound(), current_app.main)
    app.set_current()
    print(shared.app.main, shared(1), bound(), "named.shared" in other.tasks, "named.shared" in strings.tasks)
    print(
        app.tasks["named.shared"] is not other.tasks["named.shared"],
        sorted(n for n in strings.tasks if "shared" in n),
    )
    with worker():
        print(own.delay().get(timeout=10), shared.delay(3).get(timeout=10), bound.delay().get(timeout=10))
