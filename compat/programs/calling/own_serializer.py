"""A serializer of one's own, registered with kombu, for calls, tasks and results; refused where it is not accepted."""

import json

from celery import Celery
from kombu.serialization import register

from compat.harness import outcome, worker

register(
    "shouting",
    lambda value: json.dumps(value).upper(),
    lambda text: json.loads(text.lower()),
    content_type="application/x-shouting",
    content_encoding="utf-8",
)
register(
    "wrapped",
    lambda value: b"<" + json.dumps(value).encode() + b">",
    lambda data: json.loads(bytes(data)[1:-1]),
    content_type="application/x-wrapped",
    content_encoding="binary",
)

app = Celery("own_serializer", accept_content=["json", "shouting", "application/x-wrapped"])


@app.task(bind=True)
def echo(self, value):
    return value


@app.task(serializer="wrapped")
def by_task(value):
    return value


def main():
    with worker():
        print(echo.apply_async(("MiXed",), serializer="shouting").get(timeout=10))
        print(echo.apply_async(("MiXed",), serializer="wrapped").get(timeout=10))
        print(echo.apply_async(("MiXed",), serializer="json").get(timeout=10))
        print(by_task.delay({"a": [1, None]}).get(timeout=10), by_task.serializer)
        print(echo.s("MiXed").set(serializer="shouting").apply_async().get(timeout=10))
        print((echo.s("One") | echo.s()).apply_async(serializer="shouting").get(timeout=10))
        print(outcome(echo.apply_async, ("x",), serializer="no-such"))
        print(
            outcome(echo.apply_async, (object(),)),
            outcome(echo.apply_async, (object(),), serializer="shouting"),
        )
        print(echo.delay(b"bytes").get(timeout=10), outcome(echo.delay, {1, 2}))
