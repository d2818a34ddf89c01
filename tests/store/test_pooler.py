"""Behind PgBouncer in transaction mode, where every statement may meet another session."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.message import Message, new_id
from pgtasks.store import fleet, tasks
from pgtasks.store.database import AsyncDatabase, Database
from pgtasks.store.listen import Doorbell

pytestmark = pytest.mark.skipif(not shutil.which("pgbouncer"), reason="pgbouncer is not installed")

CONFIGURATION = """\
[databases]
{dbname} = host={host} port={port} dbname={dbname} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {free}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
"""


@pytest.fixture
def pooled_url(database_url: str, tmp_path: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    given: dict[str, Any] = {"port": "5432", **conninfo_to_dict(database_url), "free": free}
    configuration = tmp_path / "pgbouncer.ini"
    configuration.write_text(CONFIGURATION.format(**given))
    command = ["pgbouncer", "-q", str(configuration)]
    if os.geteuid() == 0:  # it refuses to run as root; the socket's owner may enter its directory
        for path in (configuration, *configuration.parents[:3]):
            path.chmod(0o755)
        owner = os.stat(given["host"]).st_uid if given["host"].startswith("/") else pwd.getpwnam("nobody").pw_uid
        command += ["-u", pwd.getpwuid(owner).pw_name]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as pooler:
        url = f"postgresql://{given['user']}@127.0.0.1:{free}/{given['dbname']}"
        _await_answer(url, pooler)
        yield url
        pooler.terminate()


def _await_answer(url: str, pooler: subprocess.Popen[bytes]) -> None:
    while pooler.poll() is None:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.02)
    pytest.fail(f"pgbouncer ended with {pooler.returncode}")


def message() -> Message:
    return Message(id=new_id(), name="t", payload=b"[[], {}, {}]")


def test_statements_of_many_clients_do_not_meet_each_others_prepared_statements(pooled_url: str) -> None:
    def be_a_client(number: int) -> int:
        database = Database(pooled_url)
        sent = [message() for _ in range(20)]
        for each in sent:
            # Different statements in different orders: a name prepared by one means another for the next.
            if number % 2:
                database.run(tasks.lengths(["celery"]))
            database.run(tasks.enqueue([each]))
            database.run(fleet.workers())
        found = database.run(tasks.forget([each.id for each in sent])) or 0
        database.close()
        return found

    with ThreadPoolExecutor(6) as clients:
        list(clients.map(be_a_client, range(6)))

    with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as conn:
        assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (120,)
        assert conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)


def test_the_settings_of_our_sessions_do_not_leak_into_those_of_other_programs(pooled_url: str) -> None:
    database = Database(pooled_url)
    database.run(tasks.enqueue([message()]))

    with psycopg.connect(pooled_url, prepare_threshold=None) as conn:
        found = conn.execute(
            "SELECT name, setting FROM pg_settings WHERE source = 'session' AND name <> 'application_name'"
            " AND name !~ 'client_encoding|DateStyle|TimeZone|standard_conforming'"
        ).fetchall()

    assert database.is_pooled
    assert found == []


def test_nobody_listens_to_a_session_that_is_not_its_own(pooled_url: str) -> None:
    with pytest.raises(psycopg.NotSupportedError, match="pooler"):
        Doorbell(pooled_url, f"pgtasks_worker_{uuid4()}")


def test_a_straight_connection_is_not_taken_for_a_pooled_one(database_url: str) -> None:
    database = Database(database_url)

    database.ping()

    assert not database.is_pooled


@pytest.fixture
def serializable(conn: psycopg.Connection[Any]) -> Iterator[None]:
    change = f"ALTER DATABASE {conn.info.dbname} %s default_transaction_isolation"
    conn.execute(f"{change % 'SET'} TO serializable".encode())
    yield
    conn.execute((change % "RESET").encode())


def test_another_isolation_level_is_refused_since_it_cannot_be_changed_for_us_alone(
    serializable: None, pooled_url: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match="'serializable' by default"):
        Database(pooled_url).ping()


def test_coroutines_prepare_nothing_either(pooled_url: str) -> None:
    async def send() -> bool:
        database = AsyncDatabase(pooled_url)
        for _ in range(8):
            await database.run(tasks.enqueue([message()]))
        await database.close()
        return database.is_pooled

    assert asyncio.run(send())
