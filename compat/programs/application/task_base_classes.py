"""An app's tasks derive from app.Task, which task_cls or assignment replaces; classes are registered by hand."""

from celery import Celery, Task

from compat.harness import outcome, worker


class Counting(Task):
    """One instance per process: attributes survive between calls."""

    calls = 0
    greeting = "hello"

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.calls, super().__call__(*args, **kwargs)


class Plain(Task):
    pass


app = Celery("task_base_classes", task_cls=Counting)


@app.task(bind=True, greeting="hi")
def greet(self, name):
    return f"{self.greeting} {name}"


@app.task(base=Plain)
def plain():
    return "plain"


class Adder(app.Task):
    name = "task_base_classes.adder"

    def run(self, a, b):
        return a + b


class Unnamed(app.Task):
    def run(self):
        return self.name


adder = app.register_task(Adder())
unnamed = app.register_task(Unnamed)


def main():
    print(
        isinstance(greet, Counting), isinstance(plain, Counting), isinstance(plain, Plain), isinstance(plain, app.Task)
    )
    print(adder.name, unnamed.name, app.tasks[adder.name] is adder, type(adder).__name__)
    print(greet("x"), plain(), adder(1, 2))
    with worker():
        print([greet.delay("y").get(timeout=10) for _ in range(3)])
        print(plain.delay().get(timeout=10), adder.delay(1, 2).get(timeout=10), unnamed.delay().get(timeout=10))
    print(outcome(lambda: Task.app.main), greet.greeting, Counting.greeting)

    other = Celery("other", set_as_current=False)
    other.Task = Counting

    @other.task
    def counted():
        return "counted"

    print(counted(), counted(), isinstance(counted, Counting))
    assigned = Celery("assigned", set_as_current=False, task_cls="celery.app.task:Task")
    print(assigned.Task.__name__, assigned.Task.app is assigned)
    abstract = type("Abstract", (Task,), {"abstract": True, "name": "x"})
    print(abstract.abstract, outcome(abstract().run))
