"""Fixtures of the bridge's tests: both brokers, a project in both worlds, and the command as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import celery
import psycopg
import pytest

import pgtasks
from pgtasks.store.embedded import Server
from tests.support.brokers import RabbitMQ, Redis
from tests.support.workers import eventually

PROJECT = """
import os
{imports}
app = Celery("proj", broker=os.environ["OLD_BROKER"], backend=os.environ["OLD_RESULTS"])
app.conf.update(
    task_routes={{"proj.mail": {{"queue": "mail"}}}},
    broker_transport_options={{"visibility_timeout": 3600}},
    worker_prefetch_multiplier=1,
)


def note(*words):
    line = " ".join(map(str, words)) + "\\n"
    with open(os.environ["LEDGER"], "ab", buffering=0) as ledger:
        ledger.write(line.encode())


@app.task(bind=True)
def add(self, x, y):
    note("{world}", "add", self.request.id)
    return x + y


@app.task(bind=True)
def mail(self, what):
    note("{world}", "mail", self.request.id, what)
    return what


@app.task(bind=True)
def total(self, numbers):
    note("{world}", "total", self.request.id, sum(numbers))
    return sum(numbers)


@app.task(bind=True, max_retries=2)
def stubborn(self):
    note("{world}", "stubborn", self.request.id, self.request.retries)
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task
def fail():
    raise ValueError("no")


@app.task
def tell(request, exc, traceback):
    note("{world}", "told", request.id)
"""


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    if not Redis.is_installed():
        pytest.skip("redis-server is not installed")
    server = Redis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    if not RabbitMQ.is_installed():
        pytest.skip("rabbitmq-server is not installed")
    server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each of the two brokers in turn, with nothing in it."""
    server = request.getfixturevalue(request.param)
    empty(server)
    yield server
    empty(server)


def empty(server: Any) -> None:
    with celery.Celery(broker=server.url).connection_for_write() as connection:
        if isinstance(server, Redis):
            connection.default_channel.client.flushall()
            return
        for queue in ("celery", "mail", "pgtasks.chords"):
            # Emptied, not deleted: kombu's pooled connections remember what they have declared.
            with connection.channel() as channel:
                try:
                    channel.queue_purge(queue)
                except connection.channel_errors:
                    pass


class Killable:
    """A Postgres of the test's own, that says of a commit that it was done before it is on disk."""

    def __init__(self) -> None:
        self.server = Server.throw_away()
        self.url = self.server.start()
        with psycopg.connect(self.url, autocommit=True) as conn:
            assert conn.execute("SHOW synchronous_commit").fetchone() == ("off",)
            # So that what does not wait is lost when it is killed.
            conn.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
            conn.execute("SELECT pg_reload_conf()")

    def count(self) -> int:
        """How many tasks are there; none while it starts."""
        try:
            with psycopg.connect(self.url) as conn:
                found = conn.execute("SELECT count(*) FROM pgtasks.message").fetchone()
                return int(found[0]) if found else 0
        except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
            return 0

    def kill(self) -> None:
        """`kill -9` of the server."""
        pid = self.server.status().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: self.server.status().pid is None, "the server to be gone")


@pytest.fixture
def killable(tmp_path: Path) -> Iterator[Killable]:
    killable = Killable()
    yield killable
    killable.server.stop()


class Move:
    """A project that moves: the old app, the new one, and commands on either."""

    def __init__(self, directory: Path, server: Any, results: Redis) -> None:
        self.directory = directory
        self.server = server
        self.ledger = directory / "ledger"
        self.ledger.touch()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environ = {
            **os.environ, "OLD_BROKER": server.url, "OLD_RESULTS": results.results, "LEDGER": str(self.ledger),
        }  # fmt: skip
        for world, imports in (("old", "from celery import Celery"), ("new", "from pgtasks import Celery")):
            (directory / world).mkdir()
            (directory / world / "proj.py").write_text(PROJECT.format(imports=imports, world=world))
        #: What calls tasks in the old world.
        self.old = celery.Celery("proj", broker=server.url, backend=results.results, set_as_current=False)
        self.old.conf.task_routes = {"proj.mail": {"queue": "mail"}}
        #: The app whose routes the bridge follows, in this process.
        self.new = pgtasks.Celery("proj", set_as_current=False)
        self.new.conf.task_routes = {"proj.mail": {"queue": "mail"}}

    def sig(self, name: str, *args: Any, **options: Any) -> Any:
        return self.old.signature(f"proj.{name}", args=args, **options)

    def command(self, world: str, *words: str) -> list[str]:
        program = "celery" if world == "old" else "pgtasks"
        return [sys.executable, "-m", program, "-A", "proj", *words]

    def start(self, world: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{world}-{words[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                self.command(world, *words), cwd=self.directory / world, env=self.environ, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def lives(self, bridge: subprocess.Popen[bytes]) -> bool:
        """True; a bridge that has ended by itself fails the test, with what it has said."""
        assert bridge.poll() is None, f"the bridge has ended with {bridge.returncode}:\n{self.log('new-bridge')}"
        return True

    def kill(self) -> None:
        """Kill what a test that failed has left running, before it takes the tasks of the next one."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def run(self, *words: str) -> str:
        """Run a command of the new world to its end; gives what it says."""
        said = subprocess.run(
            self.command("new", *words), cwd=self.directory / "new", env=self.environ, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip
        assert said.returncode == 0, said.stdout + said.stderr
        return said.stdout

    def bridge(self, *words: str) -> str:
        return self.run("bridge", "--queues", "celery,mail", *words)

    def notes(self, *beginning: str) -> list[list[str]]:
        lines = [line.split() for line in self.ledger.read_text().splitlines()]
        return [words for words in lines if words[: len(beginning)] == list(beginning)]

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()


@pytest.fixture
def move(tmp_path: Path, broker: Any, redis: Redis, database_url: str) -> Iterator[Move]:
    move = Move(tmp_path, broker, redis)
    yield move
    move.kill()


def stop(*processes: subprocess.Popen[bytes]) -> Sequence[int]:
    """Ask processes to end, and wait until they have."""
    for process in processes:
        process.terminate()
    return [process.wait(60) for process in processes]
