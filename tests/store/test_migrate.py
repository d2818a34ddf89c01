"""Migrations, on databases of each test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pgtasks.exceptions import SchemaError, SchemaTooNew, SchemaTooOld
from pgtasks.store import migrate
from pgtasks.store.binaries import find_installs
from pgtasks.store.migrate import Migration

ROLE = f"pgtasks_role_{os.getpid()}"


@pytest.fixture
def conn(empty_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        yield conn


@pytest.fixture
def role(conn: psycopg.Connection[Any]) -> Iterator[str]:
    """A role without any right, which `conn` takes on with SET ROLE."""
    conn.execute(f"CREATE ROLE {ROLE}")
    yield ROLE
    conn.execute("RESET ROLE")
    conn.execute(f"DROP OWNED BY {ROLE}")
    conn.execute(f"DROP ROLE {ROLE}")


def release_with(monkeypatch: pytest.MonkeyPatch, *migrations: Migration) -> None:
    """Pretend that this release has these migrations."""
    monkeypatch.setattr(migrate, "migrations", lambda: migrations)


ONE = Migration(1, 1, "one", "CREATE TABLE pgtasks.one (n int)")
TWO = Migration(2, 1, "two", "ALTER TABLE pgtasks.one ADD two int")
BREAKING = Migration(2, 2, "two", "ALTER TABLE pgtasks.one RENAME TO uno")


def tables(conn: psycopg.Connection[Any]) -> set[str]:
    return {row[0] for row in conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'pgtasks'")}


def test_an_empty_database_gets_the_whole_schema_once(conn: psycopg.Connection[Any]) -> None:
    first = migrate.upgrade(conn)
    second = migrate.upgrade(conn)

    assert list(first) == list(migrate.migrations())
    assert not second
    migrate.check(conn)


def test_a_server_that_is_too_old_is_told_so_and_not_by_an_error_of_syntax(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "OLDEST_SERVER", 990000)

    with pytest.raises(SchemaError, match=r"is Postgres 1.*needs 99 or newer"):
        migrate.upgrade(conn)

    assert tables(conn) == set()


def test_processes_that_come_at_once_apply_each_migration_once(empty_database_url: str) -> None:
    def upgrade(_: int) -> int:
        with psycopg.connect(empty_database_url) as conn:
            return len(migrate.upgrade(conn))

    with ThreadPoolExecutor(20) as pool:
        applied = list(pool.map(upgrade, range(20)))

    assert sum(applied) == len(migrate.migrations())


def test_the_row_factory_and_isolation_of_the_callers_connection_do_not_matter(
    empty_database_url: str,
) -> None:
    options = "-c default_transaction_isolation=serializable"
    with psycopg.connect(empty_database_url, row_factory=dict_row, options=options) as conn:
        assert migrate.upgrade(conn)
        assert not migrate.pending(conn)


def test_a_migration_that_fails_leaves_the_ones_before_it_and_nothing_of_itself(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    release_with(monkeypatch, ONE, Migration(2, 2, "bad", "CREATE TABLE pgtasks.half (); SELECT 1/0"))

    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate.upgrade(conn)

    assert tables(conn) == {"migration", "one"}
    assert [str(line) for line in migrate.applied(conn)] == ["0001_one"]


def test_a_migration_gives_way_to_long_transactions_and_tries_again(
    conn: psycopg.Connection[Any], empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_with(monkeypatch, ONE)
    migrate.upgrade(conn)
    release_with(monkeypatch, ONE, TWO)
    monkeypatch.setattr(migrate, "_DDL_LOCK_TIMEOUT", "10ms")
    with psycopg.connect(empty_database_url) as reader:
        reader.execute("SELECT * FROM pgtasks.one")
        # The reader ends its transaction while the migration waits for its next try.
        monkeypatch.setattr(migrate.time, "sleep", lambda _: reader.rollback())

        applied = migrate.upgrade(conn)

    assert list(applied) == [TWO]


def test_a_role_without_ddl_rights_works_on_a_current_schema(conn: psycopg.Connection[Any], role: str) -> None:
    migrate.upgrade(conn)
    conn.execute(migrate.grants(role).encode())

    conn.execute(f"SET ROLE {role}")

    assert not migrate.upgrade(conn)
    conn.execute("INSERT INTO pgtasks.saved_group (id, members) VALUES ('g', '')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("DELETE FROM pgtasks.migration")


def test_a_role_without_ddl_rights_is_told_what_a_dba_must_run(
    conn: psycopg.Connection[Any], role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_with(monkeypatch, ONE)
    migrate.upgrade(conn)
    conn.execute(migrate.grants(role).encode())
    release_with(monkeypatch, ONE, TWO)
    conn.execute(f"SET ROLE {role}")

    with pytest.raises(SchemaTooOld, match=r"lacks 0002_two.*may not upgrade it.*`pgtasks db upgrade`"):
        migrate.upgrade(conn)


def test_a_role_without_any_rights_is_told_which_grants_it_needs(conn: psycopg.Connection[Any], role: str) -> None:
    migrate.upgrade(conn)
    conn.execute(f"SET ROLE {role}")

    with pytest.raises(SchemaError, match=r"pgtasks db sql --grant"):
        migrate.pending(conn)


def test_a_role_that_owns_the_schema_but_may_make_none_can_install(conn: psycopg.Connection[Any], role: str) -> None:
    conn.execute(f"CREATE SCHEMA pgtasks AUTHORIZATION {role}")
    conn.execute(f"SET ROLE {role}")

    migrate.upgrade(conn)

    migrate.check(conn)


def test_a_schema_that_lacks_something_fails_the_check_with_the_command_to_run(
    conn: psycopg.Connection[Any],
) -> None:
    with pytest.raises(SchemaTooOld, match=r"lacks 0001_\w+.*pgtasks db upgrade"):
        migrate.check(conn)


def test_an_old_release_works_on_a_newer_schema_that_says_it_may(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    release_with(monkeypatch, ONE, TWO)
    migrate.upgrade(conn)

    release_with(monkeypatch, ONE)

    migrate.check(conn)
    assert not migrate.upgrade(conn)


def test_an_old_release_refuses_a_newer_schema_that_breaks_it(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    release_with(monkeypatch, ONE, BREAKING)
    migrate.upgrade(conn)

    release_with(monkeypatch, ONE)

    with pytest.raises(SchemaTooNew, match=r"has migration 0002_two.*knows only 0001.*Upgrade pgtasks"):
        migrate.upgrade(conn)


def test_a_migration_that_was_edited_after_it_was_applied_is_noticed(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    release_with(monkeypatch, ONE)
    migrate.upgrade(conn)

    release_with(monkeypatch, ONE._replace(sql="CREATE TABLE pgtasks.one (n bigint)"))

    with pytest.raises(SchemaError, match="with other contents"):
        migrate.upgrade(conn)


def test_a_migration_that_says_whose_place_it_takes_goes_by_that_one_in_old_and_new_releases(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rewritten = ONE._replace(sql=f"-- same as: {ONE.checksum}\nCREATE TABLE pgtasks.one ();\nALTER TABLE pgtasks.one ADD n int")
    release_with(monkeypatch, rewritten)

    migrate.upgrade(conn)

    release_with(monkeypatch, ONE)
    migrate.check(conn)


_FILLED_IN_WHERE_A_FUNCTION_USES_ROWS = """
SELECT a.attrelid::regclass::text, a.attname, p.oid::regprocedure::text
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid AND c.relnamespace = 'pgtasks'::regnamespace
JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = c.reltype AND d.classid = 'pg_proc'::regclass
JOIN pg_proc p ON p.oid = d.objid AND p.prosqlbody IS NOT NULL
WHERE a.atthasmissing
"""


def test_no_column_comes_with_a_default_to_a_table_whose_rows_a_function_uses(conn: psycopg.Connection[Any]) -> None:
    """Postgres 17.12 and newer refuse it: "cannot alter table because function uses its row type". Older ones do it."""
    migrate.upgrade(conn)

    assert not conn.execute(_FILLED_IN_WHERE_A_FUNCTION_USES_ROWS).fetchall()


def test_the_printed_sql_makes_what_the_release_makes_itself(
    conn: psycopg.Connection[Any], empty_database_url: str
) -> None:
    psql = find_installs()[0].bin / "psql"

    subprocess.run([psql, "-q", empty_database_url], input=migrate.sql(), text=True, check=True)

    assert not migrate.upgrade(conn)
    migrate.check(conn)


def test_migrations_are_numbered_without_gaps_and_say_which_releases_they_work_with() -> None:
    found = migrate.migrations()

    assert [each.version for each in found] == list(range(1, len(found) + 1))
    assert all(1 <= each.works_with <= each.version for each in found)
