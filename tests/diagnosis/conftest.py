"""An installation to be looked at, and a server with settings that nobody wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgtasks.diagnosis import Finding, examine
from pgtasks.store import migrate
from pgtasks.store.database import Database
from pgtasks.store.embedded import Server

#: Of a server that keeps nothing on disk, a role that may do everything, and the machine that all this runs on.
OF_THE_TESTS_SERVER = {
    "fsync", "full_page_writes", "synchronous_commit", "superuser", "connections", "disk space", "archiving",
    "hidden sessions", "old session",
}  # fmt: skip


def findings(url: str, name: str | None = None, **options: Any) -> list[Finding]:
    """What is found, of this name or of all that is not the tests' own fault."""
    found = examine(url, **options).findings
    if name is not None:
        return [each for each in found if each.name == name]
    return [each for each in found if each.name not in OF_THE_TESTS_SERVER]


def names(url: str, **options: Any) -> list[str]:
    return [each.name for each in findings(url, **options)]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


Restart = Callable[..., None]


class OddServer:
    """A server of the tests' own, to be set up wrongly."""

    def __init__(self) -> None:
        self.server = Server.throw_away()
        self.url = self.server.start()
        with psycopg.connect(self.url, autocommit=True) as conn:
            migrate.upgrade(conn)

    def set(self, **settings: str) -> None:
        """Change settings and start it anew."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            known = {name for (name,) in conn.execute("SELECT name FROM pg_settings")}
            for name, value in settings.items():
                if name not in known:
                    continue  # of a later Postgres
                conn.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
        self.control("restart", "-D", str(self.server.data), "-l", str(self.server.log))

    def control(self, *words: str) -> None:
        said = self.server.account.run(self.server.program("pg_ctl"), *words, "-w", "-t", "60", "-m", "fast")
        assert said.returncode == 0, said.stdout + said.stderr


@pytest.fixture(scope="session")
def odd_server() -> Iterator[OddServer]:
    odd = OddServer()
    odd.set(
        max_connections="14", max_notify_queue_pages="64", max_prepared_transactions="2", wal_level="logical", archive_mode="on",
        archive_command="false", max_wal_senders="3", autovacuum="off",
    )  # fmt: skip
    yield odd
    odd.server.stop()
