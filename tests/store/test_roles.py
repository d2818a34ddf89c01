"""Each kind of role can do its job, as a program does it, and nothing more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from pgtasks import Celery, Flow, chain, chord, group
from pgtasks.exceptions import OperationalError
from pgtasks.result import GroupResult
from pgtasks.store import migrate, overview, roles, tasks
from pgtasks.store.database import Database
from tests.store.test_database import as_role
from tests.support.hands import Hand, done, message, standing

Conn = psycopg.Connection[Any]


@pytest.fixture
def url_as(database_url: str, conn: Conn) -> Iterator[Callable[[str], str]]:
    """Gives the URL of the database for a role that is of a kind."""
    made: list[str] = []

    def make(kind: str) -> str:
        role = f"pgtasks_{kind}_{os.getpid()}"
        conn.execute(f'CREATE ROLE "{role}" LOGIN')
        made.append(role)
        conn.execute(roles.statements(kind, role).encode())
        return as_role(database_url, role)

    yield make
    for role in made:
        conn.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


@pytest.fixture
def producer(url_as: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    # It wins over the app's own URL, and names the owner's.
    monkeypatch.setenv("PGTASKS_DATABASE_URL", url_as("producer"))
    with Celery("web", set_as_current=False) as app:
        app.conf.task_send_sent_event = True

        @app.task(name="job", shared=False)
        def job(*args: Any) -> None: ...

        @app.task(name="limited", shared=False, flow=Flow("few", concurrency=1))
        def limited() -> None: ...

        @app.task(name="once", shared=False, unique=True)
        def once() -> None: ...

        yield app


# -- producer


def test_a_producer_sends_every_kind_of_call_and_reads_what_comes_of_it(producer: Celery, hand: Hand) -> None:
    job = producer.tasks["job"]
    results = [job.delay(1), *[job.apply_async(countdown=0.001, priority=3) for _ in range(2)]]
    canvas = chord(group(job.s(n) for n in range(3)), job.s())()
    chain(job.s(1), job.s(2), app=producer).apply_async()
    saved = group(job.s(n) for n in range(3)).apply_async()
    saved.save()
    with producer.pipeline():
        job.delay()
    job.delay_many([(n,) for n in range(3)])
    assert producer.tasks["once"].delay().id == producer.tasks["once"].delay().id

    for _ in range(3):
        hand.tick()
        hand.settle(*[done(claim) for claim in hand.claim(100)])

    assert [result.get(timeout=60) for result in results] == [1, 1, 1]
    assert canvas.get(timeout=60) == 1
    restored = GroupResult.restore(saved.id, app=producer)
    assert restored is not None
    assert restored.get(timeout=60) == [1, 1, 1]


def test_what_a_producer_sends_under_limits_is_let_in_by_a_worker(producer: Celery, hand: Hand, conn: Conn) -> None:
    conn.execute("SELECT pgtasks.set_flow('few', false, 1, NULL, NULL, NULL, NULL, NULL, false)")

    result = producer.tasks["limited"].delay()

    assert conn.execute("SELECT id::text FROM pgtasks.held").fetchall() == [(result.id,)]
    conn.execute("SELECT pgtasks.let_in('few')")
    assert [str(claim.id) for claim in hand.claim()] == [result.id]


#: What a producer is refused.
FORBIDDEN = (
    "DELETE FROM pgtasks.message",
    "UPDATE pgtasks.message SET payload = ''",
    "DELETE FROM pgtasks.ready",
    "DELETE FROM pgtasks.held",
    "UPDATE pgtasks.scheduled SET due = now()",
    "UPDATE pgtasks.waiting SET pending = 0",
    "DELETE FROM pgtasks.edge",
    "INSERT INTO pgtasks.claim SELECT id, gen_random_uuid(), now(), 0, 1 FROM pgtasks.message",
    "INSERT INTO pgtasks.result (id, state) SELECT id, 'SUCCESS' FROM pgtasks.message",
    "UPDATE pgtasks.result SET value = ''",
    "SELECT pgtasks.cancel((SELECT id::text FROM pgtasks.message))",
    "INSERT INTO pgtasks.letter SELECT",
    "SELECT * FROM pgtasks.event",
    "SELECT pgtasks.set_flow('f', false, 9, NULL, NULL, NULL, NULL, NULL, true)",
    "INSERT INTO pgtasks.schedule SELECT",
    "UPDATE pgtasks.worker SET lease = '0'",
    "DELETE FROM pgtasks.migration",
    "CREATE TABLE pgtasks.mine ()",
    "DROP TABLE pgtasks.message",
    "TRUNCATE pgtasks.message",
)


def test_a_producer_can_neither_run_nor_change_nor_order_anything(producer: Celery) -> None:
    producer.tasks["job"].delay()

    with psycopg.connect(producer.database_url, autocommit=True) as own:
        for attempt in FORBIDDEN:
            with pytest.raises(InsufficientPrivilege), own.transaction(force_rollback=True):
                own.execute(attempt.encode())


def test_a_producer_that_orders_workers_about_is_told_what_it_may_not(producer: Celery) -> None:
    result = producer.tasks["job"].delay()

    for forbidden in (result.revoke, result.forget, producer.control.purge, producer.control.ping):
        with pytest.raises(OperationalError, match="may not do that.*permission denied"):
            forbidden()


# -- worker


def test_a_worker_does_all_the_work_and_changes_no_table(url_as: Callable[[str], str], conn: Conn) -> None:
    url = url_as("worker")
    database = Database(url)
    sent = [message(), message(countdown_s=0.001)]
    database.run(tasks.enqueue(sent))
    hand = Hand(database)
    hand.tick()

    hand.settle(*[done(claim) for claim in hand.claim(10)])

    assert [standing(conn, each) for each in sent] == [["SUCCESS"], ["SUCCESS"]]
    database.run(tasks.revoke([message().id], b""))
    for attempt in ("DELETE FROM pgtasks.migration", "CREATE TABLE pgtasks.mine ()", "TRUNCATE pgtasks.message"):
        with psycopg.connect(url) as own, pytest.raises(InsufficientPrivilege):
            own.execute(attempt.encode())


# -- observer


def test_an_observer_reads_every_view_and_sees_what_top_shows(url_as: Callable[[str], str], conn: Conn) -> None:
    url = url_as("observer")
    views = conn.execute("SELECT viewname FROM pg_views WHERE schemaname = 'pgtasks'").fetchall()

    with psycopg.connect(url, autocommit=True) as own:
        for (view,) in views:
            own.execute(f"SELECT * FROM pgtasks.{view}".encode())
        tables = own.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'pgtasks'").fetchall()
        for (table,) in tables:
            for attempt in (f"DELETE FROM pgtasks.{table}", f"INSERT INTO pgtasks.{table} SELECT"):
                with pytest.raises(InsufficientPrivilege), own.transaction(force_rollback=True):
                    own.execute(attempt.encode())
        for table in ("message", "result", "letter", "event", "mail"):
            with pytest.raises(InsufficientPrivilege):
                own.execute(f"SELECT * FROM pgtasks.{table}".encode())
        with pytest.raises(InsufficientPrivilege):
            own.execute("SELECT pgtasks.enqueue('job')")
    Database(url).run(overview.look(5))


# -- all of them


@pytest.mark.parametrize("kind", roles.KINDS)
def test_a_role_of_any_kind_finds_the_schema_to_fit_and_cannot_change_it(
    url_as: Callable[[str], str], kind: str
) -> None:
    with psycopg.connect(url_as(kind), autocommit=True) as own:
        assert not migrate.upgrade(own)


def test_a_role_that_becomes_less_loses_what_it_had_before(url_as: Callable[[str], str], conn: Conn) -> None:
    url = url_as("worker")
    name = psycopg.conninfo.conninfo_to_dict(url)["user"]

    conn.execute(roles.statements("observer", str(name)).encode())

    with psycopg.connect(url) as own, pytest.raises(InsufficientPrivilege):
        own.execute("DELETE FROM pgtasks.ready")


def test_a_name_that_is_no_identifier_is_quoted() -> None:
    assert 'TO "a""b; DROP SCHEMA pgtasks";' in roles.statements("observer", 'a"b; DROP SCHEMA pgtasks')
