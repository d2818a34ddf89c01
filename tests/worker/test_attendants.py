"""What goes along with a worker's loop: steps of the project, the autoscaler, systemd."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from kombu import Consumer, Exchange, Queue

from pgtasks import Celery, bootsteps
from pgtasks.contrib.testing.app import TestApp, setup_default_app
from pgtasks.contrib.testing.worker import start_worker
from pgtasks.signals import task_prerun
from pgtasks.utils.nodenames import worker_direct
from pgtasks.worker import autoscale
from pgtasks.worker import state as worker_state
from pgtasks.worker.attendants import Systemd
from pgtasks.worker.autoscale import Autoscaler
from pgtasks.worker.timer import Timer
from tests.support.workers import eventually

pytestmark = pytest.mark.usefixtures("only_built_in_tasks")

NODE = "w@h"


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    app = TestApp("attended", broker=database_url)
    with setup_default_app(app):
        yield app


# -- steps


def test_steps_are_made_started_and_stopped_in_the_order_they_require(app: Celery) -> None:
    told: list[Any] = []

    class Noting(bootsteps.StartStopStep):
        def __init__(self, parent: Any, **options: Any) -> None:
            told.append(("made", self.alias, options.get("custom")))

        def start(self, parent: Any) -> None:
            told.append(("start", self.alias, parent.hostname))

        def stop(self, parent: Any) -> None:
            told.append(("stop", self.alias))

    class First(Noting): ...

    class Second(Noting):
        requires = (First, "celery.worker.components:Timer")

    class OfConsumer(Noting):
        requires = {"celery.worker.consumer.connection:Connection"}

        def shutdown(self, parent: Any) -> None:
            told.append(("shutdown", self.alias))

    class Disabled(Noting):
        def include_if(self, parent: Any) -> bool:
            return False

    app.steps["worker"].update({Second, First, Disabled})
    app.steps["consumer"].add(OfConsumer)
    with start_worker(app, hostname=NODE, perform_ping_check=False, custom=7):
        pass

    assert [each for each in told if each[0] == "made"] == [
        ("made", name, 7) for name in ("Disabled", "First", "Second", "OfConsumer")
    ]
    assert [each[1] for each in told if each[0] == "start"] == ["First", "Second", "OfConsumer"]
    assert {each[2] for each in told if each[0] == "start"} == {NODE}
    assert [each[1] for each in told if each[0] == "stop"] == ["OfConsumer", "Second", "First"]
    assert told[-1] == ("shutdown", "OfConsumer")


def test_a_step_starts_and_stops_what_it_made_and_shows_in_the_statistics(app: Celery) -> None:
    made = SimpleNamespace(started=0, stopped=0)
    made.start = lambda: setattr(made, "started", made.started + 1)
    made.stop = lambda: setattr(made, "stopped", made.stopped + 1)

    class Making(bootsteps.StartStopStep):
        def create(self, parent: Any) -> Any:
            return made

        def info(self, parent: Any) -> Any:
            return {"making": "fun"}

    app.steps["worker"].add(Making)
    with start_worker(app, hostname=NODE, perform_ping_check=False):
        stats = app.control.inspect(timeout=30).stats()[NODE]

    assert stats["making"] == "fun"
    assert (made.started, made.stopped) == (1, 1)


def test_receivers_that_are_methods_of_a_step_hear_the_tasks_in_the_children(app: Celery) -> None:
    class Binding(bootsteps.Step):
        def __init__(self, parent: Any, **options: Any) -> None:
            super().__init__(parent, **options)
            task_prerun.connect(self.bind)

        def bind(self, task: Any, **_: Any) -> None:
            task.request.bound = "by the step"

    @app.task(bind=True, shared=False)
    def bound(self: Any) -> Any:
        return getattr(self.request, "bound", None)

    app.steps["worker"].add(Binding)
    with start_worker(app, pool="prefork", perform_ping_check=False):
        assert bound.delay().get(timeout=60) == "by the step"


def test_with_worker_direct_each_worker_has_a_queue_of_its_own(app: Celery) -> None:
    app.conf.worker_direct = True

    @app.task(bind=True, shared=False)
    def whoami(self: Any) -> Any:
        return self.request.hostname

    with start_worker(app, pool="solo", hostname=NODE, perform_ping_check=False):
        assert whoami.apply_async(queue=worker_direct(NODE)).get(timeout=60) == NODE


def test_a_step_that_cannot_be_stopped_keeps_no_other_and_not_the_worker_from_ending(
    app: Celery, conn: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    stopped = []

    class Broken(bootsteps.StartStopStep):
        def stop(self, parent: Any) -> None:
            raise OSError("stuck")

    class Fine(bootsteps.StartStopStep):
        def stop(self, parent: Any) -> None:
            stopped.append(self.alias)

    app.steps["worker"].update({Broken, Fine})
    with start_worker(app, perform_ping_check=False) as worker:
        pass

    assert (stopped, worker.exitcode) == (["Fine"], 0)
    assert "Error while stopping the step Broken" in caplog.text
    assert conn.execute("SELECT count(*) FROM pgtasks.worker").fetchone() == (0,)


def test_a_step_has_the_loop_call_it_again_and_again_and_later_until_it_is_told_to_stop(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    class Liveness(bootsteps.StartStopStep):
        requires = {"celery.worker.components:Timer"}

        def start(self, parent: Any) -> None:
            self.tref = parent.timer.call_repeatedly(0.01, told.append, ("again",), priority=10)
            parent.timer.call_after(0.01, told.append, ("later",))
            parent.timer.call_after(0.01, lambda: 1 / 0)

        def stop(self, parent: Any) -> None:
            self.tref.cancel()

    app.steps["consumer"].add(Liveness)
    with start_worker(app, perform_ping_check=False) as worker:
        eventually(lambda: told.count("again") > 2 and "later" in told and "ZeroDivisionError" in caplog.text)

    assert told.count("later") == 1
    assert worker.exitcode == 0


def test_code_of_the_project_stops_the_worker_by_the_flag_that_celery_has_for_it(app: Celery) -> None:
    with start_worker(app, perform_ping_check=False) as worker:
        worker_state.should_stop = 3
        eventually(lambda: worker_state.should_stop is None and worker.is_stopping)

    assert worker.exitcode == 3


def test_a_timer_makes_only_the_calls_that_are_due_and_not_those_that_were_cancelled() -> None:
    timer, told = Timer(), []
    timer.call_after(0, told.append, ("due",))
    timer.call_after(3600, told.append, ("in an hour",))
    timer.call_after(0, told.append, ("cancelled",)).cancel()

    timer.mind(time.monotonic())

    assert told == ["due"]
    assert time.monotonic() + 3500 < timer.next_at < time.monotonic() + 3601


def test_a_step_consumes_messages_that_are_no_tasks_and_leaves_nothing_of_them(
    app: Celery, conn: psycopg.Connection
) -> None:
    parcels = Queue("parcels", Exchange("parcels"), routing_key="in")
    heard: list[Any] = []

    class Consuming(bootsteps.ConsumerStep):
        def get_consumers(self, channel: Any) -> Any:
            return [Consumer(channel, queues=[parcels], callbacks=[self.hear], accept=["json"])]

        def hear(self, body: Any, message: Any) -> None:
            heard.append(body)
            message.ack()

    app.steps["consumer"].add(Consuming)
    with app.producer_or_acquire() as producer:
        producer.publish({"n": 1}, exchange=parcels.exchange, routing_key="in", declare=[parcels])
    with start_worker(app, hostname=NODE, perform_ping_check=False):
        eventually(lambda: heard == [{"n": 1}])
        eventually(lambda: conn.execute("SELECT state FROM pgtasks.tasks").fetchall() == [("SUCCESS",)])

    left = "SELECT (SELECT count(*) FROM pgtasks.away), (SELECT count(*) FROM pgtasks.worker)"
    assert conn.execute(left).fetchone() == (0, 0)


def test_a_message_that_a_step_cannot_read_is_rejected_and_those_behind_it_are_consumed(
    app: Celery, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    letters = Queue("letters", Exchange("letters"), routing_key="in")
    heard: list[Any] = []

    class Consuming(bootsteps.ConsumerStep):
        def get_consumers(self, channel: Any) -> Any:
            return [Consumer(channel, queues=[letters], callbacks=[self.hear], accept=["json"])]

        def hear(self, body: Any, message: Any) -> None:
            heard.append(body)
            message.ack()

    app.steps["consumer"].add(Consuming)
    with app.producer_or_acquire() as producer:
        for body, type_ in ((b"\xff", "application/json"), (b"", "application/x-python-serialize"), (b"[7]", "application/json")):
            producer.publish(body, exchange=letters.exchange, routing_key="in", declare=[letters], serializer=None,
                             content_type=type_, content_encoding="utf-8")  # fmt: skip
    with start_worker(app, hostname=NODE, perform_ping_check=False):
        eventually(lambda: heard == [[7]])
        eventually(lambda: conn.execute("SELECT count(*) FROM pgtasks.result").fetchone() == (3,))

    assert caplog.text.count("rejected a message that cannot be read") == 2


# -- autoscaling


class Pool:
    """A worker, as far as the autoscaler sees one."""

    def __init__(self, children: int) -> None:
        self.busy = 0
        self.crew = SimpleNamespace(options=SimpleNamespace(children=children), busy=lambda: self.busy)

    def resize(self, by: int) -> None:
        self.crew.options.children += by


def test_it_grows_while_all_are_busy_and_tasks_wait_and_not_beyond_its_bound() -> None:
    pool = Pool(2)
    scaler = Autoscaler(pool, 10, 2)
    seen = []
    for has_ready in (True, True, True, True, False):
        pool.busy = pool.crew.options.children
        scaler.looked(has_ready)
        seen.append(scaler.processes)

    assert seen == [4, 8, 10, 10, 10]


def test_it_does_not_grow_for_what_free_processes_can_do() -> None:
    pool = Pool(4)
    pool.busy = 3
    Autoscaler(pool, 10, 2).looked(has_ready=True)

    assert pool.crew.options.children == 4


def test_it_shrinks_to_what_is_needed_after_a_while_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(autoscale, "time", clock)
    pool = Pool(8)
    pool.busy = 3
    scaler = Autoscaler(pool, 10, 2)
    scaler.looked(has_ready=False)
    assert scaler.processes == 8

    clock.now += autoscale.AUTOSCALE_KEEPALIVE + 1
    scaler.looked(has_ready=False)
    assert scaler.processes == 3
    pool.busy = 0
    scaler.looked(has_ready=False)
    assert scaler.processes == 2


def test_new_bounds_hold_at_once_and_one_process_always_stays() -> None:
    scaler = Autoscaler(Pool(8), 10, 2)

    assert scaler.update(max=5) == (5, 2)
    assert scaler.processes == 5
    assert scaler.update(max=9, min=7) == (9, 7)
    assert scaler.processes == 7
    assert scaler.update(max=1, min=0) == (1, 0)
    assert scaler.processes == 1


def test_a_worker_scales_by_itself_and_by_order_and_not_by_hand(app: Celery, tmp_path: Path) -> None:
    @app.task(name="hold")
    def hold(number: int) -> None:
        (tmp_path / f"begun-{number}").touch()
        eventually((tmp_path / "gate").exists)

    def told(command: str, *args: Any) -> Any:
        (reply,) = getattr(app.control, command)(*args, reply=True, timeout=30)
        return reply[NODE]

    results = [hold.delay(number) for number in range(3)]
    options: dict[str, Any] = {"pool": "prefork", "concurrency": 1, "autoscale": (3, 1), "hostname": NODE}
    with start_worker(app, perform_ping_check=False, **options):
        eventually(lambda: all((tmp_path / f"begun-{number}").exists() for number in range(3)), "three at once")
        assert app.control.inspect(timeout=30).stats()[NODE]["autoscaler"] == {
            "max": 3,
            "min": 1,
            "current": 3,
            "qty": 3,
        }
        assert told("pool_grow") == {
            "error": "pool_grow is not supported with autoscale. Adjust autoscale range instead."
        }
        assert told("autoscale", 4, 4) == {"ok": "autoscale now max=4 min=4"}
        assert len(app.control.inspect(timeout=30).stats()[NODE]["pool"]["processes"]) == 4
        (tmp_path / "gate").touch()
        for result in results:
            result.get(timeout=60)


# -- systemd


@pytest.fixture
def notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """systemd's end of the line."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def test_systemd_hears_that_a_worker_is_ready_lives_and_stops(
    app: Celery, notified: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")

    with start_worker(app, hostname=NODE, perform_ping_check=False):
        heard = [notified.recv(1000).decode() for _ in range(4)]
    while (last := notified.recv(1000).decode()) == "WATCHDOG=1":
        pass

    assert "READY=1\nSTATUS=w@h ready." in heard
    assert heard.count("WATCHDOG=1") >= 3
    assert last == "STOPPING=1"


def test_the_watchdog_of_another_process_is_not_fed(notified: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))

    assert Systemd().next_at is None


def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "20000")

    systemd = Systemd()
    systemd.tell("READY=1")

    assert systemd.next_at is None
