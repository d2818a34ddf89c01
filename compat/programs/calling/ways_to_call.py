"""The ways to send a task, and what they give back."""

from celery import Celery

from compat.harness import worker

app = Celery("ways_to_call")


@app.task
def add(a, b):
    return a + b


def main():
    with worker():
        result = add.delay(1, b=2)
        print(
            type(result).__name__,
            type(result).__mro__[1].__name__,
            result.task_id == result.id,
            str(result) == result.id,
        )
        print(repr(result), result.get(timeout=10), result.parent, result.children or [], result.backend is app.backend)
        print(add.starmap([(1, 2)]).delay().get(timeout=10), add.apply_async(args=[1, 2]).get(timeout=10))
        print(
            add.s(1).delay(2).get(timeout=10),
            add.s(1).apply_async((2,)).get(timeout=10),
            add.signature(kwargs={"a": 1, "b": 1}).delay().get(timeout=10),
        )
        print((~add.s(4, 5)), add.subtask((1, 1)).delay().get(timeout=10))
