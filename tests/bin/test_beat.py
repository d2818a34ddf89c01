"""`pgtasks beat` and `pgtasks worker -B` as processes, and the subcommands."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgtasks import Celery
from pgtasks.beat.service import Beat
from tests.bin.conftest import Command
from tests.support.workers import eventually

Conn = psycopg.Connection[Any]

SCHEDULE = """
from pgtasks import Celery
from pgtasks.beat import BeatLazyFunc
from pgtasks.schedules import crontab

app = Celery("proj", set_as_current=False)
app.conf.beat_schedule = {
    "often": {"task": f"{__name__}.often", "schedule": 0.2, "args": (BeatLazyFunc(lambda: 42),)},
    "daily": {"task": "proj.daily", "schedule": crontab(minute="0", hour="4")},
}

@app.on_after_configure.connect
def setup(sender, **kwargs):
    sender.add_periodic_task(3600, often.s(1), name="added")

@app.task
def often(n):
    return n
"""


@pytest.fixture
def proj(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = f"beat_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(SCHEDULE)
    monkeypatch.chdir(tmp_path)
    return name


@contextmanager
def running(proj: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    log = Path(f"{arguments[0]}.log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pgtasks", "-A", proj, *arguments],
            env=os.environ, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield process
        process.terminate()
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("level", ["warning", "WARNING", logging.WARNING])
def test_the_banner_names_the_log_level_however_it_was_given(database_url: str, level: Any) -> None:
    with Celery("banner", broker=database_url, set_as_current=False) as app:
        assert "[stderr]@%WARNING" in Beat(app=app, loglevel=level).banner()


def sent(conn: Conn, name: str = "%often") -> int:
    return conn.execute("SELECT count(*) FROM pgtasks.message WHERE name LIKE %s", [name]).fetchone()[0]


def test_beat_sends_what_is_due_and_ends_when_it_is_told_to(proj: str, conn: Conn) -> None:
    with running(proj, "beat", "-l", "INFO"):
        eventually(lambda: sent(conn) >= 3, "three turns")

    text = Path("beat.log").read_text()
    assert "pgtasks beat" in text
    assert "beat: Starting..." in text
    assert f"Scheduler: Sending due task often ({proj}.often)" in text
    assert "beat: Shutting down..." in text
    assert sent(conn, "proj.daily") == 0


def test_beat_survives_the_loss_of_its_connections(proj: str, conn: Conn) -> None:
    with running(proj, "beat"):
        eventually(lambda: sent(conn) >= 1)
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        before = sent(conn)
        eventually(lambda: sent(conn) >= before + 2, "turns after the cut")


def test_a_worker_can_run_the_scheduler_beside_itself_and_takes_it_along(proj: str, conn: Conn) -> None:
    done = "SELECT count(*) FROM pgtasks.result WHERE state = 'SUCCESS'"
    with running(proj, "worker", "-B", "-c", "1", "-l", "INFO") as worker:
        eventually(lambda: conn.execute(done).fetchone()[0] >= 2, "two turns that ran")
        children = {int(pid) for pid in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()}

    assert len(children) == 2
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere orphans notice a moment later")
def test_the_scheduler_in_a_worker_does_not_survive_it(proj: str, conn: Conn) -> None:
    with pytest.raises(AssertionError), running(proj, "worker", "-B", "-c", "1") as worker:
        eventually(lambda: sent(conn) >= 1)
        children = [int(pid) for pid in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()]
        worker.send_signal(signal.SIGKILL)
        worker.wait()

    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is looked at")
def test_a_worker_that_starts_again_has_one_scheduler_beside_it(proj: str, conn: Conn) -> None:
    with running(proj, "worker", "-B", "-c", "1", "-l", "INFO") as worker:
        log = Path("worker.log")
        eventually(lambda: log.read_text().count(" ready.") == 1)
        worker.send_signal(signal.SIGHUP)
        eventually(lambda: log.read_text().count(" ready.") == 2)
        children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()

    assert len(children) == 2


def test_the_periodic_tasks_are_listed_paused_and_resumed(command: Command, proj: str) -> None:
    listed = json.loads(command("-A", proj, "beat", "list", "--json").stdout)
    assert {each["name"] for each in listed} == {"often", "daily", "added"}
    assert {each["is_paused"] for each in listed} == {False}

    assert command("-A", proj, "beat", "pause", "daily", "often").stdout == "daily: paused\noften: paused\n"
    assert f"often  <freq: now>  {proj}.often  (paused)" in command("-A", proj, "beat", "list").stdout
    assert command("-A", proj, "beat", "resume", "daily").stdout == "daily: resumed\n"

    mistyped = command("-A", proj, "beat", "pause", "dayly")
    assert (mistyped.exit_code, "There is no periodic task 'dayly' here" in mistyped.stderr) == (2, True)


def test_a_periodic_task_is_sent_on_request_with_its_arguments(command: Command, proj: str, conn: Conn) -> None:
    printed = command("-A", proj, "beat", "run", "often").stdout.strip()

    task_id, name, payload = conn.execute("SELECT id::text, name, payload FROM pgtasks.message").fetchone()
    assert (task_id, name, json.loads(payload)[:2]) == (printed, f"{proj}.often", [[42], {}])
    assert "There are: added, daily, often." in " ".join(command("-A", proj, "beat", "run", "no").stderr.split())


def test_past_turns_are_sent_once_and_too_many_of_them_only_on_purpose(command: Command, proj: str, conn: Conn) -> None:
    period = ("--from", "2026-01-01", "--to", "2026-01-04")
    dry = command("-A", proj, "beat", "backfill", "daily", *period, "--dry-run")
    assert dry.stdout.split("\n")[0] == "2026-01-01T04:00:00+00:00  -"
    assert sent(conn, "proj.daily") == 0

    for _ in range(2):
        assert command("-A", proj, "beat", "backfill", "daily", *period).exit_code == 0
    assert sent(conn, "proj.daily") == 3

    refused = command("-A", proj, "beat", "backfill", "often", *period)
    assert (refused.exit_code, "has more than 1000 turns" in " ".join(refused.stderr.split())) == (2, True)


@pytest.mark.parametrize(
    "period", [["2026-01-04", "--to", "2026-01-01"], ["2026-01-01", "--to", "2026-01-01"], ["2999-01-01"]]
)
def test_a_period_that_ends_before_it_begins_is_refused_and_not_filled_with_nothing(
    command: Command, proj: str, conn: Conn, period: list[str]
) -> None:
    refused = command("-A", proj, "beat", "backfill", "daily", "--from", *period)

    said = " ".join(refused.stderr.split())
    assert (refused.exit_code, f"The period from {period[0]}T00:00:00+00:00 to" in said) == (2, True)
    assert sent(conn, "proj.daily") == 0


def test_a_scheduler_says_by_which_name_it_is_asked_answers_a_health_check_and_ends_at_once(
    command: Command, proj: str, conn: Conn
) -> None:
    ask = ("-A", proj, "inspect", "ping", "-t", "60", "-d", "celerybeat@pod-1")
    with running(proj, "beat", "--enable-remote-control", "-n", "pod-1"):
        eventually(lambda: command(*ask).exit_code == 0, "an answer")
        assert "celerybeat@pod-1: OK" in command(*ask).stdout
        # It is no worker.
        assert command("-A", proj, "status").exit_code == 69
        assert command("-A", proj, "inspect", "stats").exit_code == 69

    assert "    . remote control -> celerybeat@pod-1" in Path("beat.log").read_text()
    assert command(*ask).exit_code == 69


def test_a_scheduler_is_not_asked_unless_it_was_told_to_answer(database_url: str) -> None:
    with Celery("silent", broker=database_url, set_as_current=False) as app:
        assert "remote control" not in Beat(app=app).banner()
        app.conf.beat_enable_remote_control = True
        assert "remote control -> celerybeat@" in Beat(app=app).banner()
        assert "remote control" not in Beat(app=app, remote_control=False).banner()


def test_a_scheduler_made_for_celery_is_refused_with_what_to_do(command: Command, proj: str) -> None:
    result = command("-A", proj, "beat", "-S", "collections:OrderedDict", "list")

    assert result.exit_code == 1
    assert "Start with `pgtasks --as-celery`" in result.stderr
