"""Calls in Django's transactions, from programs as users write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.contrib.django.conftest import Site, database_of

IMPORTS = """
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, transaction
from django.test import Client
from polls.models import Question
from polls.tasks import add, count
from mysite.celery import app
import psycopg, os, asyncio

def seen():
    "What another connection sees."
    with psycopg.connect(app.database_url) as other:
        return other.execute("SELECT count(*) FROM pgtasks.message").fetchone()[0]
"""


Run = Callable[[str], Any]


@pytest.fixture
def run(site: Site) -> Run:
    """Runs a program of the site, which begins with the imports above; gives what it says."""
    return lambda program: site.run(IMPORTS + program)


def test_a_call_in_atomic_is_invisible_before_the_commit_and_gone_after_a_rollback(run: Run) -> None:
    said = run("""
said = []
with transaction.atomic():
    result = add.delay(1, 2)
    said.append(seen())
said.append(seen())
try:
    with transaction.atomic():
        add.delay(3, 4)
        1 / 0
except ZeroDivisionError:
    pass
said.append(seen())
said.append(result.state)
""")

    assert said == [0, 1, 1, "PENDING"]


def test_a_savepoint_takes_its_calls_with_it(run: Run) -> None:
    said = run("""
with transaction.atomic():
    kept = add.delay(1, 1)
    try:
        with transaction.atomic():
            lost = add.delay(2, 2)
            1 / 0
    except ZeroDivisionError:
        pass
    with transaction.atomic():
        also = add.delay(3, 3)
with psycopg.connect(app.database_url) as other:
    ids = {str(row[0]) for row in other.execute("SELECT id FROM pgtasks.message")}
said = [kept.id in ids, lost.id in ids, also.id in ids]
""")

    assert said == [True, False, True]


def test_every_kind_of_call_is_part_of_the_transaction(run: Run) -> None:
    said = run("""
from pgtasks import chain, chord, group
def call_all():
    add.delay(1, 1)
    add.apply_async((1, 1), countdown=5)
    app.send_task("polls.tasks.add", (1, 1))
    chain(add.s(1, 1), add.s(1))()
    chord([add.s(1, 1), add.s(2, 2)], add.si(0, 0))()
    group(add.s(n, n) for n in range(3))()
    group(add.s(n, n) for n in range(300))()
    add.delay_many((n, n) for n in range(5))
    add.apply_async_many((((n, n), None) for n in range(300)))
    add.apply_async((1, 1), link=add.s(1))
said = []
try:
    with transaction.atomic():
        call_all()
        said.append(seen())
        1 / 0
except ZeroDivisionError:
    said.append(seen())
with transaction.atomic():
    call_all()
said.append(seen())
""")

    assert said == [0, 0, 1 + 1 + 1 + 2 + 3 + 3 + 300 + 5 + 300 + 2]


def test_using_false_calls_at_once_and_the_setting_turns_it_off_for_all(site: Site, run: Run) -> None:
    program = """
from pgtasks import chain
said = []
try:
    with transaction.atomic():
        add.apply_async((1, 2), using=False)
        chain(add.s(1, 2), add.s(3)).apply_async(using=False)
        said.append(seen())
        add.delay(1, 2)
        said.append(seen())
        1 / 0
except ZeroDivisionError:
    pass
said.append(seen())
"""

    assert run(program) == [3, 3, 3]
    site.settings["CELERY_TASK_JOIN_TRANSACTION"] = False
    assert run(program) == [6, 7, 7]


def test_a_view_that_breaks_after_the_call_leaves_no_task(run: Run) -> None:
    said = run("""
Question.objects.create(pk=1, text="?")
client = Client(raise_request_exception=False)
said = [client.get("/vote/1").status_code, seen(), client.get("/vote/1?break").status_code, seen(),
        Question.objects.get().votes]
""")

    assert said == [200, 1, 500, 1, 1]


def test_an_async_view_calls_in_the_transaction_of_its_thread(run: Run) -> None:
    said = run("""
from django.test import AsyncClient
async def main():
    answer = await AsyncClient().get("/ask", {"text": "?"})
    return [answer.status_code, seen(), len(answer.json()["task"])]
said = asyncio.run(main())
""")

    assert said == [200, 1, 36]


def test_a_coroutine_calls_in_the_transaction_of_the_thread_where_its_queries_run(run: Run) -> None:
    said = run("""
from pgtasks import chain, group
said = []

async def call_all():
    await add.adelay(1, 2)
    await add.aapply_async((1, 2), using="default")
    await chain(add.s(1, 1), add.s(1)).aapply_async()
    await group(add.s(n, n) for n in range(3)).aapply_async()
    await add.aapply_async((1, 2), link=add.s(1))
    await Question.objects.acreate(text="?")

def in_a_transaction(fails):
    "What a synchronous view does that calls a coroutine."
    with transaction.atomic():
        async_to_sync(call_all)()
        said.append(seen())
        if fails:
            transaction.set_rollback(True)
    said.append((seen(), Question.objects.count()))

in_a_transaction(True)
in_a_transaction(False)

async def apart():
    atomic = transaction.atomic()
    await sync_to_async(atomic.__enter__)()
    await add.adelay(1, 2)
    await add.aapply_async((1, 2), using=False)
    said.append(await sync_to_async(seen)())
    await sync_to_async(atomic.__exit__)(ValueError, ValueError(), None)
    said.append(await sync_to_async(seen)())
asyncio.run(apart())
""")

    calls = 1 + 1 + 2 + 3 + 2
    assert said == [0, [0, 0], 0, [calls, 1], calls + 1, calls + 1]


def test_a_transaction_that_is_broken_takes_no_call(run: Run) -> None:
    said = run("""
said = []
with transaction.atomic():
    transaction.set_rollback(True)
    try:
        add.delay(1, 2)
    except transaction.TransactionManagementError as error:
        said.append(str(error)[:30])
said.append(seen())
""")

    assert said == ["An error occurred in the curre", 0]


def test_a_url_that_goes_another_way_to_the_same_database_is_recognised(site: Site, run: Run) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(site.url)
    site.settings["CELERY_BROKER_URL"] = psycopg.conninfo.make_conninfo(**{**parts, "application_name": "other"})

    said = run("""
with transaction.atomic():
    add.delay(1, 2)
    said = [seen(), app.database_url]
said.append(seen())
""")

    assert (said[0], said[2]) == (0, 1)
    assert "application_name=other" in said[1]


def test_another_database_with_the_tasks_takes_calls_at_once(site: Site, run: Run, database_url: str) -> None:
    site.settings["CELERY_BROKER_URL"] = database_url

    said = run("""
said = []
with transaction.atomic():
    add.delay(1, 2)
    said.append(seen())
    add.delay_on_commit(1, 2)
    said.append(seen())
said.append(seen())
""")

    assert said == [1, 1, 2]


def test_on_commit_in_the_tasks_database_is_the_call_itself_and_gives_its_result(run: Run) -> None:
    said = run("""
said = []
with transaction.atomic():
    result = add.delay_on_commit(1, 2)
    add.apply_async_on_commit((1, 2), countdown=9)
    said.append([seen(), len(connection.run_on_commit)])
said.append(seen())
add.delay_on_commit(1, 2)
said.append(seen())
with transaction.atomic():
    other = add.apply_async_on_commit((1, 2), using=False)
    said.append([seen(), len(connection.run_on_commit)])
said.append(seen())
said.append(result.state)
""")

    assert said == [[0, 0], 2, 3, [3, 1], 4, "PENDING"]


def test_sqlite_leaves_calls_as_they_are_and_refuses_to_be_named(site: Site, run: Run) -> None:
    site.databases = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    site.environ["PGTASKS_DATABASE_URL"] = site.url

    said = run("""
from pgtasks.exceptions import ImproperlyConfigured
said = []
with transaction.atomic():
    add.delay(1, 2)
    said.append(seen())
    try:
        add.apply_async((1, 2), using="default")
    except ImproperlyConfigured as error:
        said.append(str(error))
""")

    assert said[0] == 1
    assert "sqlite" in said[1]
    assert "Pass a psycopg connection" in said[1]


@pytest.mark.parametrize("options", [{"pool": True}, {"server_side_binding": True}, {"isolation_level": 4}])
def test_options_of_djangos_connections_do_not_keep_calls_out_of_its_transactions(
    site: Site, run: Run, options: dict[str, object]
) -> None:
    if "pool" in options:
        pytest.importorskip("psycopg_pool")
    site.databases["default"] = database_of(site.url, OPTIONS=options, CONN_MAX_AGE=0)

    said = run("""
said = []
with transaction.atomic():
    add.delay(1, 2)
    said.append(seen())
said.append(seen())
""")

    assert said == [0, 1]
