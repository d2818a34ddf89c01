"""Concurrent enqueues share a commit, and each caller gets its own answer."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from pgtasks.exceptions import OperationalError
from pgtasks.message import Message, new_id
from pgtasks.store.database import AsyncDatabase, Database, connect
from pgtasks.store.outbox import AsyncOutbox, Outbox


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
            assert self.go_on.wait(60)
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
    assert database.is_held.wait(60)
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
    assert database.is_held.wait(60)
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


class Interruption(BaseException):
    """As a time limit of gevent, or what is put into a thread to stop it."""


class InterruptedDatabase(SlowDatabase):
    """Interrupts whoever sends the second statement."""

    def run(self, query: Any, conn: Any = None) -> Any:
        if self.statements == 1:
            self.statements += 1
            raise Interruption
        return super().run(query, conn)


def test_whoever_is_stopped_while_it_sends_for_others_leaves_them_to_the_next(database_url: str) -> None:
    database = InterruptedDatabase(database_url)
    outbox = Outbox(database)
    told: list[str] = []
    rest = [message() for _ in range(5)]

    def put(one: Message) -> None:
        try:
            outbox.put([one])
        except Interruption:
            told.append("stopped")
        else:
            told.append("sent")

    leader, _ = put_in_threads(outbox, [message()])
    assert database.is_held.wait(60)
    others = [threading.Thread(target=put, args=(one,), daemon=True) for one in rest]
    for thread in others:
        thread.start()
    wait_until_gathered(outbox, 5)
    database.go_on.set()
    for thread in [*leader, *others]:
        thread.join(60)

    assert sorted(told) == ["sent"] * 4 + ["stopped"]
    assert len(set(stored_ids(database_url)).intersection(one.id for one in rest)) == 4
    outbox.put([message()])


def test_whoever_is_stopped_when_its_turn_comes_stops_nobody_else(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = SlowDatabase(database_url)
    outbox = Outbox(database)
    stopped: list[Message] = []

    class Turn(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            found = super().wait(timeout)
            if not stopped and threading.current_thread() in others:
                stopped.append(rest[0])
                raise Interruption
            return found

    rest = [message() for _ in range(3)]
    leader, _ = put_in_threads(outbox, [message()])
    assert database.is_held.wait(60)
    others = [threading.Thread(target=outbox.put, args=([one],), daemon=True) for one in rest]
    monkeypatch.setattr(threading, "Event", Turn)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    for thread in others:
        thread.start()
    wait_until_gathered(outbox, 3)
    database.go_on.set()
    for thread in [*leader, *others]:
        thread.join(60)

    assert not any(thread.is_alive() for thread in others)
    assert len(set(stored_ids(database_url)).intersection(one.id for one in rest)) == 2


def stored_ids(url: str) -> list[Any]:
    with connect(url) as conn:
        return [row[0] for row in conn.execute("SELECT id FROM pgtasks.message")]


# -- coroutines


class SlowAsyncDatabase(AsyncDatabase):
    """Holds the first statement until it is told to go on, and counts statements."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.statements = 0
        self.is_held = asyncio.Event()
        self.go_on = asyncio.Event()

    async def run(self, query: Any, conn: Any = None) -> Any:
        self.statements += 1
        if self.statements == 1:
            self.is_held.set()
            await asyncio.wait_for(self.go_on.wait(), 10)
        return await super().run(query, conn)


async def put_while_one_is_sent(database: SlowAsyncDatabase, messages: list[Message]) -> list[asyncio.Task[None]]:
    """Have one message under way and the others waiting for it."""
    outbox = AsyncOutbox(database)
    first = asyncio.create_task(outbox.put([message()]))
    await database.is_held.wait()
    others = [asyncio.create_task(outbox.put([one])) for one in messages]
    while len(outbox._waiting) < len(messages):
        await asyncio.sleep(0)
    return [first, *others]


def test_coroutines_that_call_while_one_call_is_under_way_share_the_next_commit(database_url: str) -> None:
    async def main() -> int:
        database = SlowAsyncDatabase(database_url)
        tasks = await put_while_one_is_sent(database, [message() for _ in range(20)])
        database.go_on.set()
        await asyncio.gather(*tasks)
        await database.close()
        return database.statements

    assert asyncio.run(main()) == 2
    assert len(stored_ids(database_url)) == 21


def test_a_message_the_database_refuses_fails_its_own_coroutine_and_no_other(database_url: str) -> None:
    good, bad = message(), message(payload=None)

    async def main() -> list[Any]:
        database = SlowAsyncDatabase(database_url)
        tasks = await put_while_one_is_sent(database, [good, bad])
        database.go_on.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await database.close()
        return [type(each) for each in found]

    answers = asyncio.run(main())

    assert answers[:2] == [type(None)] * 2
    assert issubclass(answers[2], Exception)
    assert good.id in stored_ids(database_url)


def test_a_coroutine_cancelled_while_it_sends_does_not_take_those_that_wait_with_it(database_url: str) -> None:
    rest = [message() for _ in range(3)]

    async def main() -> list[Any]:
        database = SlowAsyncDatabase(database_url)
        leader, *others = await put_while_one_is_sent(database, rest)
        leader.cancel()
        others[0].cancel()
        found = await asyncio.gather(leader, *others, return_exceptions=True)
        await database.close()
        return [type(each) for each in found]

    assert asyncio.run(main()) == [asyncio.CancelledError, asyncio.CancelledError, type(None), type(None)]
    assert set(stored_ids(database_url)) == {one.id for one in rest[1:]}


def test_coroutines_learn_that_the_database_is_away(database_url: str) -> None:
    async def main() -> None:
        outbox = AsyncOutbox(AsyncDatabase("postgresql://127.0.0.1:1/nowhere", patience_s=0))
        for _ in range(2):
            with pytest.raises(OperationalError):
                await outbox.put([message()])

    asyncio.run(main())
