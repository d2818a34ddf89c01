"""A program that traces itself by `pgtasks.contrib.telemetry`."""

import os
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from pgtasks import Celery, chord, wf
from pgtasks.contrib.telemetry import instrument
from tests.contrib.spans import FileExporter

app = Celery("telemetry_jobs")
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(FileExporter()))
instrument(app, tracer_provider=provider, links=bool(os.environ.get("TELEMETRY_LINKS")))
tracer = trace.get_tracer("jobs", tracer_provider=provider)


@app.task
def add(x: int, y: int) -> int:
    with tracer.start_as_current_span("inside"):
        return x + y


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def delegate(x: int) -> str:
    return add.delay(x, x).id


@app.task
def fail() -> None:
    raise KeyError("lost")


@app.task(bind=True)
def again(self: Any) -> int:
    if not self.request.retries:
        raise self.retry(countdown=0.01)
    return self.request.retries


@app.workflow
def order(n: int) -> int:
    paid = add(n, 1)
    shown = wf.step(lambda: paid * 2, name="show")
    wf.sleep(3)
    return total([paid, shown])


@app.workflow
async def aorder(n: int) -> int:
    async def slow() -> int:
        with tracer.start_as_current_span("inside"):
            return n

    return await wf.step(slow, name="slow")


def produce() -> dict[str, Any]:
    """Call everything, each in a span of its own; gives results and errors by name."""
    calls = {
        "add": lambda: add.delay(1, 1),
        "delegate": lambda: delegate.delay(3),
        "fail": fail.delay,
        "again": again.delay,
        "chord": lambda: chord([add.s(1, 1), add.s(2, 2)], total.s())(),
        "many": lambda: add.delay_many([(1, 1), (2, 2)]),
        "order": lambda: order.delay(1),
        "aorder": lambda: aorder.delay(1),
    }
    seen: dict[str, Any] = {}
    for name, call in calls.items():
        with tracer.start_as_current_span(name):
            result = call()
        try:
            seen[name] = result.get(timeout=60)
        except KeyError as error:
            seen[name] = repr(error)
        if name == "delegate":
            app.AsyncResult(seen[name]).get(timeout=60)
    return seen
