"""django-celery-beat's DatabaseScheduler, the real package, unmodified: it schedules tasks of pgtasks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.workers import eventually

pytest.importorskip("django_celery_beat", reason="django-celery-beat is not installed")

PROJECT = """
import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django_celery_beat"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "beat.sqlite3"}},
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()

from celery import Celery

app = Celery("proj", set_as_current=True)
app.conf.beat_schedule = {"from-settings": {"task": "proj.from_settings", "schedule": 1.0, "args": (1,)}}
app.conf.beat_max_loop_interval = 1
"""

PREPARE = """
from django.core.management import call_command
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

call_command("migrate", verbosity=0)
often = IntervalSchedule.objects.create(every=1, period=IntervalSchedule.SECONDS)
PeriodicTask.objects.create(name="from-rows", task="proj.from_rows", interval=often, args="[7]", queue="rows")
PeriodicTask.objects.create(name="off", task="proj.off", interval=often, enabled=False)
"""

CHANGE = """
from django_celery_beat.models import PeriodicTask

PeriodicTask.objects.filter(name="from-rows").update(enabled=False)
one = PeriodicTask.objects.get(name="off")
one.enabled = True
one.save()
print(PeriodicTask.objects.get(name="from-rows").total_run_count)
"""


@pytest.fixture
def program(tmp_path: Path, database_url: str) -> Any:
    """Runs code in the project, under Celery's name."""
    (tmp_path / "proj.py").write_text(PROJECT)

    def run(code: str) -> str:
        text = f"import pgtasks; pgtasks.install_as_celery()\nimport proj\n{code}"
        said = subprocess.run(
            [sys.executable, "-c", text], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False
        )
        assert said.returncode == 0, said.stderr
        return said.stdout

    return run


def test_the_database_scheduler_of_django_runs_unmodified_and_hears_of_changes(
    program: Any, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    program(PREPARE)
    log = tmp_path / "beat.log"
    scheduler = "django_celery_beat.schedulers:DatabaseScheduler"
    with log.open("wb") as out:
        beat = subprocess.Popen(
            [sys.executable, "-m", "pgtasks", "--as-celery", "-A", "proj", "beat", "-S", scheduler, "-l", "INFO"],
            cwd=tmp_path, env=os.environ, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def count(name: str) -> int:
        assert beat.poll() is None, log.read_text()
        return conn.execute("SELECT count(*) FROM pgtasks.message WHERE name = %s", [name]).fetchone()[0]

    try:
        eventually(lambda: count("proj.from_rows") >= 2 and count("proj.from_settings") >= 2, "two turns of each")
        assert count("proj.off") == 0
        program(CHANGE)
        eventually(lambda: count("proj.off") >= 1, "the change is heard of")
    finally:
        beat.terminate()
        status = beat.wait(60)

    assert status == 0, log.read_text()
    queue, payload = conn.execute("SELECT queue, payload FROM pgtasks.message WHERE name = 'proj.from_rows'").fetchone()
    assert (queue, bytes(payload)[:4]) == ("rows", b"[[7]")
    assert int(program(CHANGE)) >= 2
