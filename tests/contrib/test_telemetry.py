"""Spans of our own: one trace from the caller to the result, over processes, retries, canvases and workflows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk")

from tests.contrib.spans import Spans, collected

MODULE = "tests.contrib.telemetry_jobs"
ADDED = ["send add", ["process add", ["inside"]]]


@pytest.fixture(scope="module")
def spans(_database: str, tmp_path_factory: pytest.TempPathFactory) -> Spans:
    return collected(MODULE, tmp_path_factory.mktemp("telemetry"), _database)


def test_a_run_is_below_its_call_and_what_it_does_is_below_the_run(spans: Spans) -> None:
    assert spans.seen["add"] == 2
    assert spans.tree("add") == [ADDED]
    sent, ran = spans.named("send add")[0], spans.named("process add")[0]
    assert (sent["kind"], ran["kind"]) == ("PRODUCER", "CONSUMER")
    assert sent["pid"] != ran["pid"]
    assert ran["attributes"]["messaging.message.id"] == sent["attributes"]["messaging.message.id"]
    assert ran["attributes"]["messaging.destination.name"] == sent["attributes"]["messaging.destination.name"] == "celery"
    assert ran["attributes"]["pgtasks.state"] == "SUCCESS"
    assert ran["attributes"]["pgtasks.waited_s"] >= 0


def test_what_a_task_calls_is_below_its_run(spans: Spans) -> None:
    assert spans.tree("delegate") == [["send delegate", ["process delegate", ADDED]]]


def test_a_failure_is_on_the_run_and_a_retry_is_none(spans: Spans) -> None:
    assert spans.seen["fail"] == "KeyError('lost')"
    (failed,) = spans.named("process fail")
    assert (failed["status"], failed["events"]) == ("ERROR", ["exception"])
    assert spans.seen["again"] == 1
    assert spans.tree("again") == [["send again", ["process again", ["send again", ["process again"]]]]]
    first, second = spans.named("process again")
    assert (first["status"], first["events"], first["attributes"]["pgtasks.state"]) == ("UNSET", ["retry"], "RETRY")
    assert second["attributes"]["pgtasks.retries"] == 1


def test_canvases_and_many_calls_are_below_what_has_sent_them(spans: Spans) -> None:
    assert spans.tree("chord") == [ADDED, ADDED, ["send total", ["process total"]]]
    assert spans.tree("many") == [ADDED, ADDED]


def test_steps_of_a_workflow_are_spans_where_they_run_and_none_where_they_are_remembered(spans: Spans) -> None:
    assert spans.seen["order"] == 6
    (sent,) = spans.tree("order")
    assert sent == [
        "send order",
        ["process order", ["step add", ["inside"]], ["step show"]],
        ["process order", ["step total"]],
    ]
    states = [span["attributes"]["pgtasks.state"] for span in spans.named("process order")]
    assert states == ["SUSPENDED", "SUCCESS"]
    assert spans.tree("aorder") == [["send aorder", ["process aorder", ["step slow", ["inside"]]]]]


def test_no_span_is_without_the_parent_it_names(spans: Spans) -> None:
    assert spans.orphans() == []


def test_runs_may_begin_traces_of_their_own_that_are_linked_to_the_call(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELEMETRY_LINKS", "1")

    spans = collected(MODULE, tmp_path, database_url)

    sent, ran = spans.named("send add")[0], spans.named("process add")[0]
    assert ran["parent"] is None
    assert ran["trace"] != sent["trace"]
    assert ran["links"] == [sent["id"]]


def test_nothing_of_it_is_imported_before_it_is_asked_for(database_url: str) -> None:
    program = """
import sys
from pgtasks import Celery
app = Celery("plain")
app.send_task("x")
print([name for name in sys.modules if name.startswith("opentelemetry")], app.around_step)
"""

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert said.stdout.split() == ["[]", "None"]
