"""Metrics in the text format of Prometheus: counted from events, and read from the database.

What is counted has the names and labels that dashboards for Celery read; what is read from the database adds what only it
knows, under names that begin with `pgtasks_`.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from pgtasks.store.health import Figure

__all__ = ("BUCKETS", "Counts", "render")

#: Upper bounds of the histogram of run times, in seconds: those of Prometheus' own clients.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

#: What the queue is called of a task that no event has named one for, as in Celery's exporters.
DEFAULT_QUEUE = "celery"

_Labels = tuple[tuple[str, str], ...]

_KINDS = ("sent", "received", "started", "succeeded", "failed", "rejected", "revoked", "retried")

#: What figures of the database are called, their label, and what they say.
_FIGURES = {
    "queue_length": ("celery_queue_length", "queue_name", "Tasks that are ready."),
    "queue_consumers": ("celery_active_consumer_count", "queue_name", "Workers that consume the queue."),
    "queue_workers": ("celery_active_worker_count", "queue_name", "Workers that consume the queue."),
    "queue_slots": ("celery_active_process_count", "queue_name", "Tasks of the queue that can run at a time."),
    "worker_up": ("celery_worker_up", "hostname", "Does the worker's lease hold?"),
    "worker_tasks_active": ("celery_worker_tasks_active", "hostname", "Tasks that the worker has claimed."),
    "worker_slots": ("pgtasks_worker_slots", "hostname", "Tasks that the worker can run at a time."),
    "queue_scheduled": ("pgtasks_queue_scheduled", "queue_name", "Tasks that are not due yet."),
    "queue_oldest_seconds": (
        "pgtasks_queue_oldest_seconds",
        "queue_name",
        "How long the oldest ready task has waited.",
    ),
    "stuck": ("pgtasks_stuck_tasks", "why", "Tasks that should make progress and do not."),
    "schedule_late_seconds": ("pgtasks_schedule_late_seconds", "name", "How late a periodic task is."),
    "dead_rows": ("pgtasks_dead_rows", "table", "Rows that autovacuum has not removed yet."),
    "oldest_transaction_seconds": ("pgtasks_oldest_transaction_seconds", "", "Age of the oldest open transaction."),
    "notification_queue_usage": ("pgtasks_notification_queue_usage", "", "Share of the notification queue in use."),
}


class Counts:
    """Counts events; `count` is the handler of a receiver."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Name and queue of tasks under way, by id: most events say neither.
        self._known: dict[str, tuple[str, str]] = {}
        self._tasks: dict[str, Counter[_Labels]] = {kind: Counter() for kind in _KINDS}
        self._sums: dict[_Labels, float] = defaultdict(float)
        self._buckets: dict[_Labels, list[int]] = {}

    def count(self, event: dict[str, Any]) -> None:
        group, _, kind = event["type"].partition("-")
        if group != "task" or kind not in _KINDS:
            return
        with self._lock:
            uuid = event["uuid"]
            name, queue = self._known_of(uuid, event)
            labels = (("name", str(name)), ("hostname", str(event["hostname"])), ("queue_name", str(queue)))
            if kind in ("succeeded", "failed", "revoked", "rejected"):
                self._known.pop(uuid, None)
            if kind != "sent":
                self._show(labels)
            cause = (("exception", _class_of(event.get("exception"))),) if kind == "failed" else ()
            self._tasks[kind][*labels, *cause] += 1
            if kind == "succeeded":
                self._observe(labels, float(event.get("runtime") or 0))

    def _known_of(self, uuid: str, event: dict[str, Any]) -> tuple[str, str]:
        name, queue = self._known.get(uuid, ("", DEFAULT_QUEUE))
        name, queue = event.get("name") or name, event.get("queue") or queue
        if name:
            self._known[uuid] = name, queue
            if len(self._known) > 100_000:  # those whose end was never told
                del self._known[next(iter(self._known))]
        return name, queue

    def _show(self, labels: _Labels) -> None:
        """Begin all counters of a task at zero: an alarm on a rate needs to have seen the counter before the first failure."""
        for kind in _KINDS[1:]:
            cause = (("exception", ""),) if kind == "failed" else ()
            self._tasks[kind][*labels, *cause] += 0

    def _observe(self, key: _Labels, runtime: float) -> None:
        counts = self._buckets.setdefault(key, [0] * (len(BUCKETS) + 1))
        for at, bound in enumerate(BUCKETS):
            counts[at] += runtime <= bound
        counts[-1] += 1
        self._sums[key] += runtime

    def lines(self) -> Iterator[str]:
        """All counts, as lines of the format."""
        with self._lock:
            for kind in _KINDS:
                yield from _heading(f"celery_task_{kind}_total", f"Tasks {kind}.", "counter")
                for labels, count in self._tasks[kind].items():
                    yield _line(f"celery_task_{kind}_total", count, **dict(labels))
            yield from _heading("celery_task_runtime", "Seconds that tasks ran.", "histogram")
            for labels, counts in self._buckets.items():
                for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
                    yield _line("celery_task_runtime_bucket", count, **dict(labels), le=bound)
                yield _line("celery_task_runtime_sum", self._sums[labels], **dict(labels))
                yield _line("celery_task_runtime_count", counts[-1], **dict(labels))


def render(counts: Counts, figures: Iterable[Figure]) -> str:
    """Everything, as a page for Prometheus to read."""
    lines = list(counts.lines())
    by_metric: dict[str, list[Figure]] = defaultdict(list)
    for figure in figures:
        by_metric[figure.metric].append(figure)
    for metric, (name, label, text) in _FIGURES.items():
        lines += _heading(name, text, "gauge")
        lines += [_line(name, each.value, **({label: each.label} if label else {})) for each in by_metric[metric]]
    return "\n".join([*lines, ""])


def _class_of(exception: str | None) -> str:
    """The class of an exception that an event shows as `ValueError('no')`."""
    return str(exception or "").partition("(")[0].rpartition(".")[2]


def _heading(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _line(metric: str, value: float, /, **labels: str) -> str:
    said = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    number = repr(float(value)) if isinstance(value, float) else str(value)
    return f"{metric}{{{said}}} {number}" if said else f"{metric} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
