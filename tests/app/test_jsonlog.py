"""Logs as JSON: every line is an object, and no secret is in it."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from pgtasks import Celery, signals
from pgtasks.app.jsonlog import MASK, JSONFormatter, mask_text, plain
from tests.support.workers import running

JOBS = """
import logging
from pgtasks import Celery
from pgtasks.utils.log import get_task_logger

app = Celery("jsonjobs")
logger = get_task_logger(__name__)

@app.task
def add(x, y):
    logger.info("adding", extra={"order": 7, "api_key": "hidden-1", "nested": {"password": "hidden-2"}})
    print("printed")
    return x + y

@app.task
def fail(password):
    raise ValueError("postgresql://me:hidden-3@host/db")
"""


def formatted(message: str, *args: Any, exc_info: Any = None, **extra: Any) -> dict[str, Any]:
    logger = logging.getLogger("proj")
    record = logger.makeRecord("proj", logging.WARNING, "f.py", 1, message, args, exc_info, extra=extra)
    line = JSONFormatter().format(record)
    assert "\n" not in line
    said: dict[str, Any] = json.loads(line)
    return said


def test_a_record_has_the_documented_fields_and_those_of_its_own() -> None:
    said = formatted("hello %s", "world", order=7, when={"a": [1, (2, {3})]})

    assert said["time"].endswith("Z")
    assert said["time"][10] == "T"
    assert (said["level"], said["logger"], said["message"]) == ("WARNING", "proj", "hello world")
    assert (said["order"], said["when"]) == (7, {"a": [1, [2, [3]]]})
    assert {"process", "pid"} <= said.keys()
    assert "exception" not in said


def test_an_error_is_told_with_its_class_and_its_traceback() -> None:
    try:
        raise KeyError("nothing\nhere")
    except KeyError:
        said = formatted("oh", exc_info=True)

    assert said["exception"] == "builtins.KeyError"
    assert said["error"] == r"'nothing\nhere'"
    assert said["traceback"].startswith("Traceback (most recent call last)")


def test_whatever_is_logged_becomes_json() -> None:
    loop: list[Any] = []
    loop.append(loop)

    said = formatted("\ud800 \x00", big=2**70, nan=float("nan"), what=object, loop=loop, raw=b"\xff", none=None)

    assert said["big"] == 2**70
    assert said["nan"] == "nan"
    assert said["none"] is None
    assert "object" in said["what"]


@pytest.mark.parametrize(
    "text",
    [
        "connecting to postgresql://app:hunter2@db/x now",
        "dsn is 'host=db password=hunter2 user=app'",
        "{'password': 'hunter2', 'user': 'app'}",
        'Authorization failed: {"access_token": "hunter2"}',
        "API_KEY=hunter2",
    ],
)
def test_passwords_in_messages_are_masked(text: str) -> None:
    said = formatted(text)

    assert "hunter2" not in json.dumps(said)
    assert MASK in said["message"]
    assert mask_text(mask_text(text)) == mask_text(text)


@pytest.mark.parametrize("name", ["password", "DB_PASSWORD", "api_key", "apikey", "auth.token", "secret_key", "Cookie"])
def test_secrets_are_known_by_their_names_at_any_depth(name: str) -> None:
    assert plain({"a": [{name: "x"}]}) == {"a": [{name: MASK}]}


@pytest.mark.parametrize("name", ["tokens_used", "monkey", "passenger", "keyword", "secretary"])
def test_other_names_are_not_taken_for_secrets(name: str) -> None:
    assert plain({name: 1}) == {name: 1}


def test_the_setting_formats_both_loggers_and_the_signals_still_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app = Celery("json", set_as_current=False, worker_log_format="json")
    monkeypatch.setattr(type(app.log), "_setup", False)
    seen: list[Any] = []

    def note(logger: logging.Logger, format: str, **kwargs: Any) -> None:
        seen.append((logger.name, format, type(logger.handlers[-1].formatter)))

    signals.after_setup_logger.connect(note)
    signals.after_setup_task_logger.connect(note)
    for name in (None, "celery.task"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])

    app.log.setup_logging_subsystem("INFO", str(tmp_path / "log"))

    signals.after_setup_logger.disconnect(note)
    signals.after_setup_task_logger.disconnect(note)
    assert seen == [("root", "json", JSONFormatter), ("celery.task", "json", JSONFormatter)]


def test_every_line_of_a_worker_is_json_and_says_which_task_it_is_about(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jsonjobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    environ = {"PYTHONPATH": str(tmp_path)}
    from jsonjobs import add, fail  # type: ignore[import-not-found]  # it was written just now

    with running(tmp_path / "w", "--log-format", "json", module="jsonjobs", environ=environ) as worker:
        result = add.delay(1, 2)
        assert result.get(timeout=60) == 3
        with pytest.raises(ValueError):
            fail.delay(password="hidden-4").get(timeout=60)
        assert worker.stop() == 0

    text = worker.output()
    lines = [json.loads(line) for line in text.splitlines()]
    assert "hidden-" not in text
    warned = [line for line in lines if line["logger"] == "py.warnings"]
    assert [line["message"][:16] for line in warned] == ["SecurityWarning:"] * (os.getuid() == 0)
    (adding,) = [line for line in lines if line["message"] == "adding"]
    assert (adding["task_id"], adding["task_name"], adding["retries"]) == (result.id, "jsonjobs.add", 0)
    assert (adding["order"], adding["api_key"], adding["nested"]) == (7, MASK, {"password": MASK})
    about = [line for line in lines if line.get("task_id") == result.id]
    assert any("received" in line["message"] for line in about)
    (done,) = [line for line in about if "succeeded" in line["message"]]
    assert done["data"]["return_value"] == "3"
    assert done["data"]["runtime"] > 0
    (failed,) = [line for line in lines if line.get("exception") == "builtins.ValueError"]
    assert failed["level"] == "ERROR"
    assert "Traceback" in failed["traceback"]
