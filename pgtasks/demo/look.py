"""What the demo asks the database, in SQL that anybody may run while it lasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg.sql import SQL, Identifier


class Held(NamedTuple):
    """A worker and how many tasks it has claimed."""

    id: UUID
    name: str
    tasks: int


class Tally(NamedTuple):
    """How tasks have ended."""

    done: int
    succeeded: int
    redelivered: int


class Look:
    """Looks at the tasks of one queue."""

    def __init__(self, url: str, queue: str) -> None:
        self._conn = psycopg.connect(url, autocommit=True)
        self._queue = queue
        self._ids: list[UUID] = []

    def close(self) -> None:
        self._conn.close()

    @property
    def server(self) -> str:
        return f"Postgres {self._conn.info.parameter_status('server_version')}"

    def make_durable(self) -> None:
        """Turn on durability for a throw-away server: without it, its speed would mean nothing."""
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            self._conn.execute(f"ALTER SYSTEM SET {setting} = on".encode())
        self._conn.execute("SELECT pg_reload_conf()")

    def find_tasks(self) -> int:
        """Note which tasks there are, and say how many."""
        found = self._rows("SELECT id FROM pgtasks.message WHERE queue = %s", self._queue)
        self._ids = [row[0] for row in found]
        return len(self._ids)

    def is_online(self, name: str) -> bool:
        return bool(self._rows("SELECT FROM pgtasks.workers WHERE hostname = %s AND is_alive", name))

    def held(self, names: Sequence[str]) -> list[Held]:
        """Who holds how many tasks, the busiest first."""
        found = self._rows(
            "SELECT id, hostname, claimed FROM pgtasks.workers WHERE hostname = ANY (%s) ORDER BY claimed DESC",
            list(names),
        )
        return [Held._make(row) for row in found]

    def held_by(self, worker: UUID) -> int:
        """How many tasks are still booked to a worker, dead or alive."""
        return int(self._rows("SELECT count(*) FROM pgtasks.claim WHERE worker = %s", worker)[0][0])

    def tally(self) -> Tally:
        found = self._rows(
            "SELECT count(*), count(*) FILTER (WHERE state = 'SUCCESS'), count(*) FILTER (WHERE delivery > 1)"
            " FROM pgtasks.result WHERE id = ANY (%s)",
            self._ids,
        )
        return Tally._make(found[0])

    def shown(self, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run a query that is shown to the user as it is; gives the names of its columns and its rows."""
        with self._conn.cursor() as cursor:
            cursor.execute(query.encode())
            assert cursor.description is not None
            return [column.name for column in cursor.description], cursor.fetchall()

    def clear(self) -> None:
        """Remove the tasks of the demo, whatever their state."""
        self.find_tasks()
        for table in ("ready", "scheduled", "waiting", "claim", "progress", "result", "message"):
            delete = SQL("DELETE FROM pgtasks.{} WHERE id = ANY (%s)").format(Identifier(table))
            self._conn.execute(delete, [self._ids])
        self._conn.execute("DELETE FROM pgtasks.edge WHERE succ = ANY (%s)", [self._ids])

    def _rows(self, query: str, value: Any) -> list[tuple[Any, ...]]:
        return self._conn.execute(query.encode(), [value]).fetchall()
