"""The databases that tests run on.

One throw-away server serves a whole test run; PGTASKS_TEST_DATABASE_URL (a URL whose role may create
databases) names another server to use instead, such as an older Postgres. The schema is migrated once, into a
template, from which each process of pytest-xdist makes a database of its own. Between tests that database is
emptied, not made anew: 2 ms instead of 100.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from urllib.parse import urlsplit, urlunsplit

import psycopg

from pgtasks.store import migrate
from pgtasks.store.embedded import Server

_LOCK_KEY = 7_346_501

_EMPTY_TABLES = """
DO $$
DECLARE
  name text;
  is_used boolean;
  used text[] := '{}';
BEGIN
  FOR name IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
               WHERE schemaname = 'pgtasks' AND tablename <> 'migration'
  LOOP
    EXECUTE 'SELECT EXISTS (SELECT FROM ' || name || ')' INTO is_used;
    IF is_used THEN used := used || name; END IF;
  END LOOP;
  IF used <> '{}' THEN EXECUTE 'TRUNCATE ' || array_to_string(used, ', ') || ' CASCADE'; END IF;
END $$
"""


def start_server() -> str:
    """Return the URL of the server to test on, starting one that ends with this process if none is named."""
    return os.environ.get("PGTASKS_TEST_DATABASE_URL") or _start_throw_away()


def _start_throw_away() -> str:
    server = Server.throw_away()
    _kept.append(server)
    return server.start()


_kept: list[Server] = []


def url_of(server_url: str, database: str) -> str:
    """Return the URL of another database of the same server."""
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{database}"))


def make_template(server_url: str) -> str:
    """Return the name of a database with the current schema; made by whoever comes first."""
    digest = sha256("".join(each.checksum for each in migrate.migrations()).encode()).hexdigest()[:12]
    name = f"pgtasks_template_{digest}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%s)", [_LOCK_KEY])
        if not conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            fresh = f"{name}_new"
            conn.execute(f"DROP DATABASE IF EXISTS {fresh}")
            conn.execute(f"CREATE DATABASE {fresh} TEMPLATE template0 ENCODING 'UTF8'")
            with psycopg.connect(url_of(server_url, fresh)) as migrating:
                migrate.upgrade(migrating)
            conn.execute(f"ALTER DATABASE {fresh} RENAME TO {name}")
    return name


@contextmanager
def new_database(server_url: str, name: str, template: str = "template0") -> Iterator[str]:
    """Make a database, give its URL, and drop it with whoever is still connected."""
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        # One at a time: two copies of one template get in each other's way.
        conn.execute("SELECT pg_advisory_lock(%s)", [_LOCK_KEY])
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        conn.execute("SELECT pg_advisory_unlock(%s)", [_LOCK_KEY])
    yield url_of(server_url, name)
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def empty(url: str) -> None:
    """Empty every table of the schema that has rows."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SET lock_timeout = '60s'")
        conn.execute(_EMPTY_TABLES)
