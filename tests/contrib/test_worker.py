"""A worker in a thread of the test process."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from pgtasks import Celery
from pgtasks.contrib.testing.worker import TestWorkController, start_worker
from pgtasks.exceptions import ImproperlyConfigured
from tests.support.workers import eventually

POOLS = ["solo", "prefork", "threads", "aio"]


def children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize("pool", POOLS)
def test_every_pool_works_from_a_thread_and_leaves_nothing_behind(app: Celery, pool: str) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    before = children(), set(threading.enumerate()), signal.getsignal(signal.SIGTERM)

    with start_worker(app, pool=pool):
        answer = add.delay(2, 3).get(timeout=60)

    assert answer == 5
    assert (children(), set(threading.enumerate()), signal.getsignal(signal.SIGTERM)) == before


def test_a_task_that_is_still_running_at_the_end_does_not_keep_the_tests_waiting(app: Celery, tmp_path: Path) -> None:
    @app.task
    def hang() -> None:
        (tmp_path / "begun").touch()
        threading.Event().wait()

    with start_worker(app, pool="prefork", shutdown_timeout=0.1):
        hang.delay()
        eventually((tmp_path / "begun").exists)

    assert not any(thread.name == "worker" for thread in threading.enumerate())


def test_what_keeps_a_worker_from_starting_is_raised_where_it_is_wanted(app: Celery) -> None:
    with pytest.raises(ImproperlyConfigured, match="No queue is left"):
        with start_worker(app, exclude_queues=["celery"], perform_ping_check=False):
            pass


def test_children_learn_of_tasks_that_were_defined_after_they_were_forked(app: Celery) -> None:
    with start_worker(app, pool="prefork") as worker:

        @app.task
        def late() -> str:
            return "known"

        worker.reload()

        assert late.delay().get(timeout=60) == "known"


def test_what_forked_children_log_is_logged_here_with_all_that_belongs_to_it(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    def tell(text: str) -> None:
        logging.getLogger("told").warning("%s from far", text, extra={"data": {"of": "a child"}})

    @app.task
    def tell_of_what_cannot_travel() -> None:
        logging.getLogger("told").error("look: %r", threading.Lock(), exc_info=ValueError("of the child"))

    with start_worker(app, pool="prefork"):
        tell.delay("word").get(timeout=60)
        tell_of_what_cannot_travel.delay().get(timeout=60)

    plain, odd = [record for record in caplog.records if record.name == "told"]
    assert (plain.msg, plain.getMessage()) == ("%s from far", "word from far")
    assert vars(plain)["data"] == {"of": "a child"}
    assert plain.process != os.getpid()
    assert odd.getMessage().startswith("look: <unlocked _thread.lock")
    assert "ValueError: of the child" in (odd.exc_text or "")


class OfTwo(Exception):
    """Pickles, and cannot be read again: `args` holds one argument, and two are needed."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what)


def test_a_log_record_that_cannot_be_read_does_not_leave_the_children_that_log_stuck(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    def tell(number: int) -> None:
        logging.getLogger("told").error("%s %s", number, OfTwo("broken", "on purpose"))
        logging.getLogger("told").error("much: %s", "x" * 5000)

    with start_worker(app, pool="prefork"):
        for number in range(100):  # more than fits between the two
            tell.delay(number).get(timeout=60)

    assert "99 broken" in [record.getMessage() for record in caplog.records]


def test_an_app_that_was_finalized_too_early_to_know_the_ping_can_be_pinged(app: Celery) -> None:
    del app.tasks["celery.ping"]

    with start_worker(app):
        assert app.send_task("celery.ping").get(timeout=60) == "pong"


def test_subclasses_hear_when_the_worker_consumes(app: Celery) -> None:
    heard: list[Any] = []

    class Listening(TestWorkController):
        def on_consumer_ready(self, consumer: Any) -> None:
            heard.append(consumer)
            super().on_consumer_ready(consumer)

    with start_worker(app, WorkController=Listening) as worker:
        assert heard == [worker.consumer]
