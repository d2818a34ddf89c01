"""A Celery program instrumented with OpenTelemetry, as its documentation says; nothing in it knows of pgtasks."""

from typing import Any

from celery import Celery, chord, group
from celery.signals import worker_process_init
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.contrib.spans import FileExporter

app = Celery("otel_jobs")


@worker_process_init.connect(weak=False)
def instrument(**_: Any) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(FileExporter()))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()


@app.task
def add(x: int, y: int) -> int:
    with trace.get_tracer("jobs").start_as_current_span("inside"):
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
        raise self.retry(countdown=0.01, exc=ValueError("not yet"))
    return self.request.retries


def produce() -> dict[str, Any]:
    """Call everything, each in a span of its own; gives results and errors by name."""
    instrument()
    calls = {
        "add": lambda: add.delay(1, 1),
        "delegate": lambda: delegate.delay(3),
        "fail": fail.delay,
        "again": again.delay,
        "send_task": lambda: app.send_task(add.name, (1, 2)),
        "chain": lambda: (add.s(1, 1) | add.s(2)).delay(),
        "group": lambda: group(add.s(1, 1), add.s(2, 2)).delay(),
        "chord": lambda: chord([add.s(1, 1), add.s(2, 2)])(total.s()),
        "link": lambda: add.apply_async((1, 1), link=add.s(5)),
    }
    seen: dict[str, Any] = {}
    for name, call in calls.items():
        with trace.get_tracer("jobs").start_as_current_span(name):
            result = call()
        value = result.get(timeout=60, propagate=False)
        seen[name] = repr(value) if isinstance(value, Exception) else value
    app.AsyncResult(seen["delegate"]).get(timeout=60)
    # The worker has one slot: what was released before this has been run when this has.
    add.delay(0, 0).get(timeout=60)
    return seen
