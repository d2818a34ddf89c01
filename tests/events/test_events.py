"""Events from a worker to whoever listens: which there are, what they say, and that nothing happens when nobody does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgtasks import Celery, signals
from pgtasks.contrib.testing.app import TestApp, setup_default_app
from pgtasks.contrib.testing.worker import TestWorkController, start_worker
from pgtasks.events import EventReceiver
from pgtasks.events import receiver as receiving
from pgtasks.events.metrics import Counts, render
from pgtasks.events.receiver import forgiving
from pgtasks.events.snapshot import Polaroid, evcam
from pgtasks.exceptions import Ignore, OperationalError, Reject
from pgtasks.message import new_id
from pgtasks.store import events
from tests.support.workers import eventually

pytestmark = pytest.mark.usefixtures("only_built_in_tasks")

Conn = psycopg.Connection[Any]
NODE = "w@h"


@pytest.fixture
def app(database_url: str, tmp_path: Path) -> Iterator[Celery]:
    app = TestApp("eventful", broker=database_url)
    with setup_default_app(app):

        @app.task(name="add")
        def add(x: int, y: int) -> int:
            return x + y

        @app.task(name="fail")
        def fail() -> None:
            raise ValueError("no")

        @app.task(name="again", bind=True)
        def again(self: Any) -> str:
            if not self.request.retries:
                raise self.retry(countdown=0, exc=KeyError("later"))
            return "done"

        @app.task(name="reject", bind=True, acks_late=True)
        def reject(self: Any, requeue: bool) -> None:
            if requeue and (tmp_path / "rejected").exists():
                return
            (tmp_path / "rejected").touch()
            raise Reject("not here", requeue=requeue)

        @app.task(name="wait")
        def wait() -> None:
            (tmp_path / "begun").touch()
            eventually((tmp_path / "gate").exists)

        @app.task(name="quiet", send_events=False)
        def quiet() -> None: ...

        @app.task(name="custom", bind=True)
        def custom(self: Any) -> None:
            self.send_event("task-progress", percent=50)
            raise Ignore

        yield app


class Listener:
    """Collects events in a thread."""

    def __init__(self, app: Celery, **options: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.receiver = app.events.Receiver(handlers={"*": self.events.append}, **options)
        self._thread = threading.Thread(target=self.receiver.capture)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.receiver.should_stop = True
        self._thread.join(30)

    def of(self, task_id: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("uuid") == task_id]

    def await_type(self, type_: str, **fields: Any) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = [each for each in self.events if each["type"] == type_ and fields.items() <= each.items()]
            return found[0] if found else None

        return eventually(look, f"{type_} {fields}")


@contextmanager
def worker_of(app: Celery, **options: Any) -> Iterator[TestWorkController]:
    with start_worker(app, pool="prefork", concurrency=1, hostname=NODE, perform_ping_check=False, **options) as worker:
        yield worker


@pytest.fixture
def watched(app: Celery) -> Iterator[Listener]:
    """Somebody who listens, and a worker that tells of its tasks."""
    app.conf.worker_send_task_events = True
    with Listener(app) as listener, worker_of(app):
        listener.await_type("worker-online")
        yield listener


def test_a_worker_tells_when_it_comes_that_it_lives_and_when_it_goes(app: Celery) -> None:
    with Listener(app) as listener:
        with worker_of(app):
            online = listener.await_type("worker-online")
            heartbeat = listener.await_type("worker-heartbeat")
        listener.await_type("worker-offline")

    assert online.keys() >= {
        *("type", "hostname", "utcoffset", "pid", "clock", "timestamp", "local_received"),
        *("freq", "active", "processed", "loadavg", "sw_ident", "sw_ver", "sw_sys"),
    }
    assert (online["hostname"], online["sw_ident"], heartbeat["freq"]) == (NODE, "py-celery", 2.0)


def test_a_task_that_succeeds_is_told_of_with_celerys_fields(app: Celery, watched: Listener) -> None:
    result = app.tasks["add"].delay(1, y=2)

    watched.await_type("task-succeeded", uuid=result.id)

    received, started, succeeded = watched.of(result.id)
    assert (received["type"], started["type"]) == ("task-received", "task-started")
    told = {
        key: received[key] for key in ("name", "args", "kwargs", "retries", "eta", "expires", "parent_id", "root_id")
    }
    assert told == {
        "name": "add", "args": "(1,)", "kwargs": "{'y': 2}", "retries": 0, "eta": None, "expires": None,
        "parent_id": None, "root_id": result.id,
    }  # fmt: skip
    assert (succeeded["result"], succeeded["runtime"] > 0) == ("3", True)
    assert received["clock"] < started["clock"] < succeeded["clock"]
    assert result.state == "SUCCESS"


def test_failures_and_retries_are_told_of_with_their_exception(app: Celery, watched: Listener) -> None:
    failing, retrying = app.tasks["fail"].delay(), app.tasks["again"].delay()

    failed = watched.await_type("task-failed", uuid=failing.id)
    retried = watched.await_type("task-retried", uuid=retrying.id)
    watched.await_type("task-succeeded", uuid=retrying.id)

    assert failed["exception"] == "ValueError('no')"
    assert "ValueError: no" in failed["traceback"]
    assert "KeyError" in retried["exception"]


@pytest.mark.parametrize("requeue", [True, False])
def test_what_a_task_rejects_is_told_of_and_whether_it_will_run_again(
    app: Celery, watched: Listener, requeue: bool
) -> None:
    rejecting = app.tasks["reject"].delay(requeue)

    rejected = watched.await_type("task-rejected", uuid=rejecting.id)

    assert rejected["requeue"] is requeue
    if requeue:
        watched.await_type("task-succeeded", uuid=rejecting.id)


def test_what_is_revoked_while_it_runs_is_told_of(app: Celery, watched: Listener, tmp_path: Path) -> None:
    running = app.tasks["wait"].delay()
    eventually((tmp_path / "begun").exists)
    watched.await_type("task-started", uuid=running.id)

    running.revoke(terminate=True)

    revoked = watched.await_type("task-revoked", uuid=running.id)
    assert (revoked["terminated"], revoked["expired"]) == (True, False)


def test_what_runs_for_long_is_told_to_have_started_while_it_does(
    app: Celery, watched: Listener, tmp_path: Path
) -> None:
    running = app.tasks["wait"].delay()

    watched.await_type("task-started", uuid=running.id)

    assert running.state == "PENDING" or not running.ready()
    (tmp_path / "gate").touch()
    watched.await_type("task-succeeded", uuid=running.id)
    assert [event["type"] for event in watched.of(running.id)].count("task-started") == 1


def test_tasks_can_send_events_of_their_own_and_want_none(app: Celery, watched: Listener) -> None:
    quiet, custom = app.tasks["quiet"].delay(), app.tasks["custom"].delay()

    progress = watched.await_type("task-progress", uuid=custom.id)
    quiet.get(timeout=60)
    last = app.tasks["add"].delay(1, 1)
    watched.await_type("task-succeeded", uuid=last.id)

    assert progress["percent"] == 50
    assert watched.of(quiet.id) == []


def test_the_state_that_a_monitor_keeps_is_right(app: Celery, watched: Listener) -> None:
    state = app.events.State()
    result = app.tasks["add"].delay(2, 3)
    watched.await_type("task-succeeded", uuid=result.id)
    for event in list(watched.events):
        state.event(event)

    task = state.tasks[result.id]
    assert (task.name, task.state, task.result, task.worker.hostname) == ("add", "SUCCESS", "5", NODE)
    assert [worker.hostname for worker in state.alive_workers()] == [NODE]


def test_callers_tell_that_they_sent_a_task_while_somebody_listens(
    app: Celery, database_url: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgtasks.app.events.UNHEARD_S", 0)
    monkeypatch.setattr(signals.after_task_publish, "receivers", [*signals.after_task_publish.receivers])
    with Celery("caller", broker=database_url, set_as_current=False, task_send_sent_event=True) as caller:
        caller.send_task("unheard")
        assert conn.execute("SELECT count(*) FROM pgtasks.event").fetchone() == (0,)
        with Listener(app) as listener:
            eventually(lambda: conn.execute("SELECT count(*) FROM pgtasks.listener").fetchone() == (1,))
            result = caller.send_task("elsewhere", (1,), {"k": 2}, queue="mail")
            sent = listener.await_type("task-sent", uuid=result.id)

    told = {key: sent[key] for key in ("name", "args", "kwargs", "queue", "retries", "root_id", "parent_id")}
    assert told == {
        "name": "elsewhere", "args": "(1,)", "kwargs": "{'k': 2}", "queue": "mail", "retries": 0,
        "root_id": result.id, "parent_id": None,
    }  # fmt: skip
    assert sent["hostname"].startswith("gen")


def test_events_about_tasks_are_switched_on_and_off_as_by_celery(app: Celery) -> None:
    def told(command: str) -> Any:
        (reply,) = getattr(app.control, command)(reply=True, timeout=30)
        return reply[NODE]

    with Listener(app) as listener, worker_of(app):
        listener.await_type("worker-online")
        before = app.tasks["add"].delay(1, 1)
        before.get(timeout=60)
        assert told("enable_events") == {"ok": "task events enabled"}
        assert told("enable_events") == {"ok": "task events already enabled"}
        during = app.tasks["add"].delay(1, 1)
        listener.await_type("task-succeeded", uuid=during.id)
        assert told("disable_events") == {"ok": "task events disabled"}
        assert told("disable_events") == {"ok": "task events already disabled"}

    assert listener.of(before.id) == []


# -- nobody listens


def test_while_nobody_listens_nothing_is_made_and_nothing_kept(
    app: Celery, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.conf.worker_send_task_events = True
    with worker_of(app) as worker:
        monkeypatch.setattr(worker.attendants.reporter.dispatcher, "_event", lambda *args: 1 / 0)
        app.tasks["add"].delay(1, 1).get(timeout=60)
        app.control.ping(timeout=30)

    assert conn.execute("SELECT count(*) FROM pgtasks.event").fetchone() == (0,)


def test_a_worker_falls_silent_when_the_last_listener_has_gone(app: Celery, conn: Conn) -> None:
    app.conf.worker_send_task_events = True
    with worker_of(app) as worker:
        with Listener(app) as listener:
            listener.await_type("worker-online")
        eventually(lambda: not worker.attendants.reporter.dispatcher.enabled)
        assert worker.crew.runtimes is None

    assert conn.execute(
        "SELECT (SELECT count(*) FROM pgtasks.listener), (SELECT count(*) FROM pgtasks.event)"
    ).fetchone() == (
        0,
        0,
    )


def test_for_a_listener_that_died_no_more_is_kept_than_of_some_seconds(app: Celery, conn: Conn) -> None:
    listener = new_id()
    app.database.run(events.listen(listener))
    batch = events.Batch(None, None, b"[]")
    assert app.database.run(events.publish(batch)) == 1

    conn.execute("UPDATE pgtasks.listener SET seen_at = seen_at - interval '16 s'")
    assert app.database.run(events.publish(batch)) == 0
    assert conn.execute("SELECT count(*) FROM pgtasks.event").fetchone() == (1,)

    conn.execute("UPDATE pgtasks.listener SET seen_at = seen_at - interval '1 minute'")
    app.database.run(events.sweep())
    assert conn.execute("SELECT count(*) FROM pgtasks.event").fetchone() == (0,)


# -- the classes


def test_a_receiver_gives_events_in_order_to_the_handler_of_their_type(app: Celery) -> None:
    got: list[Any] = []
    receiver = EventReceiver(app=app, handlers={"my-one": lambda e: got.append(("one", e["n"])), "*": got.append})
    capture = receiver.itercapture(limit=3, timeout=30, wakeup=False)
    next(capture)
    with app.events.Dispatcher(hostname="me@h") as dispatcher:
        for number in range(2):
            dispatcher.send("my-one", n=number)
        dispatcher.send("other-two", n=2)
    for _ in capture:
        pass

    assert got[:2] == [("one", 0), ("one", 1)]
    assert (got[2]["type"], got[2]["hostname"], got[2]["n"]) == ("other-two", "me@h", 2)


def test_what_cannot_be_read_and_what_is_no_event_is_thrown_away_and_the_rest_is_heard(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []
    receiver = app.events.Receiver(handlers={"*": heard.append})
    app.database.run(events.listen(receiver._listener))

    odd = b'[{"no": "type"}, {"type": "odd", "utcoffset": "x", "timestamp": 0}]'
    for body in (b"\xff", b"7", odd, b'[{"type": "good-one", "clock": 9223372036854775807}]'):
        app.database.run(events.publish(events.Batch("application/json", "utf-8", body)))
    receiver.capture(limit=2, timeout=60, wakeup=False)

    assert [event["type"] for event in heard] == ["good-one"]
    assert len([record for record in caplog.records if record.name == "celery.events"]) == 4
    assert app.clock.forward() < 1000


def test_a_monitor_goes_on_after_an_event_that_lacks_what_others_have(caplog: pytest.LogCaptureFixture) -> None:
    counts = Counts()
    good = {"uuid": "1", "hostname": "h", "timestamp": 0}

    for event in ({"type": "task-failed"}, {"type": "task-failed", **good, "hostname": None, "exception": 5},
                  {"type": "task-succeeded", **good, "runtime": "long"}):  # fmt: skip
        forgiving(counts.count)(event)

    assert 'celery_task_failed_total{name="",hostname="None",queue_name="celery",exception="5"} 1' in render(counts, [])
    assert caplog.text.count("An event was thrown away") == 2


def test_a_receiver_hears_only_what_it_asked_for(app: Celery) -> None:
    got: list[Any] = []
    receiver = EventReceiver(app=app, routing_key="task.#", handlers={"*": lambda e: got.append(e["type"])})
    capture = receiver.itercapture(limit=2, wakeup=False)
    next(capture)
    with app.events.default_dispatcher() as dispatcher:
        dispatcher.send("worker-online")
        dispatcher.send("task-sent", uuid="1")
    for _ in capture:
        pass

    assert got == ["task-sent"]


def test_a_receiver_that_hears_nothing_for_too_long_says_so_and_is_forgotten(app: Celery, conn: Conn) -> None:
    with pytest.raises(TimeoutError):
        EventReceiver(app=app).capture(timeout=0.01, wakeup=False)

    assert conn.execute("SELECT count(*) FROM pgtasks.listener").fetchone() == (0,)


def test_what_is_sent_before_a_receiver_captures_is_kept_once_its_queue_is_declared(app: Celery) -> None:
    seen: list[str] = []
    with app.connection_for_write() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: seen.append(event["type"])})
        receiver.queue(connection.default_channel).declare()

        with app.events.Dispatcher(connection) as dispatcher:
            dispatcher.send("task-early")
        receiver.capture(limit=1, timeout=30)

    assert seen == ["task-early"]
    assert receiver.queue.name == f"celeryev.{receiver.node_id}"


def test_a_recorder_that_is_interrupted_ends_without_a_traceback(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EventReceiver, "capture", interrupted)

    with pytest.raises(SystemExit):
        evcam(Polaroid, app=app)


def test_events_come_without_notifications_too(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Any:
        raise psycopg.OperationalError

    monkeypatch.setattr(receiving, "Doorbell", refuse)
    monkeypatch.setattr(receiving, "LOOK_EVERY_S", 0.01)
    with Listener(app) as listener:
        eventually(lambda: app.database.run(events.publish(events.Batch(None, None, b"[]"))))
        with app.events.default_dispatcher() as dispatcher:
            dispatcher.send("my-event")
        listener.await_type("my-event")


def test_a_dispatcher_keeps_what_it_cannot_send_and_sends_it_later(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    away = True

    def run(query: Any) -> None:
        if away:
            raise OperationalError("away")
        sent.append(query)

    dispatcher = app.events.Dispatcher(groups=["my"])
    monkeypatch.setattr(app.database, "run", run)
    dispatcher.send("my-event")
    dispatcher.send("other-event")
    away = False
    dispatcher.flush()

    assert len(sent) == 1
    assert b'"my-event"' in sent[0].values["body"]
    dispatcher.disable()
    dispatcher.send("my-event")
    assert len(sent) == 1
