"""Concurrent enqueues share a commit, and each caller gets its own answer."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pgtasks.exceptions import OperationalError
from pgtasks.message import Message, new_id
from pgtasks.store.database import Database, connect
from pgtasks.store.outbox import Outbox


def message(payload: Any = b"[[],{},{}]") -> Message:
    return Message(id=new_id(), name="t.add", payload=payload)


class SlowDatabase(Database):
    """Holds the first statement until it is told to go on, and counts statements."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.statements = 0
        self.is_held = threading.Event()
        self.go_on = threading.Event()

    def run(self, query: Any, conn: Any = None) -> Any:
        self.statements += 1
        if self.statements == 1:
            self.is_held.set()
            assert self.go_on.wait(10)
        return super().run(query, conn)


def put_in_threads(outbox: Outbox, messages: list[Message]) -> tuple[list[threading.Thread], dict[Any, Exception]]:
    errors: dict[Any, Exception] = {}

    def put(one: Message) -> None:
        try:
            outbox.put([one])
        except Exception as error:
            errors[one.id] = error

    threads = [threading.Thread(target=put, args=(one,)) for one in messages]
    for thread in threads:
        thread.start()
    return threads, errors


def wait_until_gathered(outbox: Outbox, count: int) -> None:
    deadline = threading.Event()
    while len(outbox._waiting) < count:
        assert not deadline.wait(0.005)


def test_calls_that_come_while_one_is_under_way_share_the_next_commit(database_url: str) -> None:
    database = SlowDatabase(database_url)
    outbox = Outbox(database)
    first, rest = message(), [message() for _ in range(20)]

    leader, _ = put_in_threads(outbox, [first])
    assert database.is_held.wait(10)
    others, errors = put_in_threads(outbox, rest)
    wait_until_gathered(outbox, 20)
    database.go_on.set()
    for thread in [*leader, *others]:
        thread.join(10)

    assert errors == {}
    assert database.statements == 2
    with_ids = {one.id for one in (first, *rest)}
    assert set(stored_ids(database_url)) == with_ids


def test_a_message_the_database_refuses_fails_its_own_call_and_no_other(database_url: str) -> None:
    database = SlowDatabase(database_url)
    outbox = Outbox(database)
    good, bad = message(), message(payload=None)  # which the table refuses

    leader, _ = put_in_threads(outbox, [message()])
    assert database.is_held.wait(10)
    others, errors = put_in_threads(outbox, [good, bad])
    wait_until_gathered(outbox, 2)
    database.go_on.set()
    for thread in [*leader, *others]:
        thread.join(10)

    assert set(errors) == {bad.id}
    assert good.id in stored_ids(database_url)


def test_everybody_learns_that_the_database_is_away_and_the_next_call_tries_again(database_url: str) -> None:
    database = Database("postgresql://127.0.0.1:1/nowhere", patience_s=0)
    outbox = Outbox(database)

    for _ in range(2):
        with pytest.raises(OperationalError):
            outbox.put([message()])


def stored_ids(url: str) -> list[Any]:
    with connect(url) as conn:
        return [row[0] for row in conn.execute("SELECT id FROM pgtasks.message")]
