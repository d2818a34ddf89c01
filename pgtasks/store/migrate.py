"""The schema: numbered SQL files, and a ledger of those that a database has.

`migrations/NNNN_name.sql` are applied in order, each once, each in a transaction of its own together with its
line in `pgtasks.migration`. Any number of processes may start at once on an empty database: an advisory lock,
held to the end of each transaction, lets one of them work, and the others find the work done. When nothing is
pending, `upgrade` is one SELECT, and asks for no right but to read the ledger.

A file may say, in a line `-- works with: 0003`, that programs which know the schema only up to 0003 keep
working once it is applied. That is what makes it possible to upgrade the workers of a running system one by
one. Without the line, older releases refuse to work with the database.

What a file says must not change once it was applied anywhere, and a checksum in the ledger tells. Where it must, since
a newer Postgres refuses what older ones took, `-- same as: 0123456789abcdef` names the checksum of the contents that came
to the same: the file goes by that one, for this release and for those that have the file as it was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, NamedTuple

from psycopg import Connection, errors
from psycopg.rows import tuple_row

from pgtasks.exceptions import DatabaseUnavailable, SchemaError, SchemaTooNew, SchemaTooOld

#: As `server_version_num` counts.
OLDEST_SERVER = 140000
#: Any number that no other program in the same database uses for its own advisory locks: "pgtasks" in ASCII.
_LOCK_KEY = int.from_bytes(b"pgtasks", "big")
#: DDL that waits for a lock stops every query that comes after it, so it gives up soon and tries again.
_DDL_LOCK_TIMEOUT = "3s"
_QUEUE_TIMEOUT = "10min"
_DDL_ATTEMPTS = 20

_FILE = re.compile(r"^(\d{4})_(\w+)\.sql$")
_WORKS_WITH = re.compile(r"^-- works with: (\d+)$", re.MULTILINE)
_SAME_AS = re.compile(r"^-- same as: ([0-9a-f]{16})$", re.MULTILINE)

_LEDGER = """\
CREATE TABLE pgtasks.migration (
  version int NOT NULL,
  works_with int NOT NULL,
  name text NOT NULL,
  checksum text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT migration_pkey PRIMARY KEY (version)
);
"""
_READ = "SELECT version, works_with, name, checksum FROM pgtasks.migration ORDER BY version"
_WRITE = "INSERT INTO pgtasks.migration (version, works_with, name, checksum) VALUES (%s)"


class Applied(NamedTuple):
    """A line of the ledger."""

    version: int
    works_with: int
    name: str
    checksum: str

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"


class Migration(NamedTuple):
    """A file of `migrations/`."""

    version: int
    works_with: int
    name: str
    sql: str

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"

    @property
    def checksum(self) -> str:
        same_as = _SAME_AS.search(self.sql)
        return same_as[1] if same_as else sha256(self.sql.encode()).hexdigest()[:16]


@cache
def migrations() -> Sequence[Migration]:
    """Return the migrations that this release has, in order."""
    found = []
    for path in files("pgtasks.store").joinpath("migrations").iterdir():
        if match := _FILE.match(path.name):
            text = path.read_text(encoding="utf-8")
            works_with = _WORKS_WITH.search(text)
            version = int(match[1])
            found.append(Migration(version, int(works_with[1]) if works_with else version, match[2], text))
    return sorted(found)


def applied(conn: Connection[Any]) -> Sequence[Applied]:
    """Read the ledger; a database without one has no migrations applied."""
    try:
        with conn.transaction():
            return [Applied(*row) for row in _rows(conn, _READ)]
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        return ()
    except errors.InsufficientPrivilege as exc:
        raise SchemaError(
            f"The role {conn.info.user!r} may not read the pgtasks schema of database {conn.info.dbname!r}: "
            f"{exc.diag.message_primary}. A database administrator can grant what it needs: "
            f"`pgtasks db sql --grant {conn.info.user}` prints the statements."
        ) from exc


def pending(conn: Connection[Any]) -> Sequence[Migration]:
    """Return the migrations that the database lacks, in order; raise SchemaError if it cannot be used."""
    ledger = {line.version: line for line in applied(conn)}
    _compare(conn, ledger)
    return [each for each in migrations() if each.version not in ledger]


def check(conn: Connection[Any]) -> None:
    """Raise SchemaTooOld or SchemaTooNew, saying what to do, unless the database fits this release."""
    if lacking := pending(conn):
        raise SchemaTooOld(_too_old(conn, lacking) + ". Run `pgtasks db upgrade`.")


def upgrade(conn: Connection[Any]) -> Sequence[Migration]:
    """Apply what is pending, and return what this call applied; `conn` must not be in a transaction.

    Raises SchemaTooOld when the role may not, naming the command for somebody who may, and SchemaError when the
    server is too old for any schema of this release.
    """
    done = []
    for migration in pending(conn):
        if conn.info.server_version < OLDEST_SERVER:
            raise SchemaError(
                f"The server of database {conn.info.dbname!r} is Postgres "
                f"{conn.info.parameter_status('server_version')}, and pgtasks needs {OLDEST_SERVER // 10_000} or "
                "newer. Upgrade it, or name another server in PGTASKS_DATABASE_URL."
            )
        try:
            if _apply(conn, migration):
                done.append(migration)
        except (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction) as exc:
            raise SchemaTooOld(
                f"{_too_old(conn, [each for each in migrations() if each.version >= migration.version])}, "
                f"and the role {conn.info.user!r} may not upgrade it: {exc.diag.message_primary}. A "
                "database administrator must run `pgtasks db upgrade` as the schema's owner, or `pgtasks "
                "db sql --pending | psql` with the database's URL."
            ) from exc
    return done


def sql(after: int = 0) -> str:
    """Return a script for psql that applies the migrations after version `after`, and notes them."""
    pieces = [] if after else [f"BEGIN;\nCREATE SCHEMA IF NOT EXISTS pgtasks;\n{_LEDGER}COMMIT;\n"]
    for each in migrations():
        if each.version > after:
            line = f"{each.version}, {each.works_with}, '{each.name}', '{each.checksum}'"
            pieces.append(f"BEGIN;\n-- {each}\n{each.sql.rstrip()}\n{_WRITE % line};\nCOMMIT;\n")
    return "\n".join(["\\set ON_ERROR_STOP on\n", *pieces])


def grants(role: str) -> str:
    """Return the statements that let `role` work with the schema, but not change it."""
    name = '"' + role.replace('"', '""') + '"'
    lines = [f"GRANT USAGE ON SCHEMA pgtasks TO {name};"]
    for kind, rights in (
        ("TABLES", "SELECT, INSERT, UPDATE, DELETE, TRUNCATE"),
        ("SEQUENCES", "USAGE, SELECT"),
        ("FUNCTIONS", "EXECUTE"),
    ):
        lines.append(f"GRANT {rights} ON ALL {kind} IN SCHEMA pgtasks TO {name};")
        lines.append(f"ALTER DEFAULT PRIVILEGES IN SCHEMA pgtasks GRANT {rights} ON {kind} TO {name};")
    lines.append(f"REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON pgtasks.migration FROM {name};")
    return "\n".join(lines) + "\n"


def _compare(conn: Connection[Any], ledger: Mapping[int, Applied]) -> None:
    """Raise SchemaError when a line of the ledger does not go with this release."""
    known = {each.version: each for each in migrations()}
    newest = max(known)
    for line in ledger.values():
        ours = known.get(line.version)
        if ours is None and line.works_with > newest:
            raise SchemaTooNew(
                f"The pgtasks schema of database {conn.info.dbname!r} has migration {line}, and this "
                f"release of pgtasks knows only {newest:04} and before. Upgrade pgtasks here to the release "
                "that the others run."
            )
        if ours is not None and ours.checksum != line.checksum:
            raise SchemaError(
                f"Migration {line} was applied to database {conn.info.dbname!r} with other contents "
                f"(checksum {line.checksum}) than this release has ({ours.checksum}), so what is in the "
                "database is not known. Use the release that made it; or, for a database without anything "
                "of worth, `DROP SCHEMA pgtasks CASCADE`."
            )


def _too_old(conn: Connection[Any], lacking: Sequence[Migration]) -> str:
    names = ", ".join(map(str, lacking))
    return f"The pgtasks schema of database {conn.info.dbname!r} lacks {names}"


def _apply(conn: Connection[Any], migration: Migration) -> bool:
    """Apply one migration, and say whether it was this process that did."""
    for _ in range(_DDL_ATTEMPTS):
        try:
            with conn.transaction():
                return _apply_locked(conn, migration)
        except errors.LockNotAvailable:
            time.sleep(0.5)  # lets through the queries that had to wait behind the DDL
    raise DatabaseUnavailable(
        f"Migration {migration} did not get its locks in {_DDL_ATTEMPTS} attempts of {_DDL_LOCK_TIMEOUT}. "
        "Look for long transactions in pg_stat_activity, and try again."
    )


def _apply_locked(conn: Connection[Any], migration: Migration) -> bool:
    # Each statement must see what the process before this one has committed, whatever the role's defaults
    # are.
    conn.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
    conn.execute(f"SET LOCAL lock_timeout = '{_QUEUE_TIMEOUT}'; SET LOCAL statement_timeout = 0")
    conn.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK_KEY])
    conn.execute(f"SET LOCAL lock_timeout = '{_DDL_LOCK_TIMEOUT}'; SET LOCAL client_min_messages = warning")
    if migration.version in {line.version for line in applied(conn)}:
        return False
    # A DBA may have made the schema for a role that may not make schemas: IF NOT EXISTS would be refused to
    # it.
    if _rows(conn, "SELECT to_regnamespace('pgtasks') IS NULL")[0][0]:
        conn.execute("CREATE SCHEMA pgtasks")
    if _rows(conn, "SELECT to_regclass('pgtasks.migration') IS NULL")[0][0]:
        conn.execute(_LEDGER)
    conn.execute(migration.sql.encode())
    conn.execute(_WRITE % "%s, %s, %s, %s", [*migration[:3], migration.checksum])
    return True


def _rows(conn: Connection[Any], query: str) -> Sequence[tuple[Any, ...]]:
    """Read tuples, whatever the row factory of a connection that is the caller's."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query).fetchall()
