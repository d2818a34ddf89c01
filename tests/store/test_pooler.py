"""Behind PgBouncer in transaction mode, where every statement may meet another session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.message import Message, new_id
from pgtasks.store import fleet, results, tasks
from pgtasks.store.database import AsyncDatabase, Database
from pgtasks.store.listen import Doorbell
from tests.support import pooler

pytestmark = pytest.mark.skipif(not pooler.is_installed(), reason="pgbouncer is not installed")


@pytest.fixture
def pooled_url(database_url: str, tmp_path: Path) -> Iterator[str]:
    with pooler.pooled(database_url, tmp_path) as url:
        yield url


def message() -> Message:
    return Message(id=new_id(), name="t", payload=b"[[], {}, {}]")


def test_statements_of_many_clients_do_not_meet_each_others_prepared_statements(pooled_url: str) -> None:
    def be_a_client(number: int) -> int:
        database = Database(pooled_url)
        sent = [message() for _ in range(20)]
        for each in sent:
            # Different statements in different orders: a name prepared by one means another for the next.
            if number % 2:
                database.run(tasks.lengths(["celery"]))
            database.run(tasks.enqueue([each]))
            database.run(fleet.workers())
        found = database.run(results.forget([each.id for each in sent])) or 0
        database.close()
        return found

    with ThreadPoolExecutor(6) as clients:
        list(clients.map(be_a_client, range(6)))

    with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as conn:
        assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (120,)
        assert conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)


def test_the_settings_of_our_sessions_do_not_leak_into_those_of_other_programs(pooled_url: str) -> None:
    database = Database(pooled_url)
    database.run(tasks.enqueue([message()]))

    with psycopg.connect(pooled_url, prepare_threshold=None) as conn:
        found = conn.execute(
            "SELECT name, setting FROM pg_settings WHERE source = 'session' AND name <> 'application_name'"
            " AND name !~ 'client_encoding|DateStyle|TimeZone|standard_conforming'"
        ).fetchall()

    assert database.is_pooled
    assert found == []


def test_nobody_listens_to_a_session_that_is_not_its_own(pooled_url: str) -> None:
    with pytest.raises(psycopg.NotSupportedError, match="pooler"):
        Doorbell(pooled_url, f"pgtasks_worker_{uuid4()}")


def test_a_straight_connection_is_not_taken_for_a_pooled_one(database_url: str) -> None:
    database = Database(database_url)

    database.ping()

    assert not database.is_pooled


@pytest.fixture
def serializable(conn: psycopg.Connection[Any]) -> Iterator[None]:
    change = f"ALTER DATABASE {conn.info.dbname} %s default_transaction_isolation"
    conn.execute(f"{change % 'SET'} TO serializable".encode())
    yield
    conn.execute((change % "RESET").encode())


def test_another_isolation_level_is_refused_since_it_cannot_be_changed_for_us_alone(
    serializable: None, pooled_url: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match="'serializable' by default"):
        Database(pooled_url).ping()


def test_coroutines_prepare_nothing_either(pooled_url: str) -> None:
    async def send() -> bool:
        database = AsyncDatabase(pooled_url)
        for _ in range(8):
            await database.run(tasks.enqueue([message()]))
        await database.close()
        return database.is_pooled

    assert asyncio.run(send())
