"""Celery and pgtasks as the runner sees them: a command line, an environment, and a store emptied before each run."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LAUNCH = "import importlib, os; importlib.import_module(os.environ['COMPAT_PROGRAM']).main()"
AS_CELERY = "import pgtasks; pgtasks.install_as_celery(); "


@dataclass(frozen=True)
class Implementation:
    """How to run a program, and what to do before each run so that it meets an empty store."""

    name: str
    version: str
    launch: list[str]
    command: list[str]
    environment: dict[str, str]
    empty: Callable[[], None]


@contextmanager
def real_celery(python: str) -> Iterator[Implementation]:
    """Celery with a private Redis as broker and result backend."""
    with _redis() as port:
        url = f"redis://127.0.0.1:{port}"
        yield Implementation(
            name="celery",
            version=_ask(
                python,
                "import celery, kombu; print(f'Celery {celery.__version__}, kombu {kombu.__version__}')",
            ),
            launch=[python, "-c", LAUNCH],
            command=[python, "-m", "celery"],
            environment={"CELERY_BROKER_URL": f"{url}/0", "CELERY_RESULT_BACKEND": f"{url}/1"},
            empty=lambda: _redis_command(port, b"FLUSHALL"),
        )


def pgtasks(python: str, database_url: str) -> Implementation:
    """pgtasks standing in for Celery on an existing database, whose schema `pgtasks` is dropped before each run."""
    drop = (
        "import psycopg, sys; connection = psycopg.connect(sys.argv[1], autocommit=True); "
        "connection.execute('DROP SCHEMA IF EXISTS pgtasks CASCADE')"
    )

    def empty() -> None:
        subprocess.run([python, "-c", drop, database_url], check=True)

    return Implementation(
        name="pgtasks",
        version=_ask(python, "import pgtasks; print(f'pgtasks {pgtasks.__version__}')"),
        launch=[python, "-c", AS_CELERY + LAUNCH],
        command=[python, "-m", "pgtasks", "--as-celery"],
        environment={"PGTASKS_DATABASE_URL": database_url},
        empty=empty,
    )


def can_run_celery(python: str) -> bool:
    installed = subprocess.run([python, "-c", "import celery, redis"], capture_output=True)
    return shutil.which("redis-server") is not None and installed.returncode == 0


def _ask(python: str, question: str) -> str:
    return subprocess.run([python, "-c", question], capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def _redis() -> Iterator[int]:
    """A Redis that keeps nothing on disk, on a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="compat-redis-") as directory:
        server = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"],
            cwd=directory,
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait_until_it_listens(port)
            yield port
        finally:
            server.terminate()
            server.wait()


def _wait_until_it_listens(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            return _redis_command(port, b"PING")
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _redis_command(port: int, command: bytes) -> None:
    """Redis' inline protocol, so that the runner itself needs no client library."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(command + b"\r\n")
        answer = connection.recv(64)
        assert answer.startswith(b"+"), answer
