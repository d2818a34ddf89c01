"""task_annotations in every form: by name, for all, methods, classes, lists; rate limits and time limits through them."""

from celery import Celery

from compat.harness import outcome, said, say, show, worker


def around(method):
    def wrapper(self, *args, **kwargs):
        say("around", type(self).__name__)
        return method(self, *args, **kwargs)

    return wrapper


class Chosen:
    def annotate(self, task):
        if task.name.endswith("chosen"):
            return {"rate_limit": "7/s", "chosen": True}

    def annotate_any(self):
        return {"seen_by_all": 1}


def on_success(self, retval, task_id, args, kwargs):
    say("annotated on_success", retval)


app = Celery(
    "annotated",
    task_annotations=[
        {"*": {"rate_limit": "100/m", "marked": "any"}},
        {"annotated.one": {"rate_limit": "10/s", "time_limit": 30, "on_success": on_success}},
        Chosen(),
    ],
)


@app.task
def one():
    return 1


@app.task(rate_limit="5/h")
def limited():
    return 2


@app.task
def chosen():
    return 3


plain = Celery(
    "plain", task_annotations={"*": {"priority": 3}, "plain.x": {"priority": 4}}, set_as_current=False
)


@plain.task(name="plain.x")
def x():
    pass


@plain.task(name="plain.y", priority=9)
def y():
    pass


def main():
    for task in (one, limited, chosen):
        print(
            task.name,
            task.rate_limit,
            task.time_limit,
            getattr(task, "marked", None),
            getattr(task, "seen_by_all", None),
            getattr(task, "chosen", None),
        )
    print(x.priority, y.priority, outcome(lambda: Celery("none", set_as_current=False).annotations))
    with worker():
        print(outcome(one.delay().get, timeout=10), chosen.delay().get(timeout=10))
    show(said())
