"""opentelemetry-instrumentation-celery, unmodified: producer and worker make one trace, with the right parents."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("opentelemetry.instrumentation.celery")

from tests.contrib.spans import Spans, collected

MODULE = "tests.contrib.otel_jobs"


@pytest.fixture(scope="module")
def spans(_database: str, tmp_path_factory: pytest.TempPathFactory) -> Spans:
    return collected(MODULE, tmp_path_factory.mktemp("otel"), _database)


def one(spans: Spans, root: str, name: str) -> dict[str, Any]:
    """The span of this name in the trace of this root."""
    trace = spans.root(root)["trace"]
    (span,) = [span for span in spans.named(name) if span["trace"] == trace]
    return span


SENT_AND_RUN = ["apply_async/add", ["run/add", ["inside"]]]


def test_the_run_of_a_task_is_the_child_of_the_span_that_sent_it(spans: Spans) -> None:
    assert spans.seen["add"] == 2
    assert spans.tree("add") == [SENT_AND_RUN]
    sent, ran = one(spans, "add", "apply_async/add"), one(spans, "add", "run/add")
    assert (sent["kind"], ran["kind"]) == ("PRODUCER", "CONSUMER")
    assert sent["pid"] != ran["pid"]
    assert ran["attributes"]["celery.state"] == "SUCCESS"
    assert ran["attributes"]["messaging.message.id"] == sent["attributes"]["messaging.message.id"]
    assert sent["attributes"]["messaging.destination_kind"] == "queue"


def test_a_task_that_a_task_sends_is_a_child_of_its_run(spans: Spans) -> None:
    assert spans.tree("delegate") == [["apply_async/delegate", ["run/delegate", SENT_AND_RUN]]]


def test_an_exception_is_recorded_once_on_the_span_of_the_run(spans: Spans) -> None:
    assert spans.seen["fail"] == "KeyError('lost')"
    ran = one(spans, "fail", "run/fail")
    assert (ran["status"], ran["exceptions"]) == ("ERROR", ["KeyError"])
    assert one(spans, "fail", "apply_async/fail")["exceptions"] == []


def test_a_retry_is_sent_by_the_run_that_asks_for_it_and_leaks_no_span_into_the_next_task(spans: Spans) -> None:
    assert spans.seen["again"] == 1
    assert spans.tree("again") == [["apply_async/again", ["run/again", ["apply_async/again", ["run/again"]]]]]
    reasons = [span["attributes"].get("celery.retry.reason") for span in spans.named("run/again")]
    assert reasons == ["Retry in 0.01s: ValueError('not yet')", None]


def test_a_task_sent_by_its_name_is_traced_as_well(spans: Spans) -> None:
    assert spans.tree("send_task") == [SENT_AND_RUN]


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
    spans: Spans, canvas: str, value: Any, tasks: Any
) -> None:
    assert spans.seen[canvas] == value
    assert spans.tree(canvas) == tasks


def test_no_span_is_without_the_parent_it_names(spans: Spans) -> None:
    assert spans.orphans() == []
