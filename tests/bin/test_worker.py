"""What `pgtasks worker` makes of its options; the worker itself is replaced by one that notes them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pgtasks.app.discovery import find_app
from pgtasks.bin import daemon
from pgtasks.bin import worker as worker_command
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.utils.nodenames import gethostname
from tests.bin.conftest import Command


class NotedWorker:
    """Takes the place of the worker."""

    made: NotedWorker

    def __init__(self, app: Any, **options: Any) -> None:
        self.app = app
        self.options = options
        NotedWorker.made = self

    def start(self) -> int:
        return 3


@pytest.fixture(autouse=True)
def _noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_command, "Worker", NotedWorker)
    monkeypatch.setattr(daemon, "check_privileges", lambda accept: None)


def test_the_workers_exit_status_is_the_commands(command: Command, project: str) -> None:
    assert command("-A", project, "worker").exit_code == 3


def test_why_a_worker_cannot_start_is_told_where_it_was_started_and_in_its_log_file(
    command: Command, project: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def find_nothing(worker: NotedWorker) -> int:
        raise ImproperlyConfigured("No queue is left")

    monkeypatch.setattr(NotedWorker, "start", find_nothing)
    monkeypatch.setattr("sys.stderr", sys.stderr)  # to be put back

    assert command("-A", project, "worker", "-f", tmp_path / "x.log").exit_code == 1
    assert [record.getMessage() for record in caplog.records] == ["Cannot go on: No queue is left"]


def test_a_worker_that_breaks_down_logs_one_record_of_it_and_fails(
    command: Command, project: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(worker: NotedWorker) -> int:
        monkeypatch.setattr(type(worker.app.log), "already_setup", True)  # as a worker has done by then
        raise RuntimeError("out of luck")

    monkeypatch.setattr(NotedWorker, "start", break_down)

    assert command("-A", project, "worker").exit_code == 1
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("celery.worker", "CRITICAL")
    assert record.getMessage() == "Unrecoverable error: RuntimeError('out of luck')"
    assert record.exc_info is not None


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["-c", "4"], "concurrency", 4),
        (["-c", "auto"], "concurrency", "auto"),
        ([], "concurrency", None),
        (["--autoscale=3,10"], "concurrency", 3),
        (["--autoscale=3,10"], "autoscale", (10, 3)),
        (["--autoscale=10"], "concurrency", 1),
        (["--autoscale=3,10", "-P", "threads"], "concurrency", 10),
        (["--autoscale=3,10", "-P", "threads"], "autoscale", None),
        (["-P", "threads"], "pool", "threads"),
        (["-P", "processes"], "pool", "prefork"),
        (["--pool=aio"], "pool", "aio"),
        (["-P", "gevent"], "pool", "gevent"),
        ([], "pool", None),
        (["-Q", "a,b"], "queues", ["a", "b"]),
        (["-X", "a"], "exclude_queues", ["a"]),
        (["-l", "info"], "loglevel", 20),
        (["--time-limit", "1.5"], "time_limit", 1.5),
        (["--soft-time-limit", "1"], "soft_time_limit", 1.0),
        (["--max-tasks-per-child", "7"], "max_tasks_per_child", 7),
        (["--max-memory-per-child", "7"], "max_memory_per_child", 7),
        (["--discard"], "purge", True),
        (["-f", "x-%n.log"], "logfile", "x-%n.log"),
        (["-n", "w1@%h"], "hostname", f"w1@{gethostname()}"),
        (["-n", "w1"], "hostname", "celery@w1"),
        ([], "hostname", f"celery@{gethostname()}"),
    ],
)
def test_options_reach_the_worker(
    command: Command, project: str, arguments: list[str], name: str, value: object
) -> None:
    result = command("-A", project, "worker", *arguments)

    assert result.exit_code == 3, result.output
    assert NotedWorker.made.options[name] == value


@pytest.mark.parametrize(
    ("arguments", "setting", "value"),
    [
        (["--prefetch-multiplier", "9"], "worker_prefetch_multiplier", 9),
        (["--disable-prefetch"], "worker_disable_prefetch", True),
        (["-E"], "worker_send_task_events", True),
        (["--pool-start-method", "spawn"], "worker_pool_start_method", "spawn"),
        (["--", "worker.max_tasks_per_child=7"], "worker_max_tasks_per_child", 7),
    ],
)
def test_options_that_are_settings_change_the_settings(
    command: Command, project: str, arguments: list[str], setting: str, value: object
) -> None:
    command("-A", project, "worker", *arguments)

    assert getattr(find_app(project).conf, setting) == value


def test_options_of_celery_that_have_nothing_left_to_do_are_accepted(command: Command, project: str) -> None:
    options = "-Ofair --without-gossip --without-mingle --without-heartbeat --heartbeat-interval 5 -S state.db"

    assert command("-A", project, "worker", *options.split()).exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-P", "eventlet"], "Take `-P gevent`"),
        (["-P", "magic"], "'magic' is none of prefork, threads"),
        (["-c", "-1"], "must be a non-negative integer or 'auto', got '-1'"),
        (["--autoscale", "a,b"], "as in 10,3"),
        (["-l", "loud"], "'LOUD' is not one of"),
        (["--", "nonsense"], "as in worker.prefetch_multiplier=8"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_what_would(
    command: Command, project: str, arguments: list[str], reason: str
) -> None:
    result = command("-A", project, "worker", *arguments)

    assert result.exit_code == 2
    assert reason in result.stderr


def test_a_second_worker_with_the_same_pid_file_does_not_start(command: Command, project: str, tmp_path: Path) -> None:
    (tmp_path / "w1.pid").write_text(f"{os.getppid()}\n")

    result = command("-A", project, "worker", "-n", "w1@%h", "--pidfile", tmp_path / "%n.pid")

    assert result.exit_code == 73
    assert f"Seems we're already running? (pid: {os.getppid()})" in result.stderr


def test_an_account_that_does_not_exist_is_one_line(command: Command, project: str) -> None:
    result = command("-A", project, "worker", "--uid", "no-such-user")

    assert result.exit_code == 1
    assert "User does not exist: no-such-user" in result.stderr


def test_a_log_file_that_cannot_be_written_to_is_told_before_going_to_the_background(
    command: Command, project: str
) -> None:
    result = command("-A", project, "worker", "--detach", "--logfile", "/dev/null/worker.log")

    assert result.exit_code == 1
    assert "/dev/null/worker.log" in result.stderr
    assert result.stderr.count("\n") == 1
