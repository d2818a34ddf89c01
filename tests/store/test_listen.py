"""Waiting for results: told at once when notifications arrive, a moment later when they do not, never stuck."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgtasks.store import fleet, listen, results, tasks
from pgtasks.store.database import AsyncDatabase, Database
from pgtasks.store.listen import AsyncWaiter, Doorbell, Waiter
from tests.support.hands import Hand, done, message
from tests.support.proxy import FaultProxy

Conn = psycopg.Connection[Any]
#: Long enough never to be reached, unless something is stuck.
LONG_S = 30.0


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks again by himself: only a notification ends a wait."""
    monkeypatch.setattr(listen, "_FIRST_LOOK_S", LONG_S)
    monkeypatch.setattr(listen, "_LAST_LOOK_S", LONG_S)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def await_waiters(conn: Conn, count: int = 1) -> None:
    """Block until so many results are declared to be waited for."""
    while True:
        row = conn.execute("SELECT count(*) FROM pgtasks.waiter").fetchone()
        if row == (count,):
            return


def terminate_listeners(conn: Conn) -> int:
    """Kill the sessions whose last statement was LISTEN; gives how many: those that are ending anyway count."""
    return len(
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        ).fetchall()
    )


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("way", ["settle", "finish"])
def test_a_waiter_is_told_by_the_settle(
    database: Database, hand: Hand, conn: Conn, threads: ThreadPoolExecutor, way: str
) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    waiting = threads.submit(Waiter(database).wait, [task.id], LONG_S)
    await_waiters(conn)

    if way == "settle":
        hand.settle(done(claim))
    else:
        hand.finish(done(claim))

    assert set(waiting.result(LONG_S / 2)) == {task.id}


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("fields", [{}, {"task_id": "été, \"1\"", "group_id": "g", "parent": uuid4()}])
def test_a_short_result_comes_along_with_the_word_that_it_is_there(
    database: Database, hand: Hand, conn: Conn, threads: ThreadPoolExecutor, fields: dict[str, Any]
) -> None:
    task = message("naïve\n[job]", **fields)
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    waiting = threads.submit(Waiter(database).wait, [task.id], LONG_S)
    await_waiters(conn)

    hand.finish(done(claim, b'"\xff not UTF-8"'))

    told = waiting.result(LONG_S / 2)
    assert told == database.run(results.fetch([task.id]))
    assert told[task.id] is not None


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [("job", b"1", True), ("job", b"x" * 5000, False), ("é" * 4000, b"1", False)],
    ids=["hidden", "long", "long name"],
)
def test_a_result_that_is_not_to_be_told_or_too_long_is_only_announced(
    database: Database, hand: Hand, conn: Conn, threads: ThreadPoolExecutor, name: str, value: bytes, hidden: bool
) -> None:
    task = message(name)
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    waiting = threads.submit(Waiter(database).wait, [task.id], LONG_S)
    await_waiters(conn)

    assert hand.finish(done(claim, value, hidden=hidden)) == 1

    assert waiting.result(LONG_S / 2) == {task.id: None}


@pytest.mark.usefixtures("patient")
def test_the_result_of_an_earlier_end_is_not_taken_for_that_of_the_next(
    database: Database, hand: Hand, conn: Conn, threads: ThreadPoolExecutor
) -> None:
    waiter, task = Waiter(database), message()
    database.run(tasks.enqueue([task]))
    waiter.wait([task.id], 0)  # opens the doorbell, which nobody reads afterwards
    with waiter.holding([task.id]):
        hand.finish(done(hand.claim()[0], b'"earlier"'))
    database.run(tasks.clear([task.id]))
    database.run(tasks.enqueue([task]))

    early = waiter.wait([task.id], LONG_S)
    waiting = threads.submit(waiter.wait, [task.id], LONG_S)
    await_waiters(conn)
    hand.finish(done(hand.claim()[0], b'"next"'))

    assert early == {task.id: None}, "an announcement to be looked into"
    (stored,) = waiting.result(LONG_S / 2).values()
    assert stored.value == b'"next"'


@pytest.mark.usefixtures("patient")
def test_every_thread_of_a_process_hears_of_its_own_result_over_one_doorbell(
    database: Database, hand: Hand, conn: Conn, threads: ThreadPoolExecutor
) -> None:
    terminate_listeners(conn)  # those that other tests have left
    messages = [message() for _ in range(6)]
    database.run(tasks.enqueue(messages))
    claims = {claim.id: claim for claim in hand.claim()}
    waiter = Waiter(database)
    waiting = [threads.submit(waiter.wait, [each.id], LONG_S) for each in messages]
    await_waiters(conn, 6)

    for each, future in zip(reversed(messages), reversed(waiting), strict=True):
        hand.settle(done(claims[each.id]))
        assert set(future.result(LONG_S / 2)) == {each.id}
    assert terminate_listeners(conn) >= 1


@pytest.mark.parametrize("way", ["settle", "finish"])
def test_a_thousand_waiters_cost_a_completion_no_statement_more_and_leave_no_trace(
    database: Database, database_url: str, conn: Conn, way: str
) -> None:
    """Half of them wait for one result, the others for one each; nobody of them listens, and nobody is waited for."""
    messages = [message() for _ in range(500)]
    database.run(tasks.enqueue(messages))
    with FaultProxy(database_url) as proxy:
        hand = Hand(Database(proxy.url))
        claims = hand.claim(500)
        conn.execute(
            "INSERT INTO pgtasks.waiter SELECT unnest(%s::uuid[]), gen_random_uuid()", [[m.id for m in messages]]
        )
        conn.execute(
            "INSERT INTO pgtasks.waiter SELECT %s, gen_random_uuid() FROM generate_series(1, 500)", [messages[0].id]
        )
        before = proxy.statements

        outcomes = [done(claim) for claim in claims]
        for batch in (outcomes[:200], outcomes[200:400], outcomes[400:]):
            hand.settle(*batch) if way == "settle" else hand.finish(*batch)

        assert proxy.statements - before == 3
    assert conn.execute("SELECT count(*) FROM pgtasks.result").fetchone() == (500,)
    assert conn.execute("SELECT count(*) FROM pgtasks.waiter").fetchone() == (0,)


def test_a_result_that_was_there_before_needs_no_notification(database: Database, hand: Hand) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    hand.settle(done(hand.claim()[0]))

    assert set(Waiter(database).wait([task.id], LONG_S)) == {task.id}


def test_a_wait_that_is_over_gives_nothing_and_leaves_no_trace(database: Database, conn: Conn) -> None:
    task = message()
    database.run(tasks.enqueue([task]))

    assert not Waiter(database).wait([task.id], 0.05)
    assert not Waiter(database).wait([task.id], 0)
    assert conn.execute("SELECT count(*) FROM pgtasks.waiter").fetchone() == (0,)


def test_a_waiter_whose_doorbell_broke_still_gets_its_result(
    database: Database, hand: Hand, conn: Conn, threads: ThreadPoolExecutor
) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    waiting = threads.submit(Waiter(database).wait, [task.id], LONG_S)
    await_waiters(conn)

    assert terminate_listeners(conn) >= 1
    hand.settle(done(claim))

    assert set(waiting.result(LONG_S / 2)) == {task.id}


def test_a_doorbell_that_broke_is_replaced_for_the_next_wait(
    database: Database, hand: Hand, conn: Conn, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiter = Waiter(database)
    first, second = message(), message()
    database.run(tasks.enqueue([first, second]))
    claims = {claim.id: claim for claim in hand.claim()}
    waiting = threads.submit(waiter.wait, [first.id], LONG_S)
    await_waiters(conn)
    terminate_listeners(conn)
    hand.settle(done(claims[first.id]))
    waiting.result(LONG_S / 2)
    monkeypatch.setattr(listen, "_FIRST_LOOK_S", LONG_S)

    waiting = threads.submit(waiter.wait, [second.id], LONG_S)
    await_waiters(conn)
    hand.settle(done(claims[second.id]))

    assert set(waiting.result(LONG_S / 2)) == {second.id}


def test_a_result_is_found_although_every_notification_is_lost(
    database: Database, hand: Hand, conn: Conn, threads: ThreadPoolExecutor
) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    waiting = threads.submit(Waiter(database).wait, [task.id], LONG_S)
    await_waiters(conn)
    conn.execute("DELETE FROM pgtasks.waiter")  # as after a crash of the server: the table is unlogged

    hand.settle(done(claim))

    assert set(waiting.result(LONG_S / 2)) == {task.id}


def test_a_wait_survives_a_database_that_is_away_for_a_moment(
    database: Database, database_url: str, hand: Hand, conn: Conn, threads: ThreadPoolExecutor
) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    with FaultProxy(database_url) as proxy:
        waiting = threads.submit(Waiter(Database(proxy.url)).wait, [task.id], LONG_S)
        await_waiters(conn)
        proxy.refuse()
        hand.settle(done(claim))
        proxy.accept()

        assert set(waiting.result(LONG_S / 2)) == {task.id}


@pytest.mark.usefixtures("patient")
def test_a_forked_child_waits_under_a_name_of_its_own(database: Database, hand: Hand, conn: Conn) -> None:
    waiter = Waiter(database)
    waiter.wait([message().id], 0)
    task = message()
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()

    pid = os.fork()
    if pid == 0:
        os._exit(0 if waiter.wait([task.id], LONG_S) else 1)
    await_waiters(conn)
    hand.settle(done(claim))

    assert os.waitpid(pid, 0)[1] == 0


def test_a_doorbell_hears_only_its_own_channel(database_url: str, conn: Conn) -> None:
    bell = Doorbell(database_url, "pgtasks_mine")
    conn.execute("NOTIFY pgtasks_other, 'a'; NOTIFY pgtasks_mine, 'b'; NOTIFY pgtasks_mine")
    heard: list[str] = []
    while len(heard) < 2:
        heard += bell.heard()
    bell.close()

    assert heard == ["b", ""]


def test_a_doorbell_whose_connection_is_gone_says_so(database_url: str, conn: Conn) -> None:
    bell = Doorbell(database_url, "pgtasks_mine")
    terminate_listeners(conn)

    with pytest.raises(psycopg.Error):
        while True:
            bell.heard()


# -- coroutines


@pytest.mark.usefixtures("patient")
def test_coroutines_are_told_by_the_settle(database_url: str, database: Database, hand: Hand, conn: Conn) -> None:
    messages = [message() for _ in range(5)]
    database.run(tasks.enqueue(messages))
    claims = hand.claim()

    async def wait() -> list[Any]:
        adatabase = AsyncDatabase(database_url)
        waiter = AsyncWaiter(adatabase)
        waiting = asyncio.gather(*[waiter.wait([each.id], LONG_S) for each in messages])
        await asyncio.to_thread(await_waiters, conn, 5)
        await asyncio.to_thread(hand.settle, *map(done, claims))
        found = await asyncio.wait_for(waiting, LONG_S / 2)
        await adatabase.close()
        return found

    assert list(map(set, asyncio.run(wait()))) == [{each.id} for each in messages]


def test_coroutines_get_their_results_without_a_doorbell_too(
    database_url: str, database: Database, hand: Hand, conn: Conn
) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()

    async def wait() -> Any:
        adatabase = AsyncDatabase(database_url)
        waiting = asyncio.create_task(AsyncWaiter(adatabase).wait([task.id], LONG_S))
        await asyncio.to_thread(await_waiters, conn)
        await asyncio.to_thread(terminate_listeners, conn)
        await asyncio.to_thread(hand.settle, done(claim))
        found = await asyncio.wait_for(waiting, LONG_S / 2)
        await adatabase.close()
        return found

    assert set(asyncio.run(wait())) == {task.id}


def test_a_cancelled_coroutine_leaves_no_trace(database_url: str, database: Database, conn: Conn) -> None:
    task = message()
    database.run(tasks.enqueue([task]))

    async def wait() -> None:
        adatabase = AsyncDatabase(database_url)
        waiting = asyncio.create_task(AsyncWaiter(adatabase).wait([task.id], None))
        await asyncio.to_thread(await_waiters, conn)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await adatabase.close()

    asyncio.run(wait())

    assert conn.execute("SELECT count(*) FROM pgtasks.waiter").fetchone() == (0,)


def test_a_coroutine_that_is_cancelled_when_the_answer_is_there_is_cancelled_all_the_same(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adatabase = AsyncDatabase(database_url)

    async def ask() -> None:
        asking = asyncio.create_task(adatabase.run(tasks.lengths(["celery"])))

        async def once(query: Any) -> list[Any]:
            answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(lambda: (answer.set_result([]), asking.cancel()))
            return await answer

        monkeypatch.setattr(adatabase, "_once", once)
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(ask())


def test_telling_by_hand_wakes_who_waits_for_a_result_that_no_settle_stored(
    database: Database, conn: Conn, threads: ThreadPoolExecutor, patient: None
) -> None:
    task = message()
    waiting = threads.submit(Waiter(database).wait, [task.id], LONG_S)
    await_waiters(conn)

    database.run(tasks.store(task.id, "SUCCESS", value=b"1"))
    database.run(fleet.tell([task.id]))

    assert set(waiting.result(LONG_S / 2)) == {task.id}
