"""What a worker waits for before it starts."""

from __future__ import annotations

from typing import Any

import pytest

from pgtasks import Celery
from pgtasks.exceptions import DatabaseRefused, DatabaseUnavailable
from pgtasks.utils import sysinfo
from pgtasks.worker import assembly
from pgtasks.worker.consumer import Consumer
from pgtasks.worker.supervisor import Worker


class LateDatabase:
    """Answers at the `nth` attempt."""

    def __init__(self, nth: int, error: type[Exception] = DatabaseUnavailable) -> None:
        self.attempts, self._nth, self._error = 0, nth, error

    def ping(self) -> None:
        self.attempts += 1
        if self.attempts < self._nth:
            raise self._error("postgresql://db/app cannot be reached.")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "RETRY_STEP_S", 0.001)


def tried(nth: int, error: type[Exception] = DatabaseUnavailable, **settings: Any) -> int:
    """Wait for a database that answers at the nth attempt; gives how often it was asked, below 0 if the worker gave up."""
    app = Celery("late", set_as_current=False)
    app.conf.update(settings)
    database: Any = LateDatabase(nth, error)
    try:
        assembly.await_database(app, database.ping)
    except (DatabaseUnavailable, DatabaseRefused):
        return -database.attempts
    return database.attempts


def test_a_worker_that_starts_before_its_database_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    assert tried(4) == 4
    assert [record.getMessage()[-7:] for record in caplog.records] == ["(1/100)", "(2/100)", "(3/100)"]
    assert "cannot be reached. Trying again in 0.00 seconds..." in caplog.text


def test_it_gives_up_when_it_was_told_how_often_to_try() -> None:
    assert tried(9, broker_connection_max_retries=2) == -3
    assert tried(9, broker_connection_max_retries=0) == 9


@pytest.mark.parametrize(
    "settings", [{"broker_connection_retry_on_startup": False}, {"broker_connection_retry": False}], ids=str
)
def test_it_gives_up_at_once_when_it_is_not_to_wait(settings: dict[str, Any]) -> None:
    assert tried(2, **settings) == -1


def test_what_is_said_of_starting_counts_for_more_than_what_is_said_of_connections() -> None:
    assert tried(2, broker_connection_retry=False, broker_connection_retry_on_startup=True) == 2


def test_a_database_that_refuses_is_not_waited_for() -> None:
    assert tried(2, DatabaseRefused) == -1


class Vanishing:
    """What registers a worker, at a server that goes away right after it has answered."""

    def __init__(self, answers_at: int) -> None:
        self.attempts, self._answers_at = 0, answers_at

    def __call__(self, consumer: Consumer) -> None:
        self.attempts += 1
        if self.attempts != self._answers_at:
            raise DatabaseUnavailable("The server closed the connection.")
        enlist(consumer)
        consumer.controller.stop()


enlist = Consumer.enlist


@pytest.mark.parametrize("is_told_to_stop", [False, True])
def test_a_database_that_goes_away_while_a_worker_signs_on_is_waited_for_until_the_worker_is_told_to_stop(
    database_url: str, monkeypatch: pytest.MonkeyPatch, is_told_to_stop: bool
) -> None:
    registers = Vanishing(answers_at=0 if is_told_to_stop else 3)
    monkeypatch.setattr(Consumer, "enlist", lambda consumer: registers(consumer))
    app = Celery("vanishing", broker=database_url, set_as_current=False)
    worker = Worker(app, pool="solo", quiet=True, installs_signal_handlers=False)
    monkeypatch.setattr(Consumer, "controller", worker)
    if is_told_to_stop:
        worker.stop()

    assert worker.start() == 0

    assert registers.attempts == (1 if is_told_to_stop else 3)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("prefork", (2, "resolved to 2 (pool=prefork, cgroup cpu quota=1.50, available cpus=8).")),
        ("threads", (8, "resolved to 8 (pool=threads, available cpus=8).")),
    ],
    ids=str,
)
def test_auto_heeds_a_quota_where_slots_are_processes_and_says_what_it_found(
    pool: str, expected: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysinfo, "available_cpu_count", lambda: 8)
    monkeypatch.setattr(sysinfo, "cgroup_cpu_quota", lambda: 1.5)

    count, why = assembly.concurrency_of(" Auto", pool)

    assert (count, why) == (expected[0], f"worker_concurrency='auto' {expected[1]}")
    assert assembly.concurrency_of("3") == (3, None)


def test_handlers_of_worker_init_can_tell_the_pool_by_the_module_of_its_class() -> None:
    app = Celery("pools", set_as_current=False)

    assert {pool: Worker(app, pool=pool).pool_cls.__module__ for pool in ("prefork", "threads")} == {
        "prefork": "pgtasks.concurrency.prefork",
        "threads": "pgtasks.concurrency.thread",
    }
