"""Fixtures of the store's tests: an executor on the test's database, and hands that claim."""

from __future__ import annotations

from collections.abc import Iterator

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
