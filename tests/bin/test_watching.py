"""`pgtasks events` and `pgtasks top`: what people see of a running system."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgtasks.app.discovery import find_app
from pgtasks.bin.top import page
from pgtasks.contrib.testing.worker import start_worker
from pgtasks.events.dumper import Dumper
from pgtasks.events.snapshot import Polaroid
from pgtasks.store import overview
from tests.bin.conftest import Command
from tests.support.workers import eventually

CAMERA = """
from pgtasks.events.snapshot import Polaroid

class Camera(Polaroid):
    clear_after = True

    def on_shutter(self, state):
        with open("pictures", "a") as file:
            for uuid, task in state.tasks_by_time():
                print(task.name, task.state, file=file)
"""


@pytest.fixture
def app(project: str, database_url: str) -> Any:
    app = find_app(project)
    app.conf.worker_send_task_events = True
    return app


@contextmanager
def running(project: str, *arguments: str) -> Iterator[Callable[[], str]]:
    """A command in a process of its own, and what it has printed."""
    log = Path("printed.log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pgtasks", "-C", "-A", project, *arguments],
            env={**os.environ, "PYTHONUNBUFFERED": "1"}, stdout=out, stderr=subprocess.STDOUT,
            preexec_fn=_heed_interrupts,
        )  # fmt: skip
    try:
        yield log.read_text
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def _heed_interrupts() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so does all that it starts: the tests among it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def listening(conn: psycopg.Connection[Any]) -> bool:
    return conn.execute("SELECT count(*) FROM pgtasks.listener").fetchone() == (1,)


def test_events_are_printed_as_they_come(app: Any, project: str, conn: psycopg.Connection[Any]) -> None:
    add = app.tasks[f"{project}.add"]
    with running(project, "events", "--dump") as printed, start_worker(app, hostname="w@h", perform_ping_check=False):
        eventually(lambda: "w@h" in printed() and "started:" in printed())
        result = add.delay(1, 2)
        eventually(lambda: "task succeeded:" in printed())

    lines = [line for line in printed().splitlines() if result.id in line]
    assert f"task received: {project}.add({result.id}) args=(1, 2) kwargs={{}}" in lines[0]
    assert f"task succeeded: {project}.add({result.id}) args=(1, 2)" in lines[-1]
    assert printed().startswith("-> evdump: starting capture...")
    assert not listening(conn)


def test_a_camera_takes_pictures_until_it_is_interrupted(app: Any, project: str, conn: psycopg.Connection[Any]) -> None:
    Path("cameras.py").write_text(CAMERA)
    pictures = Path("pictures")
    with running(project, "events", "-c", "cameras.Camera", "-F", "0.1"):
        eventually(lambda: listening(conn))
        with start_worker(app, hostname="w@h", perform_ping_check=False) as worker:
            eventually(lambda: worker.attendants.reporter.tells_of_tasks)
            app.tasks[f"{project}.add"].delay(1, 2).get(timeout=60)
            eventually(lambda: pictures.exists() and f"{project}.add SUCCESS" in pictures.read_text())


def test_a_picture_that_cannot_be_taken_is_logged_and_the_next_is_taken(
    app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[int] = []

    class Broken(Polaroid):
        def on_shutter(self, state: Any) -> None:
            taken.append(1)
            if len(taken) == 1:
                raise OSError("no film")

    with Broken(app.events.State(), freq=0.01, app=app):
        eventually(lambda: len(taken) > 1)

    assert "the picture was not taken" in caplog.text


def test_pictures_are_not_taken_more_often_than_allowed(app: Any) -> None:
    taken: list[int] = []
    camera = Polaroid(app.events.State(), maxrate="1/h", app=app)
    camera.on_shutter = lambda state: taken.append(1)  # type: ignore[method-assign]

    for _ in range(3):
        camera.capture()

    assert len(taken) == 1


def test_an_event_that_lacks_what_others_have_is_printed_all_the_same() -> None:
    out = io.StringIO()

    Dumper(out).on_event({"type": "my-event", "timestamp": 0, "hostname": "h", "b": 2, "a": 1})
    Dumper(out).on_event({"type": "task-started", "timestamp": 0, "hostname": "h", "uuid": "id"})

    assert out.getvalue().splitlines() == [
        "h [1970-01-01 00:00:00+00:00] my event: a=1, b=2",
        "h [1970-01-01 00:00:00+00:00] task started id ",
    ]


def test_a_dumper_of_ones_own_prints_events_of_tasks_in_its_own_form() -> None:
    class Short(Dumper):
        def format_task_event(self, hostname: str, timestamp: Any, type: str, task: str, event: Any) -> None:
            self.say(f"{hostname} {type} {task} {sorted(event)}")

    out = io.StringIO()
    task = {"timestamp": 0, "hostname": "h", "uuid": "id"}
    dumper = Short(out)
    dumper.on_event({"type": "task-received", "name": "add", "args": "(1,)", "kwargs": "{}", **task})
    dumper.on_event({"type": "task-succeeded", "result": "1", **task})

    assert out.getvalue().splitlines() == [
        "h task-received add(id) args=(1,) kwargs={} []",
        "h task-succeeded add(id) args=(1,) kwargs={} ['result']",
    ]


def test_top_shows_what_waits_who_works_what_runs_and_what_ended(
    command: Command, app: Any, project: str, tmp_path: Path
) -> None:
    add = app.tasks[f"{project}.add"]
    with start_worker(app, hostname="w@h", perform_ping_check=False):
        done, failed = add.delay(1, 2), add.delay(1, "x")
        done.get(timeout=60)
        failed.get(timeout=60, propagate=False)
        add.apply_async((1, 1), queue="mail", countdown=3600)
        add.apply_async((1, 1), queue="mail")
        printed = command("-A", project, "top", "--once").stdout

    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert "ready 1 scheduled 1 running 0 ended in the last minute 2 (1 failed)" in lines[0]
    assert any(line.startswith("mail 1 1 ") for line in lines)
    assert any(line.startswith("w@h solo 1 0 ") and line.endswith(" celery") for line in lines)
    assert any(line.startswith(f"{done.id} {project}.add SUCCESS ") for line in lines)
    assert any(line.startswith(f"{failed.id} {project}.add FAILURE ") for line in lines)


def test_top_goes_on_until_it_is_interrupted_and_leaves_the_terminal_as_it_was(app: Any, project: str) -> None:
    with running(project, "top", "-i", "0.01") as printed:
        eventually(lambda: printed().count("ready 0") > 2)

    assert printed().startswith("\x1b[?1049h")
    assert printed().endswith("\x1b[?25h\x1b[?1049l")


def test_a_page_fits_the_terminal() -> None:
    many = [(f"queue-{number}" * 9, number, 0, timedelta(seconds=90)) for number in range(99)]
    seen = overview.Overview(datetime(2030, 1, 1, tzinfo=UTC), 1, 2, 3, 4, many, [], [], [])

    lines = page(seen, lines=10, columns=40).splitlines()

    assert len(lines) == 10
    assert max(map(len, lines)) == 40
    assert "0:01:30" in page(seen, 200, 200)
