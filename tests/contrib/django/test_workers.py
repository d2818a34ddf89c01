"""Workers of a Django project: where they are, what they know, and what becomes of Django's connections in them."""

from __future__ import annotations

import pytest

from tests.contrib.django.conftest import Site, database_of


def test_the_tutorials_project_runs_its_tasks_with_nothing_but_its_settings(site: Site) -> None:
    with site.worker():
        said = site.run(
            """
from polls.models import Question
from polls.tasks import add, count, fail
question = Question.objects.create(text="?", votes=3)
said = [count.delay(question.pk).get(timeout=60), add.delay(2, 2).get(timeout=60)]
try:
    fail.delay("no").get(timeout=60)
except ValueError as error:
    said.append(str(error))
"""
        )

    assert said == [3, 4, "no"]


@pytest.mark.parametrize("pool", ["prefork", "threads", "aio", "solo"])
@pytest.mark.parametrize(("age", "is_kept"), [(0, False), (None, True)])
def test_a_tasks_connection_lives_as_long_as_a_requests_would(
    site: Site, pool: str, age: int | None, is_kept: bool
) -> None:
    site.databases["default"] = database_of(site.url, CONN_MAX_AGE=age)
    if pool in ("threads", "aio") and is_kept:
        pytest.skip("threads have a connection each, and any of them may run the next task")

    with site.worker("-P", pool):
        first, second = site.run(
            "from polls.tasks import backend_pid\nsaid = [backend_pid.delay().get(timeout=60) for _ in range(2)]"
        )

    assert first[2] is False
    assert (first[1] == second[1], second[2]) == (is_kept, is_kept)


def test_a_child_neither_uses_nor_breaks_a_connection_that_its_parent_has_open(site: Site) -> None:
    site.databases["default"] = database_of(site.url, CONN_MAX_AGE=None)
    # Opened again after the worker has closed what imports had left open: the last moment before children are made.
    with (site.directory / "polls" / "tasks.py").open("a") as tasks:
        tasks.write(
            """

from pgtasks.signals import celeryd_after_setup, worker_shutdown

@celeryd_after_setup.connect(weak=False)
def open_one(**kwargs):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        print(f"parent has {cursor.fetchone()[0]}")

@worker_shutdown.connect(weak=False)
def use_it(**kwargs):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        print(f"parent still has {cursor.fetchone()[0]}")
"""
        )

    with site.worker():
        _, backend, was_open = site.run(
            "from polls.tasks import backend_pid\nsaid = backend_pid.delay().get(timeout=60)"
        )

    log = (site.directory / "worker.log").read_text()
    assert "parent has " in log, log
    held = log.split("parent has ")[1].split()[0]
    assert was_open is False
    assert str(backend) != held
    assert f"parent still has {held}" in log, log


def test_a_broken_connection_is_replaced_before_the_next_task(site: Site) -> None:
    site.databases["default"] = database_of(site.url, CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)

    with site.worker():
        said = site.run(
            """
import psycopg
from polls.tasks import backend_pid
from mysite.celery import app
_, first, _ = backend_pid.delay().get(timeout=60)
with psycopg.connect(app.database_url) as other:
    other.execute("SELECT pg_terminate_backend(%s)", [first])
_, second, _ = backend_pid.delay().get(timeout=60)
said = first != second
"""
        )

    assert said is True


def test_checks_of_the_project_stop_a_worker_unless_they_are_skipped(site: Site) -> None:
    site.settings["SILENCED_SYSTEM_CHECKS"] = []
    (site.directory / "polls" / "apps.py").write_text(
        """
from django.apps import AppConfig
from django.core.checks import register

class PollsConfig(AppConfig):
    name = "polls"
    def ready(self):
        @register
        def broken(**kwargs):
            raise RuntimeError("a check says no")
"""
    )

    refused = site.manage("pgtasks", "worker", status=None)

    assert refused.returncode != 0
    assert "a check says no" in refused.stderr + refused.stdout
    site.environ["CELERY_SKIP_CHECKS"] = "1"
    with site.worker():
        assert site.run("from polls.tasks import add\nsaid = add.delay(1, 2).get(timeout=60)") == 3
