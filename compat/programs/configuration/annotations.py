"""task_annotations change attributes of tasks from the configuration, by name, for all, or by an object's decision."""

from celery import Celery

from compat.harness import said, say, show, worker


class SlowTasks:
    def annotate(self, task):
        if task.name.endswith("slow"):
            return {"soft_time_limit": 120}


def on_failure(self, exc, task_id, args, kwargs, einfo):
    say("annotated on_failure", self.name, repr(exc))


app = Celery("annotations")
app.conf.task_annotations = [
    {"*": {"rate_limit": "10/s"}, "annotations.named": {"max_retries": 9, "custom": "yes", "on_failure": on_failure}},
    SlowTasks(),
]


@app.task
def named():
    raise KeyError("named")


@app.task
def slow():
    return slow.soft_time_limit


@app.task(rate_limit="1/m")
def limited():
    pass


def main():
    for task in (named, slow, limited):
        print(task.name, task.rate_limit, task.max_retries, task.soft_time_limit, getattr(task, "custom", None))
    with worker():
        named.delay().get(timeout=10, propagate=False)
        print(slow.delay().get(timeout=10))
    show(said())
