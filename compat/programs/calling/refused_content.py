"""A worker that accepts only JSON refuses a pickled message and lives on."""

from celery import Celery

from compat.harness import outcome, worker

app = Celery("refused_content")


@app.task
def echo(value):
    return value


def main():
    with worker() as running:
        result = echo.apply_async((1,), serializer="pickle")
        print(echo.delay("still alive").get(timeout=10))
        print(outcome(result.get, timeout=1))
    print(any("Refusing to deserialize" in line and "pickle" in line for line in running.log()))
    print(any("ContentDisallowed" in line for line in running.log()))
