"""PgBouncer in transaction mode before a server, where every statement may meet another session."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.workers import STUCK_S

CONFIGURATION = """\
[databases]
{dbname} = host={host} port={port} dbname={dbname} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {free}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
"""


def is_installed() -> bool:
    return shutil.which("pgbouncer") is not None


@contextmanager
def pooled(url: str, directory: Path, size: int = 2) -> Iterator[str]:
    """A URL that leads to the same database by a pooler with so many sessions."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    given: dict[str, Any] = {"port": "5432", **conninfo_to_dict(url), "free": free, "size": size}
    configuration = directory / "pgbouncer.ini"
    configuration.write_text(CONFIGURATION.format(**given))
    command = ["pgbouncer", "-q", str(configuration)]
    if os.geteuid() == 0:  # it refuses to run as root; the socket's owner may enter its directory
        for path in (configuration, *configuration.parents[:3]):
            path.chmod(0o755)
        owner = os.stat(given["host"]).st_uid if given["host"].startswith("/") else pwd.getpwnam("nobody").pw_uid
        command += ["-u", pwd.getpwuid(owner).pw_name]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as pooler:
        try:
            there = f"postgresql://{given['user']}@127.0.0.1:{free}/{given['dbname']}"
            _await_answer(there, pooler)
            yield there
        finally:
            pooler.terminate()


def _await_answer(url: str, pooler: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STUCK_S
    while pooler.poll() is None and time.monotonic() < deadline:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.02)
    pytest.fail(f"pgbouncer does not answer; its status is {pooler.returncode}")
