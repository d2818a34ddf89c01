"""call, result, purge, list, report and shell, on a real database without a worker."""

from __future__ import annotations

import json
import sys
from typing import Any

import psycopg
import pytest

from pgtasks import Celery
from pgtasks.app.discovery import find_app
from tests.bin.conftest import Command


@pytest.fixture
def app(project: str, database_url: str) -> Any:
    return find_app(project)


def test_call_prints_the_id_of_a_task_that_waits_in_its_queue(
    command: Command, app: Any, project: str, conn: psycopg.Connection[Any]
) -> None:
    result = command("-A", project, "call", f"{project}.add", "-a", "[1, 2]", "--queue", "mail")

    row = conn.execute("SELECT id::text, name, queue FROM pgtasks.message").fetchone()
    assert row == (result.stdout.strip(), f"{project}.add", "mail")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-a", "[1"], "is not JSON"),
        (["-a", "{}"], "was not an array"),
        (["-k", "[]"], "was not an object"),
        (["--eta", "soon"], "Invalid value for '--eta'"),
    ],
)
def test_arguments_that_cannot_be_read_are_refused_before_anything_is_sent(
    command: Command, app: Any, project: str, conn: psycopg.Connection[Any], options: list[str], reason: str
) -> None:
    result = command("-A", project, "call", "tasks.add", *options)

    assert result.exit_code == 2
    assert reason in result.stderr
    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (0,)


def test_result_prints_the_value_of_a_task_that_succeeded(command: Command, app: Any, project: str) -> None:
    app.backend.store_result("an-id", {"x": [1]}, "SUCCESS")

    assert command("-A", project, "result", "an-id").stdout == "{'x': [1]}\n"
    as_json = json.loads(command("-A", project, "result", "an-id", "--json").stdout)
    assert as_json == {"id": "an-id", "status": "SUCCESS", "result": {"x": [1]}}


def test_result_of_a_task_that_failed_is_an_error_and_its_traceback_can_be_seen(
    command: Command, app: Any, project: str
) -> None:
    app.backend.store_result("an-id", ValueError("no"), "FAILURE", traceback="Traceback: here")

    failed = command("-A", project, "result", "an-id")

    assert failed.exit_code == 1
    assert "ended FAILURE: ValueError('no')" in failed.stderr
    assert command("-A", project, "result", "an-id", "--traceback").stdout == "Traceback: here\n"


def test_result_that_does_not_arrive_in_time_says_so(command: Command, app: Any, project: str) -> None:
    result = command("-A", project, "result", "no-such-task", "--timeout", "0.01")

    assert result.exit_code == 69
    assert "Is a worker consuming its queue?" in result.stderr


def test_purge_asks_first_and_leaves_other_queues_alone(
    command: Command, app: Any, project: str, conn: psycopg.Connection[Any]
) -> None:
    for queue in ("celery", "celery", "mail"):
        app.send_task("tasks.add", queue=queue)

    refused = command("-A", project, "purge", input="n\n")
    purged = command("-A", project, "purge", "-f", "-Q", "celery,mail", "-X", "mail")

    assert refused.exit_code == 1
    assert purged.stdout == "Purged 2 messages from 1 known task queue.\n"
    assert conn.execute("SELECT queue FROM pgtasks.ready").fetchall() == [("mail",)]
    assert command("-A", project, "purge", "-f", "-Q", "celery").stdout == "No messages purged from 1 queue.\n"


def test_list_shows_what_waits_and_how_queues_are_bound(command: Command, app: Any, project: str) -> None:
    app.send_task("tasks.add")
    app.send_task("tasks.add", countdown=3600)
    Celery("others", set_as_current=False).send_task("tasks.add", queue="forgotten")

    queues = json.loads(command("-A", project, "list", "queues", "--json").stdout)
    bindings = json.loads(command("-A", project, "list", "bindings", "--json").stdout)

    assert queues == [
        {"queue": "celery", "ready": 1, "scheduled": 1},
        {"queue": "forgotten", "ready": 1, "scheduled": 0},
    ]
    assert bindings == [{"queue": "celery", "exchange": "celery", "routing_key": "celery"}]


def test_report_names_versions_and_no_secrets(command: Command, app: Any, project: str) -> None:
    result = command("-A", project, "report")

    assert "pgtasks:" in result.stdout
    assert sys.version.split()[0] in result.stdout


def test_shell_knows_the_app_the_tasks_and_canvases(command: Command, app: Any, project: str) -> None:
    program = "print(app.main, add.name, chain.__name__, celery is app)\n"

    result = command("-A", project, "shell", "--python", input=program)

    assert f"proj {project}.add chain True" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("worker -f /nowhere/worker.log", "Cannot start: [Errno 2] No such file or directory: '/nowhere/worker.log'"),
        ("beat -f /nowhere/beat.log", "Look at --uid, --gid, --umask and --logfile"),
        ("events -c nowhere.Camera", "'nowhere.Camera' cannot be imported: No module named 'nowhere'"),
        ("events -c pgtasks.Nothing", "'pgtasks.Nothing' cannot be imported"),
        ("metrics --port 65536", "65536 is not in the range"),
        ("metrics --host 192.0.2.1", "Cannot listen on 192.0.2.1:9808"),
    ],
)
@pytest.mark.filterwarnings("ignore::pgtasks.exceptions.SecurityWarning")
def test_what_cannot_start_says_why_in_a_line(command: Command, project: str, arguments: str, words: str) -> None:
    result = command("-A", project, *arguments.split())

    assert result.exit_code != 0
    assert words in result.stderr
    assert "Traceback" not in result.output
