"""Settings, commands, checks and test runs of a Django project."""

from __future__ import annotations

import psycopg
import pytest

from pgtasks import Celery
from pgtasks.exceptions import FixupWarning
from tests.contrib.django.conftest import Site, database_of


def test_settings_are_read_with_either_namespace_and_the_zone_is_djangos(site: Site) -> None:
    program = """
from mysite.celery import app
from polls.tasks import add
said = [app.conf.task_default_queue, str(app.timezone), [c.__name__ for c in add.__class__.__mro__][2], app.conf.result_expires]
"""
    site.settings = {"CELERY_TASK_DEFAULT_QUEUE": "polls", "PGTASKS_TASK_DEFAULT_QUEUE": "ours"}

    assert site.run(program)[:3] == ["polls", "Europe/Berlin", "DjangoTask"]
    site.environ["SITE_NAMESPACE"] = "PGTASKS"
    assert site.run(program)[0] == "ours"


def test_the_database_is_that_of_databases_unless_something_else_names_one(site: Site, database_url: str) -> None:
    program = "from mysite.celery import app\nsaid = app.database_url"
    here, parts = psycopg.conninfo.conninfo_to_dict(site.url), psycopg.conninfo.conninfo_to_dict

    assert parts(site.run(program)) == here
    site.databases["default"] = database_of(site.url, OPTIONS={"sslmode": "prefer", "assume_role": None, "pool": {}})
    assert parts(site.run(program)) == {**here, "sslmode": "prefer"}
    site.environ["DATABASE_URL"] = database_url
    assert parts(site.run(program))["dbname"] == here["dbname"]
    site.settings["CELERY_BROKER_URL"] = database_url
    assert site.run(program) == database_url
    site.environ["PGTASKS_DATABASE_URL"] = site.url
    assert site.run(program) == site.url


def test_the_tasks_may_be_in_another_database_of_the_project(site: Site) -> None:
    site.databases = {
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        "work": database_of(site.url),
    }
    site.settings["CELERY_TASK_JOIN_TRANSACTION"] = "work"

    said = site.run(
        """
import psycopg
from django.db import transaction
from mysite.celery import app
from polls.tasks import add
def seen():
    with psycopg.connect(app.database_url) as other:
        return other.execute("SELECT count(*) FROM pgtasks.message").fetchone()[0]
said = []
with transaction.atomic(using="work"):
    add.delay(1, 2)
    said.append(seen())
with transaction.atomic():
    add.delay(1, 2)
    said.append(seen())
"""
    )

    assert said == [0, 2]


def test_manage_py_runs_every_command_with_the_projects_app(site: Site) -> None:
    site.run("from polls.tasks import add\nsaid = add.delay(1, 2).id")

    assert "manage.py pgtasks" in site.manage("pgtasks", "--help").stdout
    assert "celery" in site.manage("pgtasks", "list", "queues").stdout
    assert "1" in site.manage("pgtasks", "purge", "-f", "--settings=mysite.settings").stdout
    assert site.manage("pgtasks", "worker", "--nonsense", status=2).stderr
    said = site.run('from django.core.management import call_command\nsaid = call_command("pgtasks", "purge", "-f")')
    assert said is None


def test_a_project_that_has_made_no_app_gets_one_from_its_settings(site: Site) -> None:
    (site.directory / "mysite" / "__init__.py").write_text("")
    (site.directory / "mysite" / "celery.py").unlink()
    site.settings["PGTASKS_TASK_DEFAULT_QUEUE"] = "polls"

    with site.worker():
        said = site.run(
            """
from polls.tasks import add
from pgtasks import current_app
said = [add.delay(1, 2).get(timeout=60), current_app.conf.task_default_queue, current_app.main]
"""
        )

    assert said == [3, "polls", "mysite"]


def test_checks_say_when_calls_cannot_join_transactions(site: Site) -> None:
    assert "no issues" in site.manage("check").stdout
    site.settings["CELERY_TASK_JOIN_TRANSACTION"] = "nowhere"
    assert "pgtasks.E001" in site.manage("check", status=1).stderr
    site.settings["CELERY_TASK_JOIN_TRANSACTION"] = "lite"
    site.databases["lite"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    assert "pgtasks.W001" in site.manage("check").stderr


TESTS = """
from django.core.management import call_command
from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase, override_settings
from mysite.celery import app
from polls.models import Question
from pgtasks.contrib.testing.draining import drain
from polls.tasks import add, count


class InTransaction(TestCase):
    def test_calls_are_in_the_tests_transaction_and_its_database(self):
        result = add.delay(1, 2)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*), current_database() FROM pgtasks.message")
            self.assertEqual(cursor.fetchone(), (1, connection.settings_dict["NAME"]))
        self.assertIn("test_", app.database_url)

    def test_nothing_is_left_by_another_test(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pgtasks.message")
            self.assertEqual(cursor.fetchone(), (0,))

    def test_a_drain_runs_calls_in_the_tests_transaction(self):
        question = Question.objects.create(text="?", votes=5)
        result = count.delay(question.pk)
        self.assertEqual([ran.state for ran in drain(app, using="default")], ["SUCCESS"])
        with connection.cursor() as cursor:
            cursor.execute("SELECT result FROM pgtasks.tasks WHERE id = %s", [result.id])
            self.assertEqual(cursor.fetchone(), ("5",))
        self.assertIs(connection.is_usable(), True)

    @override_settings(CELERY_TASK_ALWAYS_EAGER=True)
    def test_eager_tasks_run_in_the_tests_transaction(self):
        question = Question.objects.create(text="?", votes=5)
        self.assertEqual(count.delay(question.pk).get(), 5)
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            result = count.delay_on_commit(question.pk)
        self.assertEqual(len(callbacks), 1)


class Committed(TransactionTestCase):
    def test_calls_outside_of_transactions_go_to_the_test_database_too(self):
        add.delay(1, 2)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pgtasks.message")
            self.assertEqual(cursor.fetchone(), (1,))
        with self.assertRaises(Exception):
            add.delay(1, 2).get(timeout=0.2)
"""


def test_test_runs_have_their_tasks_in_the_test_database_and_can_drop_it(site: Site) -> None:
    (site.directory / "polls" / "tests.py").write_text(TESTS)
    # Looked at too early, while the database is still that of the project.
    with (site.directory / "polls" / "models.py").open("a") as models:
        models.write("\n\nfrom mysite.celery import app\n\napp.database.ping()\n")

    said = site.manage("test", "--noinput")

    assert "Ran 5 tests" in said.stderr, said.stderr
    with psycopg.connect(site.url) as conn:
        (left,) = conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() or ()
        assert left == 0
        names = conn.execute("SELECT datname FROM pg_database WHERE datname LIKE 'test_django%'").fetchall()
    assert names == []


def test_several_apps_are_django_apps_and_celerys_names_lead_to_the_integration(site: Site) -> None:
    said = site.run(
        """
import pgtasks
pgtasks.install_as_celery()
from celery import Celery
from celery.contrib.django.task import DjangoTask
from celery.fixups.django import DjangoFixup, DjangoWorkerFixup, fixup

class Own(pgtasks.Task):
    abstract = True

first, second = Celery("first", set_as_current=False), Celery("second", set_as_current=False)
own = Celery("own", set_as_current=False, task_cls=Own)
said = [issubclass(app.Task, DjangoTask) for app in (first, second, own)]
said += [isinstance(app._fixups[0], DjangoFixup) for app in (first, second, own)]
said += [first.database_url == second.database_url, callable(fixup), DjangoWorkerFixup.__name__]
"""
    )

    assert said == [True, True, False, True, True, True, True, True, "DjangoWorkerFixup"]


def test_a_project_without_django_is_left_alone_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "mysite.settings")
    monkeypatch.setattr("pgtasks.contrib.django.find_spec", lambda name: None)

    with pytest.warns(FixupWarning, match="Django is not installed here"):
        app = Celery("plain", set_as_current=False)

    assert app.transaction_of_caller is None
