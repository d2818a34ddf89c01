"""A database for each process of a test run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from pgtasks.store.database import Database
from pgtasks.store.embedded import Server

__all__ = ("empty", "new_database")

SERVER = "PGTASKS_TEST_DATABASE_URL"


@contextmanager
def new_database(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Make a database with the schema, give its URL, and drop it."""
    server_url = environ.get(SERVER)
    if not server_url:
        server = Server.throw_away()
        try:
            yield _with_schema(server.start())
        finally:
            server.stop()
        return
    name = f"pgtasks_test_{environ.get('PYTEST_XDIST_WORKER', 'main')}_{os.getpid()}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield _with_schema(urlunsplit(urlsplit(server_url)._replace(path=f"/{name}")))
        finally:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _with_schema(url: str) -> str:
    database = Database(url)
    database.ping()
    database.close()
    return url


def empty(url: str) -> None:
    """Remove all that is in the tables of pgtasks, but for the record of migrations."""
    with psycopg.connect(url, autocommit=True) as conn:
        tables = conn.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'pgtasks' AND tablename <> 'migration'"
        ).fetchall()
        names = sql.SQL(", ").join(sql.Identifier("pgtasks", name) for (name,) in tables)
        conn.execute(sql.SQL("TRUNCATE {} CASCADE").format(names))
