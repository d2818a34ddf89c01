"""What the watch sees of a server, and what the report makes of it: on a real one, disturbed on purpose."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean
from threading import Event
from typing import Any

import psycopg
import pytest

from loadtest import measure, watch
from loadtest.ceiling import UUIDV7
from loadtest.provoke import PROVOCATIONS
from loadtest.verdict import verdict
from pgtasks import Celery
from tests.support.workers import eventually

Conn = psycopg.Connection[Any]


@pytest.fixture
def task(database_url: str) -> Iterator[Any]:
    with Celery("load", broker=database_url, set_as_current=False) as app:
        yield app.task(lambda n: n, name="watched", shared=False)


@pytest.fixture
def watching(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[watch.Watch]:
    """A watch for which a second is short."""
    monkeypatch.setattr(watch, "PERIOD_S", 0.2)
    watching = watch.Watch(database_url)
    watching.start()
    yield watching
    watching.stop()


def sent(before: dict[str, Any], now: dict[str, Any], conn: Conn) -> float:
    """How many tasks were sent between two looks."""
    seen = watch._done(conn, before["at"], now["at"])
    return float(seen["sent_per_s"] * (now["at"] - before["at"]).total_seconds())


def test_what_was_sent_counts_at_once_and_not_when_its_backend_says_so(conn: Conn, task: Any) -> None:
    before = watch._counters(conn)
    task.delay_many(range(70))
    task.delay(0)
    now = watch._counters(conn)

    assert sent(before, now, conn) == pytest.approx(71)
    assert watch._done(conn, before["at"], now["at"])["ended_per_s"] == 0


def test_what_a_transaction_that_is_open_has_written_is_in_a_later_second(
    database_url: str, conn: Conn, task: Any
) -> None:
    with psycopg.connect(database_url) as writer:
        before = watch._counters(conn)
        task.apply_async_many([((n,), {}) for n in range(70)], conn=writer)
        meanwhile = watch._counters(conn)
        writer.commit()
        now = watch._counters(conn)

    assert [sent(before, meanwhile, conn), sent(meanwhile, now, conn)] == pytest.approx([0, 70])


def test_a_long_statement_hides_no_seconds_but_what_they_did_until_it_has_ended(
    database_url: str, watching: watch.Watch, task: Any
) -> None:
    with psycopg.connect(database_url) as writer:
        task.apply_async_many([((n,), {}) for n in range(100)], conn=writer)
        eventually(lambda: sum(point["sent_per_s"] is None for point in watching.points) >= 3, "seconds are hidden")
        hidden = sum(point["sent_per_s"] is None for point in watching.points)
        writer.commit()
    eventually(lambda: watching.points[-1]["sent_per_s"] is not None, "they are known")

    assert sum(bool(point["sent_per_s"]) for point in watching.points) > hidden
    assert all(point["sent_per_s"] is not None for point in watching.points)


def test_a_table_that_somebody_has_for_himself_does_not_stop_the_watch(
    database_url: str, conn: Conn, watching: watch.Watch
) -> None:
    eventually(lambda: watching.points)
    with conn.transaction():
        conn.execute("LOCK TABLE pgtasks.ready IN ACCESS EXCLUSIVE MODE")
        before = len(watching.points)
        eventually(lambda: is_refused(database_url), "the watch has been refused")

    eventually(lambda: len(watching.points) > before + 1, "it looks on")


def is_refused(database_url: str) -> bool:
    """Has a session of the watch waited for a lock, and does so no more?"""
    with psycopg.connect(database_url, autocommit=True) as conn:
        found = conn.execute(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'loadtest watch' AND wait_event_type = 'Lock'"
        ).fetchone()
    return found is not None


def test_callers_that_wait_for_a_lock_are_told_from_those_that_wait_for_anything_else(
    database_url: str, conn: Conn, watching: watch.Watch, task: Any
) -> None:
    over = Event()

    def call(_: int) -> None:
        while not over.is_set():
            task.apply_async((0,), retry=False)

    with ThreadPoolExecutor(4) as threads:
        try:
            disturbing = threads.submit(PROVOCATIONS["lock"].disturb, conn, over)
            calling = threads.map(call, range(2))
            eventually(lambda: sum(bool(point["sent_per_s"]) for point in watching.points) >= 4, "seconds were seen")
        finally:
            over.set()
        disturbing.result(60)
        list(calling)
    watching.stop()

    # All seconds as one, of a machine on which nothing else goes on.
    waits = {what: fmean(point["waits"].get(what, 0.0) for point in watching.points) for what in ("lock", "wal", "cpu")}
    seen = watching.points[-1] | {"machine_cores": 0.5, "generator_busiest": 0.1, "server_busiest": 0.1, "waits": waits}
    assert verdict([seen], None, 2).limit == "lock wait"


def test_a_server_of_this_machine_is_known_by_its_processes_however_it_is_reached(
    conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not conn.info.host.startswith("/"):
        pytest.skip("the server may be elsewhere")
    assert measure.is_local(conn)
    assert measure.spent(conn).cpu_s is not None

    monkeypatch.setattr(type(conn.info), "backend_pid", os.getpid())  # as of a server far away, by chance
    assert not measure.is_local(conn)


def test_ids_for_an_old_server_are_in_the_order_of_time(conn: Conn) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute(UUIDV7.replace("FUNCTION uuidv7", "FUNCTION pg_temp.uuidv7"))
        (first,) = conn.execute("SELECT pg_temp.uuidv7()").fetchone() or (None,)
        conn.execute("SELECT pg_sleep(0.002)")
        (second,) = conn.execute("SELECT pg_temp.uuidv7()").fetchone() or (None,)

    assert str(first) < str(second)
