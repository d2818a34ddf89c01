"""Fixtures of the store's tests: an executor on the test's database, and hands that claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pgtasks.store.database import Database
from tests.support.hands import Hand


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def hand(database: Database) -> Hand:
    return Hand(database)


@pytest.fixture
def later(database: Database) -> Iterator[Callable[[str], None]]:
    """Moves the clock of the verbs, as seen by the executor's connection."""

    def move(interval: str) -> None:
        conn = database._take()
        conn.execute("SELECT set_config('pgtasks.now', (statement_timestamp() + %s::interval)::text, false)", [interval])
        database._give(conn)

    yield move
    database.close()
