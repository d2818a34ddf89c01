"""A pipeline sends calls together, and loses none: at its end, when it fails, over forks, at the end of the process."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgtasks import Celery, chain, chord, group
from pgtasks.app import pipeline
from pgtasks.exceptions import OperationalError
from pgtasks.store.database import Database


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    with Celery("pipeline", broker=database_url, set_as_current=False) as app:
        yield app


@pytest.fixture
def add(app: Celery) -> Any:
    return app.task(lambda x, y=0: x + y, name="pipeline.add", shared=False)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the statements that the database was asked to run."""
    names: list[str] = []
    run = Database.run

    def noted(self: Database, query: Any, conn: Any = None) -> Any:
        names.append(query.statement.name)
        return run(self, query, conn)

    monkeypatch.setattr(Database, "run", noted)
    return names


def sent(conn: psycopg.Connection[Any]) -> list[Any]:
    """The first arguments of what is ready, in the order in which it will run."""
    found = conn.execute("SELECT payload FROM pgtasks.message JOIN pgtasks.ready r USING (id) ORDER BY rank, r.seq")
    return [json.loads(payload)[0][0] for (payload,) in found.fetchall()]


def patient(app: Celery) -> Any:
    """A pipeline that does not send by itself because time passes."""
    return app.pipeline(linger_s=3600)


# -- together


def test_calls_of_a_block_go_in_one_statement_at_its_end(
    app: Celery, add: Any, conn: psycopg.Connection[Any], statements: list[str]
) -> None:
    with patient(app) as pipeline:
        results = [add.delay(number) for number in range(20)]

        assert len(pipeline) == 20
        assert statements == []

    assert statements == ["enqueue"]
    assert sent(conn) == list(range(20))
    assert len({result.id for result in results}) == 20


def test_a_block_that_calls_nothing_asks_the_database_nothing(app: Celery, statements: list[str]) -> None:
    with app.pipeline():
        pass

    assert statements == []


def test_a_full_pipeline_sends_before_it_takes_more(
    app: Celery, add: Any, conn: psycopg.Connection[Any], statements: list[str]
) -> None:
    with app.pipeline(size=10, linger_s=3600):
        for number in range(25):
            add.delay(number)
        assert sent(conn) == list(range(20))

    assert sent(conn) == list(range(25))
    assert statements == ["enqueue"] * 3


def test_what_waits_in_a_block_that_lasts_is_sent_a_moment_later(
    app: Celery, add: Any, conn: psycopg.Connection[Any]
) -> None:
    waited = threading.Event()

    with app.pipeline(linger_s=0.01):
        add.delay(1)
        while sent(conn) != [1]:
            waited.wait(0.005)
        add.delay(2)
        while sent(conn) != [1, 2]:
            waited.wait(0.005)


def test_canvases_and_small_groups_are_gathered_too(
    app: Celery, add: Any, conn: psycopg.Connection[Any], statements: list[str]
) -> None:
    with patient(app):
        chain(add.s(1), add.s(2)).delay()
        chord([add.s(3), add.s(4)])(add.s())
        group(add.s(5), add.s(6)).delay()
        add.apply_async((7,), countdown=3600)

    assert statements == ["enqueue"]
    assert sent(conn) == [1, 3, 4, 5, 6]
    assert conn.execute("SELECT count(*) FROM pgtasks.waiting").fetchone() == (2,)
    assert conn.execute("SELECT count(*) FROM pgtasks.scheduled").fetchone() == (1,)


def test_a_call_by_a_connection_goes_with_its_transaction_and_not_with_the_pipeline(
    app: Celery, add: Any, conn: psycopg.Connection[Any], database_url: str
) -> None:
    with patient(app), psycopg.connect(database_url) as own:
        add.delay(1)
        add.apply_async((2,), conn=own)
        own.commit()

        assert sent(conn) == [2]


def test_a_result_that_is_asked_for_in_the_block_is_of_a_task_that_was_sent(
    app: Celery, add: Any, conn: psycopg.Connection[Any]
) -> None:
    with patient(app):
        result = add.delay(1)

        assert result.state == "PENDING"
        assert sent(conn) == [1]


def test_calls_of_another_app_are_not_sent_to_this_ones_database(
    app: Celery, add: Any, conn: psycopg.Connection[Any], database_url: str
) -> None:
    with Celery("other", broker=database_url, set_as_current=False) as other:
        alien = other.task(lambda x: x, name="other.task", shared=False)
        with patient(app) as pipeline:
            alien.delay(1)

            assert len(pipeline) == 0
            assert sent(conn) == [1]


def test_blocks_within_blocks_send_what_is_theirs(app: Celery, add: Any, conn: psycopg.Connection[Any]) -> None:
    with patient(app):
        add.delay(1)
        with patient(app):
            add.delay(2)
        assert sent(conn) == [2]
        add.delay(3)

    assert sent(conn) == [2, 1, 3]


def test_a_pipeline_is_for_one_block_at_a_time(app: Celery) -> None:
    with app.pipeline() as pipeline, pytest.raises(RuntimeError, match="in use"), pipeline:
        pass


def test_a_size_that_sends_nothing_is_refused(app: Celery) -> None:
    with pytest.raises(ValueError, match="size=0"):
        app.pipeline(size=0)


# -- threads and coroutines


def test_threads_that_share_a_pipeline_lose_nothing(app: Celery, add: Any, conn: psycopg.Connection[Any]) -> None:
    async def all_at_once() -> None:
        await asyncio.gather(*(asyncio.to_thread(add.delay, number) for number in range(200)))

    with app.pipeline(size=7, linger_s=0.001):
        asyncio.run(all_at_once())

    assert sorted(sent(conn)) == list(range(200))


def test_another_thread_s_own_calls_are_committed_when_they_return(
    app: Celery, add: Any, conn: psycopg.Connection[Any]
) -> None:
    with patient(app):
        add.delay(1)
        thread = threading.Thread(target=add.delay, args=(2,))
        thread.start()
        thread.join()

        assert sent(conn) == [2]


def test_coroutines_of_a_block_share_it(
    app: Celery, add: Any, conn: psycopg.Connection[Any], statements: list[str]
) -> None:
    async def main() -> None:
        async with patient(app) as pipeline:
            await asyncio.gather(*(add.adelay(number) for number in range(20)))
            await chain(add.s(20), add.s(1)).aapply_async()
            add.delay(21)
            assert len(pipeline) == 23

    asyncio.run(main())

    assert statements == ["enqueue"]
    assert sent(conn) == list(range(22))


def test_a_task_that_outlives_the_block_calls_without_it(app: Celery, add: Any, conn: psycopg.Connection[Any]) -> None:
    async def main() -> None:
        is_over = asyncio.Event()

        async def late() -> None:
            await is_over.wait()
            await add.adelay(2)

        async with patient(app):
            task = asyncio.create_task(late())
            await add.adelay(1)
        is_over.set()
        await task

    asyncio.run(main())

    assert sent(conn) == [1, 2]


# -- errors


def test_an_exception_that_leaves_the_block_sends_what_was_called_before_it(
    app: Celery, add: Any, conn: psycopg.Connection[Any]
) -> None:
    with pytest.raises(ZeroDivisionError), patient(app):
        add.delay(1)
        add.delay(1 // 0)

    assert sent(conn) == [1]


def test_calls_stay_when_the_database_cannot_be_reached(
    app: Celery, add: Any, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_away(*args: Any) -> None:
        raise OperationalError("away")

    pipeline = patient(app)
    with pytest.raises(OperationalError) as caught, pipeline, monkeypatch.context() as outage:
        outage.setattr(Database, "run", is_away)
        add.delay(1)
        add.delay(2)
        pipeline.flush()

    assert "2 calls of the pipeline are not sent" in caught.value.__notes__[0]
    assert sent(conn) == [1, 2]  # by the end of the block, when the database was there again


def test_one_call_that_is_refused_does_not_take_the_others_with_it(
    app: Celery, add: Any, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Database.run

    def refuse(self: Database, query: Any, conn: Any = None) -> Any:
        if b"[2]" in query.values.get("payload", b"") or any(b"[2]" in each for each in query.values.get("payloads", ())):
            raise ValueError("not this one")
        return run(self, query, conn)

    monkeypatch.setattr(Database, "run", refuse)

    with pytest.raises(ValueError, match="not this one") as caught, patient(app):
        for number in (1, 2, 3):
            add.delay(number)

    assert "1 were refused; the others are sent" in caught.value.__notes__[0]
    assert sent(conn) == [1, 3]


def test_an_outage_does_not_end_what_time_sends(
    app: Celery, add: Any, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = threading.Semaphore(0)

    def is_away(*args: Any) -> None:
        tries.release()
        raise OperationalError("away")

    with app.pipeline(linger_s=0.01):
        with monkeypatch.context() as outage:
            outage.setattr(Database, "run", is_away)
            add.delay(1)
            assert tries.acquire(timeout=30)
            assert tries.acquire(timeout=30)
        while sent(conn) != [1]:
            threading.Event().wait(0.005)


# -- processes


_inherited: Any = None


def _inherit(task: Any) -> None:
    global _inherited
    _inherited = task


def _delay(number: int) -> None:
    _inherited.delay(number)


def _delay_and_leave(add: Any, number: int) -> None:
    add.delay(number)
    os._exit(0)


def test_a_child_forked_within_the_block_sends_at_once_and_only_its_own(
    app: Celery, add: Any, conn: psycopg.Connection[Any]
) -> None:
    fork = multiprocessing.get_context("fork")
    with patient(app):
        add.delay(1)
        child = fork.Process(target=_delay_and_leave, args=(add, 2))
        child.start()
        child.join()
        assert sent(conn) == [2]

        with fork.Pool(2, initializer=_inherit, initargs=(add,)) as pool:
            pool.map(_delay, [3, 4])
        assert sorted(sent(conn)) == [2, 3, 4]

    assert sorted(sent(conn)) == [1, 2, 3, 4]


def test_a_child_that_leaves_its_parent_s_block_sends_nothing_twice(
    app: Celery, add: Any, conn: psycopg.Connection[Any], statements: list[str]
) -> None:
    with patient(app):
        add.delay(1)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _leave_the_block()
                status = len(statements)
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert sent(conn) == [1]


def _leave_the_block() -> None:
    """Do what the end of the block does, in a child that was forked within it."""
    entered = pipeline.entered.get()
    assert entered is not None
    entered.__exit__(None, None, None)


PRODUCER = """
import signal, sys
from pgtasks import Celery
app = Celery("producer", broker=sys.argv[1])
add = app.task(lambda x: x, name="producer.add", shared=False)
def block():
    with app.pipeline(linger_s=3600):
        for number in range(5):
            add.delay(number)
        yield
"""


@pytest.mark.parametrize(
    "end",
    [
        "for _ in block(): sys.exit(3)",
        "left = block(); next(left)",
        "signal.signal(15, lambda *_: sys.exit(143))\nfor _ in block(): signal.raise_signal(15)",
    ],
    ids=["sys.exit", "a block that is never left", "SIGTERM, handled"],
)
def test_nothing_is_lost_when_the_interpreter_ends(
    end: str, database_url: str, conn: psycopg.Connection[Any]
) -> None:
    subprocess.run([sys.executable, "-c", PRODUCER + end, database_url], check=False, timeout=60)

    assert sent(conn) == list(range(5))
