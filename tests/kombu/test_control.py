"""Celery's own commands and monitors, and workers of ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from celery import Celery
from celery.events import EventReceiver
from celery.events.state import State
from kombu import Exchange, Producer

import pgtasks
from pgtasks.beat import Scheduler, Service
from pgtasks.store import fleet
from tests.kombu.conftest import eventually, rows
from tests.support.workers import STUCK_S, WorkerProcess

Start = Callable[..., WorkerProcess]


def test_the_commands_of_celery_show_and_steer_workers_of_both_kinds(
    start: Start, run_celery: Callable[..., str], theirs: Celery
) -> None:
    ours = start("ours")
    start("theirs")

    assert run_celery("inspect", "ping").count("pong") == 2
    assert "2 nodes online." in run_celery("status")
    assert "mixed.add" in run_celery("inspect", "registered", "-d", "ours@h")
    assert ["celery", "celery", "celery"] in [line.split() for line in run_celery("list", "bindings").splitlines()]
    assert "new rate limit set successfully" in run_celery("control", "rate_limit", "mixed.add", "100/s")
    assert "pool will grow" in run_celery("control", "pool_grow", "1", "-d", "ours@h")
    assert "add consumer other" in run_celery("control", "add_consumer", "other", "-d", "ours@h")
    assert theirs.send_task("mixed.who", queue="other").get(timeout=STUCK_S) == "ours@h"
    assert theirs.control.inspect(pattern="ours@*", matcher="glob").ping() == {"ours@h": {"ok": "pong"}}

    # As in Celery: who is asked to end does not reply.
    assert "No nodes replied" in run_celery("control", "shutdown", "-d", "ours@h", fails=True)

    assert ours.join() == 0
    assert theirs.control.ping(timeout=1) == [{"theirs@h": {"ok": "pong"}}]


def test_bad_letters_are_answered_or_ignored_and_the_worker_goes_on(start: Start, theirs: Celery) -> None:
    worker = start("ours")

    (unknown,) = theirs.control.broadcast("no_such_command", reply=True, timeout=STUCK_S, limit=1)
    (wrong,) = theirs.control.broadcast("rate_limit", {"what": 1}, reply=True, timeout=STUCK_S, limit=1)
    with theirs.connection_for_write() as connection:
        for body in (b"\xff", b"[]", b'{"method": []}'):
            Producer(connection).publish(
                body, exchange=Exchange("celery.pidbox", "fanout"), content_type="application/json",
                content_encoding="utf-8",
            )  # fmt: skip

    assert "no_such_command" in unknown["ours@h"]["error"]
    assert "error" in wrong["ours@h"]
    assert theirs.control.ping(timeout=STUCK_S, limit=1) == [{"ours@h": {"ok": "pong"}}]
    assert worker.process.poll() is None


def test_the_commands_of_celery_ask_a_scheduler_of_ours_whether_it_is_there_and_nothing_else(
    run_celery: Callable[..., str], theirs: Celery, database_url: str
) -> None:
    with pgtasks.Celery("scheduled", broker=database_url, set_as_current=False) as app:
        app.conf.beat_scheduler = Scheduler
        service = Service(app, remote_control=True, hostname="h")
        thread = threading.Thread(target=service.start)
        thread.start()
        try:
            eventually(lambda: theirs.control.ping(timeout=1, limit=1) == [{"celerybeat@h": {"ok": "pong"}}])
            assert "celerybeat@h: OK" in run_celery("inspect", "ping", "-d", "celerybeat@h", "-t", str(STUCK_S))
            assert theirs.control.inspect(timeout=0.5).stats() is None
        finally:
            service.stop()
            thread.join()


def test_celery_revokes_tasks_of_ours_that_wait_that_run_and_that_are_still_to_come(
    start: Start, theirs: Celery, tmp_path: Path, database_url: str
) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    theirs.control.revoke("to-come")
    start("ours", "-P", "threads", "-c", "1")
    other = start("ours", name="other@h")
    running = theirs.send_task("mixed.hold", (str(stage),))
    eventually(lambda: list(stage.glob("began-*")))
    theirs.control.revoke(running.id, terminate=True, signal="SIGKILL")
    later = theirs.send_task("mixed.add", (1, 1), countdown=3600)
    theirs.control.revoke(later.id)
    theirs.send_task("mixed.add", (1, 1), task_id="to-come")

    eventually(lambda: later.state == "REVOKED" and theirs.AsyncResult("to-come").state == "REVOKED")
    (stage / "gate").touch()
    assert other.process.poll() is None


def test_a_monitor_of_celery_sees_the_workers_and_tasks_of_both_kinds_and_ours_sees_theirs(
    start: Start, theirs: Celery, database_url: str
) -> None:
    start("ours", "-E")
    start("theirs", "-E", "-Q", "celery,theirs")
    state, told = State(), []
    own = pgtasks.Celery("ours", broker=database_url, set_as_current=False)
    receiver = own.events.Receiver(handlers={"*": told.append})
    listening = threading.Thread(target=receiver.capture, kwargs={"wakeup": False}, daemon=True)
    listening.start()

    with theirs.connection_for_read() as connection:
        monitor = EventReceiver(connection, handlers={"*": state.event}, app=theirs)
        looking = iter(monitor.itercapture(limit=None, timeout=None, wakeup=True))
        sent = []
        deadline = time.monotonic() + STUCK_S
        while not all(_is_told(state, result.id) for result in sent) or not sent:
            assert time.monotonic() < deadline, (list(state.workers), list(state.tasks.items()), told)
            next(looking)
            if len(list(state.alive_workers())) == 2 and not sent:
                sent = [
                    theirs.send_task("mixed.who", queue=queue) for queue in ("celery", "celery", "theirs")
                ]

    eventually(lambda: {"ours@h", "theirs@h"} <= {event["hostname"] for event in told})
    receiver.should_stop = True
    listening.join(STUCK_S)


def _is_told(state: State, task_id: str) -> bool:
    task = state.tasks.get(task_id)
    return task is not None and task.state == "SUCCESS" and task.worker is not None and bool(task.started)


def test_events_cost_nothing_while_no_monitor_of_celery_listens(
    start: Start, theirs: Celery, conn: psycopg.Connection[Any]
) -> None:
    """That workers of Celery hear of each other is no reason to make events of tasks."""
    start("ours", "-E")

    theirs.send_task("mixed.add", (1, 1)).get(timeout=STUCK_S)

    assert (rows(conn, "listener"), rows(conn, "event"), rows(conn, "mail")) == (0, 0, 0)


def test_our_own_commands_show_and_steer_workers_of_both_kinds(
    start: Start, theirs: Celery, database_url: str, conn: psycopg.Connection[Any]
) -> None:
    start("theirs")
    start("ours")
    own = pgtasks.Celery("own", broker=database_url, set_as_current=False)

    assert own.control.inspect(timeout=STUCK_S).ping() == {"ours@h": {"ok": "pong"}, "theirs@h": {"ok": "pong"}}
    assert own.control.ping(destination=["theirs@h"], timeout=STUCK_S) == [{"theirs@h": {"ok": "pong"}}]
    assert own.control.inspect(pattern="o*", matcher="glob").ping() == {"ours@h": {"ok": "pong"}}
    assert len(own.control.ping(limit=1, timeout=STUCK_S)) == 1
    assert "mixed.add" in own.control.inspect(["theirs@h"], timeout=STUCK_S).registered()["theirs@h"]
    own.control.add_consumer("other", destination=["theirs@h"])
    assert theirs.send_task("mixed.who", queue="other").get(timeout=STUCK_S) == "theirs@h"

    own.control.shutdown()

    eventually(lambda: own.database.run(fleet.workers()) == [])
    assert rows(conn, "letter") == 0


def test_a_worker_of_celery_that_was_killed_is_waited_for_no_longer_than_asked(
    start: Start, database_url: str
) -> None:
    start("theirs").kill()
    own = pgtasks.Celery("own", broker=database_url, set_as_current=False)

    assert not own.control.ping(timeout=0.5)
