"""Who takes part, with what each needs: packages for an environment of its own, and a service beside it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg

PROGRAMS = Path(__file__).parent / "programs"
CHECKOUT = Path(__file__).parents[2]


class NotRun(Exception):
    """Why a contender does not take part, or has not done a workload."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One of those that are compared. `keeps_results` says whether a drain stores results."""

    name: str
    program: str
    packages: tuple[str, ...]
    service: str
    can: tuple[str, ...]
    keeps_results: bool = True


_TASKS = ("send", "bulk", "drain")
_CANVAS = ("trip", "chain", "chord")
_FLOWS = ("flows", "flow")

CONTENDERS = (
    Contender("pgtasks", "pgtasks_", (str(CHECKOUT),), "postgres", (*_TASKS, *_CANVAS, *_FLOWS)),
    Contender("Celery on Redis", "celery_", ("celery[redis]", "packaging", "hiredis"), "redis", (*_TASKS, *_CANVAS, *_FLOWS)),
    # Chords need a result backend that counts, which RabbitMQ is not.
    Contender(
        "Celery on RabbitMQ",
        "celery_",
        ("celery[redis]", "packaging", "hiredis"),
        "rabbitmq",
        (*_TASKS, "trip", "chain", *_FLOWS),
    ),
    Contender("PgQueuer", "pgqueuer_", ("pgqueuer", "asyncpg", "uvloop"), "postgres", _TASKS, keeps_results=False),
    Contender(
        "Procrastinate",
        "procrastinate_",
        ("procrastinate", "psycopg[binary,pool]"),
        "postgres",
        _TASKS,
        keeps_results=False,
    ),
    Contender("DBOS", "dbos_", ("dbos",), "postgres", (*_TASKS, "trip", *_FLOWS)),
)


def environment(contender: Contender, home: Path) -> Path:
    """The Python of the contender's own environment below `home`, made if it is not there."""
    place = home / contender.program.strip("_")
    python = place / "bin" / "python"
    done = place / ".packages"
    if done.exists() and done.read_text() == " ".join(contender.packages):
        return python
    print(f"{contender.name}: making its environment", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True, capture_output=True)
    wanted = [*(["-e"] if contender.packages == (str(CHECKOUT),) else []), *contender.packages]
    said = subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True)
    if said.returncode:
        raise NotRun(f"its packages cannot be installed: {said.stderr.strip().splitlines()[-1][:200]}")
    done.write_text(" ".join(contender.packages))
    return python


def versions(ready: Ready) -> str:
    """What was measured: the first of its packages, and what stands beside it."""
    package = "pgtasks" if ready.contender.program == "pgtasks_" else ready.contender.packages[0].partition("[")[0]
    program = f"from importlib.metadata import version; print(version({package!r}))"
    own = subprocess.run([str(ready.python), "-c", program], capture_output=True, text=True)
    said = f"{package} {own.stdout.strip() or '?'}"
    if ready.contender.service in ("redis", "rabbitmq"):
        log = (ready.directory / f"{ready.contender.service}.log").read_text(errors="replace")
        found = re.search(r"(?:Redis version=|RabbitMQ )(\d[\d.]*\d)", log)
        said += f", {ready.contender.service} {found[1] if found else '?'}"
    return said


# -- services


@contextmanager
def redis(directory: Path) -> Iterator[dict[str, str]]:
    """A Redis of our own, with its default persistence."""
    program = shutil.which("redis-server")
    if program is None:
        raise NotRun("no redis-server here: apt-get install redis-server")
    port = _free_port()
    with _running(
        [program, "--port", str(port), "--dir", str(directory), "--bind", "127.0.0.1"],
        directory / "redis.log",
    ) as process:
        _await(lambda: _answers(port), "Redis", process)
        yield {
            "RIVALS_BROKER": f"redis://127.0.0.1:{port}/0",
            "RIVALS_BACKEND": f"redis://127.0.0.1:{port}/1",
        }


@contextmanager
def rabbitmq(directory: Path) -> Iterator[dict[str, str]]:
    """A RabbitMQ of our own; results come back as messages (rpc)."""
    # Not the script in PATH where there is another: that becomes another user, whose processes would outlive
    # this.
    program = shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin") or shutil.which("rabbitmq-server")
    if program is None:
        raise NotRun("no rabbitmq-server here: apt-get install rabbitmq-server")
    port, distribution, names = _free_port(), _free_port(), str(_free_port())
    environ = {
        **os.environ, "RABBITMQ_NODENAME": f"rivals{os.getpid()}@localhost", "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution), "RABBITMQ_MNESIA_BASE": str(directory / "rabbit"),
        "RABBITMQ_LOG_BASE": str(directory / "rabbit-log"), "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"), "ERL_EPMD_PORT": names, "HOME": str(directory),
    }  # fmt: skip
    try:
        with _running([program], directory / "rabbitmq.log", environ) as process:
            _await(lambda: _answers(port), "RabbitMQ", process)
            yield {"RIVALS_BROKER": f"amqp://guest:guest@127.0.0.1:{port}//", "RIVALS_BACKEND": "rpc://"}
    finally:
        # Erlang's name server outlives what it was started for.
        if epmd := shutil.which("epmd"):
            subprocess.run([epmd, "-port", names, "-kill"], capture_output=True)


@contextmanager
def postgres(server: str, name: str) -> Iterator[dict[str, str]]:
    """A database of the contender's own on a server that those on Postgres share."""
    database = "rivals_" + "".join(letter for letter in name.lower() if letter.isalpha())
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        conn.execute(f"CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8'")
        try:
            yield {"RIVALS_DATABASE_URL": _for_all(server, database)}
        finally:
            conn.execute(f"DROP DATABASE {database} WITH (FORCE)")


def _for_all(server: str, database: str) -> str:
    """The URL of a database as every driver reads it."""
    parts = urlsplit(server)
    host = parse_qs(parts.query).get("host", [parts.hostname or "localhost"])[0]
    place = parts.netloc if parts.hostname else f"{parts.netloc.rstrip('@') or 'postgres'}@"
    query = f"?host={host}" if host.startswith("/") else ""
    return f"postgresql://{place}/{database}{query}"


@contextmanager
def _running(command: list[str], log: Path, environ: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block lasts, with whatever it has started."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environ, start_new_session=True)
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate a process; if it does not end, or if what it has started does not, kill all of them."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        pass
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            return
        for _ in range(50):
            process.poll()
            time.sleep(0.1)
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _await(is_so: Any, what: str, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        if process.poll() is not None:
            raise NotRun(f"{what} cannot be started: it ended with status {process.returncode}")
        if time.monotonic() > until:
            raise NotRun(f"{what} did not answer within {seconds:g} s")
        time.sleep(0.1)


# -- a contender that is ready


@dataclass(slots=True)
class Ready:
    """A contender in its environment, beside its service."""

    contender: Contender
    python: Path
    environ: dict[str, str]
    directory: Path

    def do(self, *arguments: Any, patience_s: float = 300) -> Any:
        """Run a command of its program; gives what that says."""
        said = subprocess.run(
            self._command(*arguments),
            env=self._environ(),
            capture_output=True,
            text=True,
            timeout=patience_s,
            cwd=self.directory,
        )
        if said.returncode:
            raise NotRun(f"{' '.join(map(str, arguments))} failed: {(said.stderr or said.stdout).strip()[-300:]}")
        lines = said.stdout.strip().splitlines()
        return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None

    @contextmanager
    def worker(self, ledger: Path | None = None) -> Iterator[None]:
        """Its worker, for as long as the block lasts."""
        with _running(self._command("worker"), self.directory / "worker.log", self._environ(ledger)) as process:
            yield
            if process.poll() is not None:
                raise NotRun(f"its worker ended: {(self.directory / 'worker.log').read_text()[-300:]}")

    def _command(self, *arguments: Any) -> list[str]:
        return [str(self.python), str(PROGRAMS / f"{self.contender.program}.py"), *map(str, arguments)]

    def _environ(self, ledger: Path | None = None) -> dict[str, str]:
        # Celery and pgtasks import the program by its name in their own processes.
        environ = {**os.environ, **self.environ, "PYTHONPATH": str(PROGRAMS)}
        return environ if ledger is None else {**environ, "RIVALS_LEDGER": str(ledger)}
