"""Run a query inside the caller's own transaction, of psycopg, SQLAlchemy or Django.

Accepted as `conn=` or `using=`: a psycopg connection or cursor; a SQLAlchemy `Connection` or `Session` on psycopg; a
Django connection, or the alias of one. The async verbs accept the async forms of the first two, and Django's aliases: what
they name belongs to the thread in which Django runs what is not asynchronous, and there the query is run.
Nothing is retried here and nothing committed: the transaction is the caller's, and so are its errors.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor
from psycopg.rows import tuple_row

from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.store import arrays
from pgtasks.store.sql import Query

T = TypeVar("T")


def run(source: Any, query: Query[T]) -> T:
    """Run a query in the transaction that `source` holds."""
    cursor = Cursor(_driver_connection(source), row_factory=tuple_row)
    arrays.register(cursor)
    # A caller's connection may have other row factories, and may sit behind a pooler: nothing is prepared on it.
    cursor.execute(query.statement.sql, query.values, prepare=False, binary=True)
    return query.read(cursor.fetchall() if cursor.description else ())


def savepoint(source: Any) -> AbstractContextManager[Any]:
    """A savepoint in the transaction that `source` holds; a transaction, if it holds none and commits by itself."""
    return _driver_connection(source).transaction()


async def arun(source: Any, query: Query[T]) -> T:
    """As `run`, for async connections and sessions, and for the aliases of Django's."""
    if isinstance(source, str) or hasattr(source, "ensure_connection"):
        from asgiref.sync import sync_to_async  # only Django has brought it along

        alias = source if isinstance(source, str) else source.alias
        return await sync_to_async(run)(alias, query)
    conn = await _async_driver_connection(source)
    cursor = AsyncCursor(conn, row_factory=tuple_row)
    arrays.register(cursor)
    await cursor.execute(query.statement.sql, query.values, prepare=False, binary=True)
    return query.read(await cursor.fetchall() if cursor.description else ())


def _driver_connection(source: Any) -> Connection[Any]:
    if isinstance(source, Connection):
        return source
    if isinstance(source, Cursor):
        return source.connection
    if isinstance(source, str):
        source = _django_connection(source)
    if hasattr(source, "ensure_connection"):  # Django
        source.validate_no_broken_transaction()
        source.ensure_connection()
        return _checked(source.connection, source)
    if hasattr(source, "get_bind") and hasattr(source, "connection"):  # SQLAlchemy Session
        source = source.connection()
    if hasattr(source, "exec_driver_sql"):  # SQLAlchemy Connection
        return _checked(source.connection.driver_connection, source)
    return _checked(source, source)


async def _async_driver_connection(source: Any) -> AsyncConnection[Any]:
    if isinstance(source, AsyncCursor):
        return source.connection
    if hasattr(source, "get_bind") and hasattr(source, "connection"):  # SQLAlchemy AsyncSession
        source = await source.connection()
    if hasattr(source, "get_raw_connection"):  # SQLAlchemy AsyncConnection
        source = (await source.get_raw_connection()).driver_connection
    if not isinstance(source, AsyncConnection):
        raise _unusable(source, "an async psycopg connection, or an async SQLAlchemy connection or session on psycopg")
    return source


def _django_connection(alias: str) -> Any:
    connections = getattr(sys.modules.get("django.db"), "connections", None)
    if connections is None:
        raise ImproperlyConfigured(
            f"using={alias!r} names a Django database, but Django is not loaded in this process."
        )
    return connections[alias]


def _checked(found: Any, source: Any) -> Connection[Any]:
    if not isinstance(found, Connection):
        raise _unusable(
            source, "a psycopg connection, a SQLAlchemy connection or session on psycopg, or a Django connection"
        )
    return found


def _unusable(source: Any, wanted: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"conn= got a {type(source).__module__}.{type(source).__qualname__}, which pgtasks cannot write through."
        f" Pass {wanted} (psycopg means version 3: postgresql+psycopg:// in SQLAlchemy)."
    )
