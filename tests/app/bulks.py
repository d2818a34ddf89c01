"""What tests of many calls at once begin with: an app and a task, and what is ready after them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgtasks import Celery
from pgtasks.app import bulk


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    with Celery("bulk", broker=database_url, set_as_current=False) as app:
        yield app


@pytest.fixture
def add(app: Celery) -> Any:
    return app.task(lambda x, y=0: x + y, name="bulk.add", shared=False)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 10 and stretches of 40, for what happens at their ends to happen to few calls."""
    monkeypatch.setattr(bulk, "BATCH", 10)
    monkeypatch.setattr(bulk, "STRETCH", 40)
    monkeypatch.setattr(bulk, "FEW", 5)


def rows(conn: psycopg.Connection[Any], columns: str) -> list[tuple[Any, ...]]:
    """What is ready, in the order in which it will run."""
    return conn.execute(
        f"SELECT {columns} FROM pgtasks.message m JOIN pgtasks.ready r USING (id, queue) ORDER BY rank, seq"
    ).fetchall()


def arguments(conn: psycopg.Connection[Any]) -> list[Any]:
    return [json.loads(payload)[:2] for (payload,) in rows(conn, "payload")]


def ready(conn: psycopg.Connection[Any]) -> int:
    found = conn.execute("SELECT count(*) FROM pgtasks.ready").fetchone()
    assert found
    return int(found[0])
