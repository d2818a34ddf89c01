"""A Celery program watched by Sentry, as its documentation says; nothing in it knows of pgtasks."""

from datetime import timedelta
from typing import Any

import sentry_sdk
from celery import Celery, Task, chord, group
from celery.beat import Scheduler
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

from tests.contrib import watched


class FileTransport(Transport):
    """Writes down what Sentry would be told."""

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            payload = item.payload.json or {}
            if item.type == "event":
                self.write_event(payload)
            elif item.type == "transaction":
                self.write_spans(payload)
            elif item.type == "check_in":
                watched.write({"type": "check_in", **payload})

    def write_event(self, event: dict[str, Any]) -> None:
        error = event["exception"]["values"][-1]
        watched.write(
            {
                "type": "event",
                "error": [error["type"], error["value"], error["mechanism"]["type"]],
                "frames": [frame["function"] for frame in error["stacktrace"]["frames"]],
                "trace": event["contexts"]["trace"]["trace_id"],
                "parent": event["contexts"]["trace"]["span_id"],
                "task": event["extra"]["celery-job"]["task_name"],
                "task_id": event["tags"]["celery_task_id"],
            }
        )

    def write_spans(self, event: dict[str, Any]) -> None:
        root = event["contexts"]["trace"]
        for span in [{**root, "description": event["transaction"], "is_transaction": True}, *event["spans"]]:
            watched.write(
                {
                    "type": "span",
                    "name": f"{span['op']} {span['description']}",
                    "trace": root["trace_id"],
                    "id": span["span_id"],
                    "parent": span.get("parent_span_id"),
                    "status": span.get("status"),
                    "data": span.get("data", {}),
                }
            )

    def flush(self, timeout: float, callback: Any = None) -> None:
        watched.write({"type": "flush"})


sentry_sdk.init(
    dsn="https://key@sentry.example/1",
    transport=FileTransport,
    traces_sample_rate=1.0,
    integrations=[CeleryIntegration(monitor_beat_tasks=True)],
)
app = Celery("sentry_jobs")


@app.task
def add(x: int, y: int) -> int:
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


@app.task(throws=KeyError)
def fail_as_expected() -> None:
    raise KeyError("as expected")


class CustomCall(Task):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


@app.task(base=CustomCall)
def fail_in_call() -> None:
    raise LookupError("in a task with a __call__ of its own")


@app.task(bind=True)
def again(self: Any) -> int:
    if not self.request.retries:
        raise self.retry(countdown=0.01, exc=ValueError("not yet"))
    return self.request.retries


@app.task(bind=True)
def headers(self: Any) -> dict[str, Any]:
    return self.request.headers


def produce() -> dict[str, Any]:
    """Call everything, each in a transaction of its own; gives results and errors by name."""
    calls = {
        "add": lambda: add.delay(1, 1),
        "delegate": lambda: delegate.delay(3),
        "fail": fail.delay,
        "fail_as_expected": fail_as_expected.delay,
        "fail_in_call": fail_in_call.delay,
        "again": again.delay,
        "send_task": lambda: app.send_task(add.name, (1, 2)),
        "headers": lambda: headers.apply_async(headers={"tenant": "acme"}),
        "chain": lambda: (add.s(1, 1) | add.s(2)).delay(),
        "group": lambda: group(add.s(1, 1), add.s(2, 2)).delay(),
        "chord": lambda: chord([add.s(1, 1), add.s(2, 2)])(total.s()),
        "link": lambda: add.apply_async((1, 1), link=add.s(5)),
    }
    seen: dict[str, Any] = {}
    for name, call in calls.items():
        with sentry_sdk.start_transaction(op="test", name=name):
            result = call()
        value = result.get(timeout=60, propagate=False)
        seen[name] = repr(value) if isinstance(value, Exception) else value
    app.AsyncResult(seen["delegate"]).get(timeout=60)
    tick()
    # The worker has one slot: what was released before this has been run when this has.
    add.delay(0, 0).get(timeout=60)
    return seen


def tick() -> None:
    """Be beat for a moment."""
    scheduler = Scheduler(app, lazy=True)
    entry = scheduler.add(name="hourly", task=add.name, schedule=timedelta(hours=1), args=(1, 1))
    entry.last_run_at -= timedelta(hours=2)
    with sentry_sdk.isolation_scope():
        scheduler.tick()
