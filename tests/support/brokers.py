"""Redis and RabbitMQ for tests of the bridge: on loopback, on ports and in directories of their own, to be killed at will.

Both keep what they have confirmed, so that a `kill -9` loses nothing that somebody was told is safe.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Protocol

PATIENCE_S = 90


class Broker(Protocol):
    url: str

    def start(self) -> None: ...

    def kill(self) -> None: ...


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Process:
    """A server process, with whatever it starts itself."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def _run(self, command: list[str], environ: dict[str, str] | None = None) -> None:
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.directory, env=environ, stdout=log, stderr=log, start_new_session=True
            )

    def _await(self, greeting: bytes, answer: bytes) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers(greeting, answer):
            assert self.process is not None
            assert self.process.poll() is None, (self.directory / "server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, (self.directory / "server.log").read_text()[-2000:]
            time.sleep(0.1)

    def _answers(self, greeting: bytes, answer: bytes) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(greeting)
                return connection.recv(64).startswith(answer)
        except OSError:
            return False

    def kill(self) -> None:
        """`kill -9` of the server and all that it has started."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            self.process = None


class Redis(_Process):
    """A Redis that has handed everything to the kernel before it answers, so that a `kill -9` loses nothing.

    Waiting for the disk as well would make a slow test on a busy machine of a thousand messages, one `fsync` each.
    """

    @classmethod
    def is_installed(cls) -> bool:
        return shutil.which("redis-server") is not None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def results(self) -> str:
        return f"redis://127.0.0.1:{self.port}/1"

    def start(self) -> None:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "yes"]
        self._run(["redis-server", *options, "--appendfsync", "no"])
        self._await(b"PING\r\n", b"+PONG")


class RabbitMQ(_Process):
    """A RabbitMQ node, with a name server of its own."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.names = free_port()
        self.environ = {
            **os.environ,
            "RABBITMQ_NODENAME": f"bridge{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(directory / "db"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "ERL_EPMD_PORT": str(self.names),
            # It knows for a moment longer of a node that was killed, and would not let itself be ended.
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "true",
            "HOME": str(directory),
        }

    @classmethod
    def is_installed(cls) -> bool:
        return cls._program() is not None

    @staticmethod
    def _program() -> str | None:
        # The script in PATH may become another user, whose processes would outlive this.
        return shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin") or shutil.which("rabbitmq-server")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> None:
        program = self._program()
        assert program is not None
        self._run([program], self.environ)
        # It listens before it lets anybody in; a wrong greeting is answered once it does.
        self._await(b"AMQP\0\0\x09\x01", b"\x01\0\0")

    def stop(self) -> None:
        self.kill()
        # Erlang's name server outlives what it was started for.
        subprocess.run(["epmd", "-port", str(self.names), "-kill"], capture_output=True)
