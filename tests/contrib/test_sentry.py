"""sentry-sdk's CeleryIntegration, unmodified: spans with the right parents, and every error once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contrib import watched
from tests.support import postgres

pytest.importorskip("sentry_sdk")

MODULE = "tests.contrib.sentry_jobs"


class Told:
    """What Sentry was told, and what the producer has seen."""

    def __init__(self, reports: list[dict[str, Any]], seen: dict[str, Any]) -> None:
        self.reports = reports
        self.seen = seen

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [report for report in self.reports if report["type"] == kind]

    def root(self, name: str) -> dict[str, Any]:
        (span,) = [span for span in self.of("span") if span["name"] == f"test {name}"]
        return span

    def tree(self, root: str) -> Any:
        """The names of the spans below the transaction of this name, but for those of other integrations."""
        return self._below(self.root(root))

    def _below(self, parent: dict[str, Any]) -> list[Any]:
        children = [s for s in self.of("span") if s["parent"] == parent["id"] and s["name"].startswith("queue")]
        assert {span["trace"] for span in children} <= {parent["trace"]}
        return sorted([span["name"].replace(f"{MODULE}.", ""), *self._below(span)] for span in children)

    def errors(self, root: str) -> list[Any]:
        trace = self.root(root)["trace"]
        return [event["error"] for event in self.of("event") if event["trace"] == trace]

    def spans(self, root: str, name: str) -> list[dict[str, Any]]:
        trace = self.root(root)["trace"]
        return [s for s in self.of("span") if s["trace"] == trace and s["name"].startswith(name)]


@pytest.fixture(scope="module")
def told(_database: str, tmp_path_factory: pytest.TempPathFactory) -> Told:
    postgres.empty(_database)
    with watched.worker_of(MODULE, tmp_path_factory.mktemp("sentry"), _database) as (worker, environ):
        seen = watched.produce(MODULE, environ)
        (child,) = worker.children()
        assert worker.stop() == 0
    reports = watched.reports(environ)
    # Before the child left, what it had not sent yet was sent.
    assert child in {report["pid"] for report in reports if report["type"] == "flush"}
    return Told(reports, seen)


def sent_and_run(task: str, *inside: Any) -> list[Any]:
    """As with Celery: `apply_async`, `send_task` in it, in that the publishing, and the worker's transaction."""
    run = [f"queue.task.celery {task}", [f"queue.process {task}", *inside]]
    return [f"queue.submit.celery {task}", [f"queue.submit.celery {task}", [f"queue.publish {task}"], run]]


def test_the_run_of_a_task_is_the_child_of_the_span_that_sent_it(told: Told) -> None:
    assert told.seen["add"] == 2
    assert told.tree("add") == [sent_and_run("add")]
    (published,), (processed,) = told.spans("add", "queue.publish"), told.spans("add", "queue.process")
    for data in (published["data"], processed["data"]):
        assert data["messaging.destination.name"] == "celery"
        assert data["messaging.system"] == "postgresql"
        assert data["messaging.message.retry.count"] == 0
    assert published["data"]["messaging.message.id"] == processed["data"]["messaging.message.id"]
    assert processed["data"]["messaging.message.receive.latency"] > 0
    assert published["pid"] != processed["pid"]


def test_a_task_that_a_task_sends_is_a_child_of_its_run(told: Told) -> None:
    assert told.tree("delegate") == [sent_and_run("delegate", sent_and_run("add"))]


def test_an_exception_is_captured_once_with_the_frames_of_the_task(told: Told) -> None:
    assert told.seen["fail"] == "KeyError('lost')"
    assert told.errors("fail") == [["KeyError", "'lost'", "celery"]]
    (event,) = [event for event in told.of("event") if event["task"] == f"{MODULE}.fail"]
    (processed,) = told.spans("fail", "queue.process")
    assert event["frames"][-1] == "fail"
    assert event["task_id"] == processed["data"]["messaging.message.id"]
    (transaction,) = told.spans("fail", "queue.task.celery")
    assert (event["parent"], transaction["status"]) == (transaction["id"], "internal_error")


def test_an_exception_of_a_task_with_its_own_call_is_captured_once_too(told: Told) -> None:
    assert [error[0] for error in told.errors("fail_in_call")] == ["LookupError"]


def test_expected_exceptions_and_retries_are_not_captured(told: Told) -> None:
    assert told.errors("fail_as_expected") == told.errors("again") == []


def test_a_retry_is_sent_by_the_run_that_asks_for_it(told: Told) -> None:
    assert told.seen["again"] == 1
    assert told.tree("again") == [sent_and_run("again", sent_and_run("again"))]
    counts = sorted(span["data"]["messaging.message.retry.count"] for span in told.spans("again", "queue.publish"))
    assert counts == [0, 1]


def test_headers_of_the_caller_travel_beside_those_of_the_trace(told: Told) -> None:
    assert told.seen["headers"]["tenant"] == "acme"
    assert {"sentry-trace", "baggage"} <= set(told.seen["headers"])


def test_a_task_sent_by_its_name_is_traced_as_well(told: Told) -> None:
    run = ["queue.task.celery add", ["queue.process add"]]
    assert told.tree("send_task") == [["queue.submit.celery add", ["queue.publish add"], run]]


@pytest.mark.parametrize(
    ("canvas", "value", "tasks"),
    [
        ("chain", 4, ["add", "add"]),
        ("group", [2, 4], ["add", "add"]),
        ("chord", 6, ["add", "add", "total"]),
    ],
)
def test_all_tasks_of_a_canvas_are_children_of_the_transaction_that_sent_it(
    told: Told, canvas: str, value: Any, tasks: list[str]
) -> None:
    assert told.seen[canvas] == value
    assert told.tree(canvas) == [sent_and_run(task) for task in tasks]


def test_a_callback_is_part_of_the_trace_and_its_task_is_sent_once(told: Told) -> None:
    assert told.seen["link"] == 2
    assert len(told.spans("link", "queue.task.celery")) == 2
    assert len(told.spans("link", "queue.publish")) == 2


def test_a_periodic_task_checks_in_when_it_is_sent_and_when_it_has_run(told: Told) -> None:
    sent, ran = told.of("check_in")
    assert (sent["monitor_slug"], sent["status"], ran["status"]) == ("hourly", "in_progress", "ok")
    assert sent["check_in_id"] == ran["check_in_id"]
    assert sent["pid"] != ran["pid"]
