"""opentelemetry-instrumentation-celery, unmodified: producer and worker make one trace, with the right parents."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contrib import watched
from tests.support import postgres

pytest.importorskip("opentelemetry.instrumentation.celery")

MODULE = "tests.contrib.otel_jobs"
PREFIX = f"{MODULE}."


class Trace:
    """All spans, and what the producer has seen."""

    def __init__(self, spans: list[dict[str, Any]], seen: dict[str, Any]) -> None:
        self.spans = spans
        self.seen = seen

    def tree(self, root: str) -> Any:
        """The names of the spans below the root of this name, by name."""
        (span,) = [span for span in self.spans if span["name"] == root and span["parent"] is None]
        return self._below(span)

    def _below(self, parent: dict[str, Any]) -> list[Any]:
        children = [span for span in self.spans if span["parent"] == parent["id"]]
        assert {span["trace"] for span in children} <= {parent["trace"]}
        return sorted([span["name"].replace(PREFIX, ""), *self._below(span)] for span in children)

    def one(self, root: str, name: str) -> dict[str, Any]:
        """The span of this name in the trace of this root."""
        (trace,) = {span["trace"] for span in self.spans if span["name"] == root and span["parent"] is None}
        (span,) = [s for s in self.spans if s["trace"] == trace and s["name"] == name.replace("/", f"/{PREFIX}")]
        return span


@pytest.fixture(scope="module")
def trace(_database: str, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    postgres.empty(_database)
    with watched.worker_of(MODULE, tmp_path_factory.mktemp("otel"), _database) as (worker, environ):
        seen = watched.produce(MODULE, environ)
        spans = watched.reports(environ)
        assert "Failed to detach context" not in worker.output()
    return Trace(spans, seen)


SENT_AND_RUN = ["apply_async/add", ["run/add", ["inside"]]]


def test_the_run_of_a_task_is_the_child_of_the_span_that_sent_it(trace: Trace) -> None:
    assert trace.seen["add"] == 2
    assert trace.tree("add") == [SENT_AND_RUN]
    sent, ran = trace.one("add", "apply_async/add"), trace.one("add", "run/add")
    assert (sent["kind"], ran["kind"]) == ("PRODUCER", "CONSUMER")
    assert sent["pid"] != ran["pid"]
    assert ran["attributes"]["celery.state"] == "SUCCESS"
    assert ran["attributes"]["messaging.message.id"] == sent["attributes"]["messaging.message.id"]
    assert sent["attributes"]["messaging.destination_kind"] == "queue"


def test_a_task_that_a_task_sends_is_a_child_of_its_run(trace: Trace) -> None:
    assert trace.tree("delegate") == [["apply_async/delegate", ["run/delegate", SENT_AND_RUN]]]


def test_an_exception_is_recorded_once_on_the_span_of_the_run(trace: Trace) -> None:
    assert trace.seen["fail"] == "KeyError('lost')"
    ran = trace.one("fail", "run/fail")
    assert (ran["status"], ran["exceptions"]) == ("ERROR", ["KeyError"])
    assert trace.one("fail", "apply_async/fail")["exceptions"] == []


def test_a_retry_is_sent_by_the_run_that_asks_for_it_and_leaks_no_span_into_the_next_task(trace: Trace) -> None:
    assert trace.seen["again"] == 1
    assert trace.tree("again") == [["apply_async/again", ["run/again", ["apply_async/again", ["run/again"]]]]]
    reasons = [s["attributes"].get("celery.retry.reason") for s in trace.spans if s["name"] == f"run/{PREFIX}again"]
    assert reasons == ["Retry in 0.01s: ValueError('not yet')", None]


def test_a_task_sent_by_its_name_is_traced_as_well(trace: Trace) -> None:
    assert trace.tree("send_task") == [SENT_AND_RUN]


@pytest.mark.parametrize(
    ("canvas", "value", "tasks"),
    [
        ("chain", 4, [SENT_AND_RUN, SENT_AND_RUN]),
        ("group", [2, 4], [SENT_AND_RUN, SENT_AND_RUN]),
        ("chord", 6, [SENT_AND_RUN, SENT_AND_RUN, ["apply_async/total", ["run/total"]]]),
        ("link", 2, [SENT_AND_RUN, SENT_AND_RUN]),
    ],
)
def test_all_tasks_of_a_canvas_are_children_of_the_span_that_sent_it(
    trace: Trace, canvas: str, value: Any, tasks: Any
) -> None:
    assert trace.seen[canvas] == value
    assert trace.tree(canvas) == tasks


def test_no_span_is_without_the_parent_it_names(trace: Trace) -> None:
    known = {span["id"] for span in trace.spans}
    assert [span["name"] for span in trace.spans if span["parent"] not in {None, *known}] == []
