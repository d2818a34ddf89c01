"""Values and rows on the wire: what is written here must be what psycopg's own cursors would have written."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from pgtasks.store import sql
from pgtasks.store.database import Database, connect
from pgtasks.store.sql import Query, rows
from pgtasks.store.wire import Wire

NOUNS = sorted(path.stem for path in Path(sql.__file__).parent.glob("*.sql"))

BERLIN_SUMMER = timezone(timedelta(hours=2))
VALUES: dict[str, list[Any]] = {
    "bool": [True, False],
    "bytea": [b"", b"\x00\xff" * 40],
    "int2": [0, -32768, 32767],
    "int4": [0, -(2**31), 2**31 - 1],
    "int8": [0, -(2**63), 2**63 - 1],
    "float4": [0.5, -0.0, math.inf],
    "float8": [0.1, -0.0, math.inf, 1e300],
    "text": ["", "line\nbreak", "\u00fc\U0001f600"],
    "timestamptz": [
        datetime(2026, 7, 1, 12, 30, 0, 123456, tzinfo=BERLIN_SUMMER),
        datetime(1900, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
    "uuid": [UUID(int=0), uuid4()],
}


def query(text: str, **values: Any) -> Query[Any]:
    return Query(sql._parse("test", text), values, rows)


@pytest.mark.parametrize("kind", VALUES)
def test_every_value_arrives_as_it_was_sent(database: Database, kind: str) -> None:
    for value in (*VALUES[kind], None):
        assert database.run(query(f"SELECT %(v)s::{kind}", v=value)) == [(value,)]


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("shape", [[], [None], [None, None], "all", "some"])
def test_every_array_arrives_as_it_was_sent(database: Database, kind: str, shape: Any) -> None:
    values = (
        {"all": VALUES[kind], "some": [None, *VALUES[kind], None]}.get(shape, shape)
        if isinstance(shape, str)
        else shape
    )
    assert database.run(query(f"SELECT %(v)s::{kind}[]", v=values)) == [(values,)]


@pytest.mark.parametrize(
    ("kind", "value"), [("int2", 32768), ("uuid", "not one"), ("timestamptz", datetime(2026, 1, 1))]
)
def test_a_value_that_does_not_fit_is_an_error_and_not_another_value(database: Database, kind: str, value: Any) -> None:
    with pytest.raises(psycopg.Error, match="'test'"):
        database.run(query(f"SELECT %(v)s::{kind}", v=value))

    assert database.run(query("SELECT 1")) == [(1,)]


def test_an_error_of_the_server_leaves_the_connection_in_use(database_url: str) -> None:
    with connect(database_url) as conn:
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.run(query("SELECT 1 / %(v)s::int4", v=0))

        assert conn.run(query("SELECT 1 / %(v)s::int4", v=1)) == [(1,)]


def test_a_parameter_of_an_unknown_type_is_refused_by_name(database: Database) -> None:
    with pytest.raises(psycopg.Error, match="'test' takes a value of type"):
        database.run(query("SELECT %(v)s::interval", v=timedelta(1)))


@pytest.mark.parametrize("noun", NOUNS)
def test_every_statement_of_the_store_can_be_prepared(database: Database, database_url: str, noun: str) -> None:
    database.ping()
    with connect(database_url) as conn:
        wire = Wire(conn)
        for statement in sql.load(noun).values():
            prepared = conn.wait(wire._prepare(statement))
            assert [name for name, _ in prepared.parameters] == list(statement.names)
