"""Enqueueing in the caller's own transaction: seen when it commits, gone when it rolls back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.message import Message
from pgtasks.store import results, tasks
from pgtasks.store.database import AsyncDatabase, Database
from tests.support.hands import Hand, ids, message, standing

Conn = psycopg.Connection[Any]
Savepoint = Callable[[], AbstractContextManager[Any]]


class Undo(Exception):
    """Rolls a transaction or a savepoint back."""


def _alchemy_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def _django_connection(url: str) -> Any:
    from django.db.backends.postgresql.base import DatabaseWrapper

    named = conninfo_to_dict(url)
    settings = {
        "ENGINE": "django.db.backends.postgresql", "NAME": named["dbname"], "USER": named.get("user", ""),
        "PASSWORD": named.get("password", ""), "HOST": named.get("host", ""), "PORT": str(named.get("port", "")),
        "OPTIONS": {}, "CONN_MAX_AGE": 0, "TIME_ZONE": None,
        "AUTOCOMMIT": True, "ATOMIC_REQUESTS": False, "CONN_HEALTH_CHECKS": False,
    }  # fmt: skip
    return DatabaseWrapper(settings, "default")


# Each opens a transaction and gives what `conn=` takes, and what opens a savepoint within it.


@contextmanager
def psycopg_transaction(url: str) -> Iterator[tuple[Any, Savepoint]]:
    with psycopg.connect(url) as conn:
        yield conn, conn.transaction


@contextmanager
def psycopg_dict_rows(url: str) -> Iterator[tuple[Any, Savepoint]]:
    with psycopg.connect(url, row_factory=dict_row) as conn:
        yield conn, conn.transaction


@contextmanager
def psycopg_cursor(url: str) -> Iterator[tuple[Any, Savepoint]]:
    with psycopg.connect(url) as conn:
        yield conn.cursor(), conn.transaction


@contextmanager
def alchemy_connection(url: str) -> Iterator[tuple[Any, Savepoint]]:
    from sqlalchemy import create_engine

    engine = create_engine(_alchemy_url(url))
    try:
        with engine.begin() as conn:
            yield conn, conn.begin_nested
    finally:
        engine.dispose()


@contextmanager
def alchemy_session(url: str) -> Iterator[tuple[Any, Savepoint]]:
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    engine = create_engine(_alchemy_url(url))
    try:
        with Session(engine) as session, session.begin():
            yield session, session.begin_nested
    finally:
        engine.dispose()


@contextmanager
def django_atomic(url: str) -> Iterator[tuple[Any, Savepoint]]:
    from django.conf import settings
    from django.db import connections
    from django.db.transaction import atomic

    if not settings.configured:
        settings.configure(USE_TZ=True, DATABASES={})
    conn = connections["default"] = _django_connection(url)
    try:
        with atomic(using="default"):
            yield conn, lambda: atomic(using="default")
    finally:
        conn.close()
        del connections["default"]


@contextmanager
def django_alias(url: str) -> Iterator[tuple[Any, Savepoint]]:
    with django_atomic(url) as (_, savepoint):
        yield "default", savepoint


TRANSACTIONS = [
    psycopg_transaction, psycopg_dict_rows, psycopg_cursor, alchemy_connection, alchemy_session, django_atomic,
    django_alias,
]  # fmt: skip


@pytest.fixture(params=TRANSACTIONS, ids=lambda each: each.__name__)
def transaction(request: pytest.FixtureRequest, database_url: str) -> Any:
    return lambda: request.param(database_url)


def bulk() -> list[Message]:
    """Plain and scheduled tasks, with every kind of value a driver's adapters may change."""
    due = datetime(2100, 1, 1, tzinfo=UTC)
    return [
        message(due=due, options=b'{"a":1}', task_id="my own", group_id="g"),
        message(expires=due, payload=b"\0\xff", max_deliveries=3),
        message(countdown_s=50.0),
    ]


def test_a_task_is_invisible_until_the_callers_commit(
    database: Database, hand: Hand, conn: Conn, transaction: Any
) -> None:
    one, many = message(), bulk()
    with transaction() as (source, _):
        database.run(tasks.enqueue([one]), conn=source)
        database.run(tasks.enqueue(many), conn=source)

        assert hand.claim() == []
        assert standing(conn, one) == []

    assert [standing(conn, each) for each in (one, *many)] == [["ready"], ["scheduled"], ["ready"], ["scheduled"]]


def test_a_task_is_gone_after_the_callers_rollback(database: Database, conn: Conn, transaction: Any) -> None:
    with pytest.raises(Undo), transaction() as (source, _):
        database.run(tasks.enqueue([message()]), conn=source)
        database.run(tasks.enqueue(bulk()), conn=source)
        raise Undo

    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (0,)


def test_a_rolled_back_savepoint_takes_its_tasks_with_it_and_no_others(
    database: Database, hand: Hand, transaction: Any
) -> None:
    before, within, after = message(), message(), message()
    with transaction() as (source, savepoint):
        database.run(tasks.enqueue([before]), conn=source)
        with pytest.raises(Undo), savepoint():
            database.run(tasks.enqueue([within]), conn=source)
            raise Undo
        database.run(tasks.enqueue([after]), conn=source)

    assert ids(hand.claim()) == ids([before, after])


def test_what_is_read_in_a_callers_transaction_is_read_as_anywhere(database: Database, transaction: Any) -> None:
    task = message(task_id="mine")
    with transaction() as (source, _):
        database.run(tasks.enqueue([task]), conn=source)

        found = database.run(results.fetch([task.id], with_payload=True), conn=source)[task.id]

    assert (found.id, found.task_id, found.payload, found.is_ended) == (task.id, "mine", task.payload, False)


def test_a_revocation_in_a_callers_transaction_is_undone_with_it(
    database: Database, hand: Hand, transaction: Any
) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    with pytest.raises(Undo), transaction() as (source, _):
        database.run(tasks.revoke([task.id], b"{}"), conn=source)
        raise Undo

    assert [claim.fate for claim in hand.claim()] == ["live"]


def test_nothing_stays_prepared_on_a_callers_connection(database: Database, database_url: str) -> None:
    with psycopg.connect(database_url) as source:
        for _ in range(10):
            database.run(tasks.enqueue([message()]), conn=source)

        assert source.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)


def test_an_error_in_a_callers_transaction_is_the_drivers_own(database: Database, database_url: str) -> None:
    with psycopg.connect(database_url) as source:
        with pytest.raises(psycopg.errors.NumericValueOutOfRange):
            database.run(tasks.enqueue([message(max_deliveries=10**9)]), conn=source)
        source.rollback()


@pytest.mark.parametrize("source", [object(), 5, "no_such_alias"])
def test_what_cannot_be_written_through_is_refused_with_what_can(database: Database, source: Any) -> None:
    from django.db import utils

    with pytest.raises((ImproperlyConfigured, utils.ConnectionDoesNotExist)):
        database.run(tasks.enqueue([message()]), conn=source)


def test_an_alias_without_django_says_so(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "django.db", raising=False)

    with pytest.raises(ImproperlyConfigured, match="Django is not loaded"):
        database.run(tasks.enqueue([message()]), conn="default")


def test_a_sync_connection_is_no_use_to_the_async_executor(database_url: str) -> None:
    with psycopg.connect(database_url) as source, pytest.raises(ImproperlyConfigured, match="async"):
        asyncio.run(AsyncDatabase(database_url).run(tasks.enqueue([message()]), conn=source))


# -- coroutines


@asynccontextmanager
async def async_psycopg(url: str) -> AsyncIterator[tuple[Any, Any]]:
    async with await psycopg.AsyncConnection.connect(url) as conn:
        yield conn, conn.transaction


@asynccontextmanager
async def async_alchemy_connection(url: str) -> AsyncIterator[tuple[Any, Any]]:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(_alchemy_url(url))
    try:
        async with engine.begin() as conn:
            yield conn, conn.begin_nested
    finally:
        await engine.dispose()


@asynccontextmanager
async def async_alchemy_session(url: str) -> AsyncIterator[tuple[Any, Any]]:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = create_async_engine(_alchemy_url(url))
    try:
        async with AsyncSession(engine) as session, session.begin():
            yield session, session.begin_nested
    finally:
        await engine.dispose()


@pytest.mark.parametrize(
    "open_transaction", [async_psycopg, async_alchemy_connection, async_alchemy_session], ids=lambda each: each.__name__
)
def test_coroutines_enqueue_in_their_own_transactions_too(
    database_url: str, hand: Hand, conn: Conn, open_transaction: Any
) -> None:
    before, within, after, undone = message(), message(), message(), message()

    async def produce() -> None:
        adatabase = AsyncDatabase(database_url)
        async with open_transaction(database_url) as (source, savepoint):
            await adatabase.run(tasks.enqueue([before]), conn=source)
            with pytest.raises(Undo):
                async with savepoint():
                    await adatabase.run(tasks.enqueue([within]), conn=source)
                    raise Undo
            await adatabase.run(tasks.enqueue([after]), conn=source)
            assert standing(conn, before) == []
        with pytest.raises(Undo):
            async with open_transaction(database_url) as (source, _):
                await adatabase.run(tasks.enqueue([undone]), conn=source)
                raise Undo

    asyncio.run(produce())

    assert ids(hand.claim()) == ids([before, after])
