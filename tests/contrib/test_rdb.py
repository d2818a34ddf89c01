"""The debugger that a task waits for, and somebody who connects to it."""

from __future__ import annotations

import io
import socket
import threading
from typing import Any

import pytest

from pgtasks.contrib import rdb
from pgtasks.exceptions import ImproperlyConfigured
from tests.support.workers import eventually


class Telnet:
    """Connects as soon as there is a port to connect to, and types; keeps what it reads."""

    def __init__(self, said: io.StringIO, typed: str) -> None:
        self._said, self._typed, self.read = said, typed, ""
        self.thread = threading.Thread(target=self._talk, daemon=True)
        self.thread.start()

    def _talk(self) -> None:
        line = eventually(lambda: next((x for x in self._said.getvalue().splitlines() if "telnet" in x), ""))
        with socket.create_connection((line.split()[-2], int(line.split()[-1])), timeout=30) as connection:
            connection.sendall(self._typed.encode())
            while data := connection.recv(4096):
                self.read += data.decode()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    said = io.StringIO()
    make = rdb.Rdb
    monkeypatch.setattr(rdb, "Rdb", lambda: make(port=0, out=said))
    return said


def stops(number: int) -> int:
    doubled = number * 2
    rdb.set_trace()
    return doubled


@pytest.mark.parametrize("farewell", ["continue", "quit"])
def test_a_task_stops_for_who_connects_and_goes_on_when_they_leave(said: io.StringIO, farewell: str) -> None:
    telnet = Telnet(said, f"p doubled\n{farewell}\n")

    answer: Any = stops(21)

    telnet.thread.join(30)
    assert answer == 42
    assert "42" in telnet.read
    assert "Now in session with 127.0.0.1:" in said.getvalue()
    assert "ended." in said.getvalue()


def test_the_next_stop_is_a_session_of_its_own(said: io.StringIO) -> None:
    for _ in range(2):
        said.truncate(0)
        telnet = Telnet(said, "c\n")
        assert stops(1) == 2
        telnet.thread.join(30)


def test_without_a_free_port_it_says_what_to_set() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        with pytest.raises(ImproperlyConfigured, match="Set CELERY_RDB_PORT"):
            rdb.Rdb(port=taken.getsockname()[1], port_search_limit=1)
