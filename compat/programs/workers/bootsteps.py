"""Bootsteps add to the worker: created with it, started and stopped in the order they require"""

from celery import Celery, bootsteps

from compat.harness import said, say, show, worker

app = Celery("bootsteps")


@app.task
def add(x, y):
    return x + y


class ExampleWorkerStep(bootsteps.StartStopStep):
    requires = {"celery.worker.components:Pool"}

    def __init__(self, worker, **kwargs):
        say("created", type(self).__name__, worker.app.main)

    def create(self, worker):
        return self

    def start(self, worker):
        say("started", type(self).__name__)

    def stop(self, worker):
        say("stopped", type(self).__name__)

    def terminate(self, worker):
        say("terminated", type(self).__name__)


class Later(ExampleWorkerStep):
    requires = (ExampleWorkerStep,)


class Off(ExampleWorkerStep):
    enabled = False


app.steps["worker"].add(ExampleWorkerStep)
app.steps["worker"].add(Later)
app.steps["worker"].add(Off)


def main():
    print(sorted(step.__name__ for step in app.steps["worker"]))
    with worker():
        print(add.delay(1, 1).get(timeout=20))
    show(line for line in said() if "Off" not in line)
