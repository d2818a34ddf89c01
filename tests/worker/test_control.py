"""Remote control: what workers answer, and what they do when told."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgtasks import Celery
from pgtasks.contrib.testing.app import TestApp, setup_default_app
from pgtasks.contrib.testing.worker import TestWorkController, start_worker
from pgtasks.exceptions import TaskRevokedError
from pgtasks.message import new_id
from pgtasks.worker import crew, state
from pgtasks.worker.control import Panel, control_command, inspect_command
from tests.support.workers import eventually

pytestmark = pytest.mark.usefixtures("only_built_in_tasks")

Conn = psycopg.Connection[Any]
NODE = "w@h"


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    app = TestApp("controlled", broker=database_url)
    with setup_default_app(app):
        yield app


@pytest.fixture
def worker(app: Celery, tmp_path: Path) -> Iterator[TestWorkController]:
    """A prefork worker with one slot and two tasks: `add`, and `wait`, which begins and then waits for a gate;
    a stubborn one goes on waiting when it is to end."""

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="wait")
    def wait(name: str) -> str:
        (tmp_path / f"begun-{name}").touch()
        try:
            eventually((tmp_path / "gate").exists)
        finally:
            if name == "stubborn":
                eventually((tmp_path / "gate").exists)
        return name

    state.reset_state()
    with start_worker(app, pool="prefork", hostname=NODE, perform_ping_check=False) as worker:
        yield worker
        (tmp_path / "gate").touch()


def begin(app: Celery, tmp_path: Path, name: str = "task") -> Any:
    result = app.tasks["wait"].delay(name)
    eventually((tmp_path / f"begun-{name}").exists)
    return result


def ask(app: Celery, question: str, *args: Any, **kwargs: Any) -> Any:
    """The answer of the only worker."""
    answers = getattr(app.control.inspect(timeout=60), question)(*args, **kwargs)
    assert list(answers) == [NODE]
    return answers[NODE]


def told(app: Celery, command: str, *args: Any, **kwargs: Any) -> Any:
    """The reply of the only worker to an order."""
    (reply,) = getattr(app.control, command)(*args, reply=True, timeout=60, **kwargs)
    return reply[NODE]


# -- asking


def test_nobody_answers_where_nobody_works_and_nobody_is_waited_for(app: Celery) -> None:
    began = time.monotonic()

    assert app.control.ping(timeout=200) == []
    assert app.control.inspect(timeout=200).ping() is None
    assert time.monotonic() - began < 200


def test_every_worker_is_heard_and_no_time_is_lost_when_all_have_replied(app: Celery, database_url: str) -> None:
    heard: list[Any] = []
    with start_worker(app, hostname="a@h"), TestApp("two", broker=database_url) as other:
        with start_worker(other, hostname="b@h"):
            began = time.monotonic()
            pong = app.control.ping(timeout=200, callback=heard.append)
            took = time.monotonic() - began
            only = app.control.ping(destination=["b@h"], timeout=60)
            by_pattern = app.control.inspect(pattern="a@*", matcher="glob", timeout=60).ping()
            by_name = app.control.inspect(destination="b@h", timeout=60).ping()

    assert sorted(next(iter(reply)) for reply in pong) == ["a@h", "b@h"]
    assert heard == pong
    assert took < 200
    assert only == [{"b@h": {"ok": "pong"}}]
    assert by_pattern == {"a@h": {"ok": "pong"}}
    assert by_name == {"ok": "pong"}


@pytest.mark.parametrize("destination", [{"a@h"}, 7])
def test_a_destination_must_be_a_list(app: Celery, destination: Any) -> None:
    with pytest.raises(ValueError, match="destination must be a list/tuple"):
        app.control.broadcast("ping", destination=destination)


def test_letters_are_read_without_notifications_too(
    app: Celery, worker: TestWorkController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.consumer, "hear", list)

    assert ask(app, "ping") == {"ok": "pong"}


def hold(worker: TestWorkController, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have the worker hold a claim on `add` that no process has room for; gives its id."""
    monkeypatch.setattr(crew, "SURPLUS_S", 1e9)
    (running,) = worker.crew.in_hand()
    claim = running._replace(id=new_id(), name="add", payload=b"[[1,2],{},{}]")
    worker.call_soon(lambda: worker.crew.backlog.append(claim))
    eventually(lambda: len(worker.crew.in_hand()) == 2)
    return str(claim.id)


def test_a_task_is_told_of_where_it_stands(
    app: Celery, worker: TestWorkController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = datetime(2150, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    began = time.time()
    running = begin(app, tmp_path)
    claimed = hold(worker, monkeypatch)
    later = app.tasks["add"].apply_async((1,), {"y": 2}, eta=due, priority=3)

    (active,) = ask(app, "active")
    (safe,) = ask(app, "active", safe=True)
    (reserved,) = ask(app, "reserved")
    (scheduled,) = ask(app, "scheduled")

    assert began <= active.pop("time_start") <= time.time()
    assert active.pop("worker_pid") == worker.crew.children[0].pid
    delivery = {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}
    assert active == {
        "id": running.id, "name": "wait", "type": "wait", "args": ["task"], "kwargs": {}, "hostname": NODE,
        "acknowledged": True, "delivery_info": delivery,
    }  # fmt: skip
    assert (safe["args"], safe["kwargs"]) == ("('task',)", "{}")
    waiting = {"hostname": NODE, "name": "add", "type": "add", "time_start": None, "worker_pid": None}
    waiting["acknowledged"] = False
    assert reserved == {**waiting, "id": claimed, "args": [1, 2], "kwargs": {}, "delivery_info": delivery}
    assert scheduled == {
        "eta": "2150-01-02T03:04:05.000678+00:00",
        "priority": 6,
        "request": {
            **waiting, "id": later.id, "args": [1], "kwargs": {"y": 2}, "delivery_info": {**delivery, "priority": 3}
        },
    }  # fmt: skip
    by_id = ask(app, "query_task", running.id, claimed, later.id, "unknown")
    assert {key: known[0] for key, known in by_id.items()} == {
        running.id: "active", claimed: "reserved", later.id: "scheduled"
    }  # fmt: skip


def test_a_worker_tells_what_it_is_made_of(app: Celery, worker: TestWorkController) -> None:
    app.tasks["add"].delay(1, 2).get(timeout=60)

    stats = ask(app, "stats")

    assert stats["total"] == {"add": 1}
    assert (stats["pid"], stats["pool"]["max-concurrency"]) == (os.getpid(), 1)
    assert stats["pool"]["processes"] == [child.pid for child in worker.crew.children]
    assert stats["broker"]["transport"] == "postgresql"
    assert {"utime", "stime", "maxrss"} <= stats["rusage"].keys()
    assert ask(app, "clock")["clock"] > 0
    assert "settings ->" in ask(app, "report")["ok"]
    assert ask(app, "conf")["timezone"] == "UTC"
    assert ask(app, "conf")["deprecated_settings"] is None
    assert ask(app, "conf")["broker_url"].startswith("postgresql://")
    assert ask(app, "registered") == ["add", "wait"]
    assert ask(app, "registered", "name") == ["add [name=add]", "wait [name=wait]"]
    (queue,) = ask(app, "active_queues")
    assert (queue["name"], queue["exchange"]["name"], queue["routing_key"]) == ("celery", "celery", "celery")
    assert ask(app, "hello", "other@host", revoked={"some-id": [1, 2, 3]})["revoked"] == ["some-id"]
    assert ask(app, "revoked") == ["some-id"]


# -- commands of one's own


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Panel, "data", dict(Panel.data))
    monkeypatch.setattr(Panel, "meta", dict(Panel.meta))


@pytest.mark.usefixtures("commands")
def test_a_project_adds_commands_which_see_the_worker(app: Celery, worker: TestWorkController) -> None:
    @inspect_command(alias="hm", default_timeout=3, variadic="words", signature="[word1 [word2]]")
    def echo(state: Any, words: list[str]) -> Any:
        """Say it again."""
        return [state.app.main, state.hostname, state.consumer.controller is worker, words]

    @control_command(name="nothing")
    def say_nothing(state: Any) -> None:
        """Return None."""

    for name in ("echo", "hm"):
        (reply,) = app.control.broadcast(name, {"words": ["a"]}, reply=True, timeout=60)
        assert reply == {NODE: ["controlled", NODE, True, ["a"]]}
    assert Panel.meta["echo"][:5] == ("hm", "inspect", True, 3, "Say it again.")
    assert app.control.broadcast("nothing", reply=True, timeout=60) == [{NODE: None}]


@pytest.mark.usefixtures("commands")
def test_a_command_that_fails_is_answered_and_does_not_stop_the_worker(app: Celery, worker: TestWorkController) -> None:
    @control_command()
    def broken(state: Any) -> None:
        raise KeyError("in the command")

    def reply(command: str) -> Any:
        (said,) = app.control.broadcast(command, reply=True, timeout=60)
        return said[NODE]

    assert reply("broken") == {"error": "KeyError('in the command')"}
    assert reply("no_such_command") == {"error": "KeyError('no_such_command')"}
    assert ask(app, "ping") == {"ok": "pong"}


@pytest.mark.usefixtures("commands")
@pytest.mark.parametrize(
    ("clock", "command", "arguments"),
    [
        (1, "ping", b"\xff\0"),
        (1, "rate_limit", b"[1, 2]"),
        (1, "", b"{}"),
        ((1 << 63) - 1, "ping", b"{}"),
        (-5, "ping", b"{}"),
    ],
    ids=["no text", "no arguments", "no command", "a clock that would run over", "a clock below zero"],
)
def test_a_letter_that_anybody_may_have_written_does_not_end_the_worker(
    app: Celery, worker: TestWorkController, conn: Conn, clock: int, command: str, arguments: bytes
) -> None:
    conn.execute(
        "INSERT INTO pgtasks.letter (worker, clock, command, arguments, ticket)"
        " SELECT id, %s, %s, %s, %s FROM pgtasks.worker",
        [clock, command, arguments, new_id()],
    )

    assert ask(app, "ping") == {"ok": "pong"}
    assert conn.execute("SELECT count(*) FROM pgtasks.letter").fetchone() == (0,)
    assert app.clock.forward() < 1 << 40


def test_what_no_serializer_can_carry_is_told_as_text(app: Celery, worker: TestWorkController) -> None:
    @inspect_command()
    def odd(state: Any) -> Any:
        return {"lock": threading.Lock(), "since": timedelta(seconds=90)}

    (reply,) = app.control.broadcast("odd", reply=True, timeout=60)

    assert reply[NODE]["lock"].startswith("<unlocked _thread.lock")
    assert reply[NODE]["since"] == "0:01:30"


# -- orders about tasks


def test_workers_that_are_told_of_a_revocation_say_so(app: Celery, worker: TestWorkController) -> None:
    assert told(app, "revoke", "some-id") == {"ok": "tasks {'some-id'} flagged as revoked"}
    assert ask(app, "revoked") == ["some-id"]
    assert told(app, "revoke", "some-id", terminate=True) == {"ok": "terminate: tasks unknown"}


def test_a_running_task_is_terminated_by_a_letter(app: Celery, worker: TestWorkController, tmp_path: Path) -> None:
    running = begin(app, tmp_path)

    assert told(app, "terminate", running.id) == {"ok": f"terminate: {running.id}"}
    with pytest.raises(TaskRevokedError):
        running.get(timeout=60)


def test_a_task_that_does_not_end_when_it_is_terminated_is_killed(
    app: Celery, worker: TestWorkController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "GRACE_S", 0.1)
    stubborn = begin(app, tmp_path, "stubborn")

    stubborn.revoke(terminate=True)

    with pytest.raises(TaskRevokedError):
        stubborn.get(timeout=60)
    assert not (tmp_path / "gate").exists()


def test_a_letter_that_comes_after_its_task_was_terminated_by_its_row_says_so(
    app: Celery, worker: TestWorkController, tmp_path: Path
) -> None:
    running = begin(app, tmp_path)
    running.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        running.get(timeout=60)

    assert told(app, "terminate", running.id) == {"ok": f"terminate: {running.id}"}


def test_tasks_with_a_revoked_stamp_do_not_run_and_others_do(app: Celery, worker: TestWorkController) -> None:
    reply = told(app, "revoke_by_stamped_headers", {"batch": ["bad"]})
    good, bad, worse = (app.tasks["add"].s(1, 2) for _ in range(3))
    good.stamp(batch="good")
    bad.stamp(batch="bad")
    worse.stamp(batch=["good", "bad"])

    assert reply == {"ok": "headers {'batch': ['bad']} flagged as revoked, but not terminated"}
    assert good.delay().get(timeout=60) == 3
    for revoked in (bad.delay(), worse.delay()):
        with pytest.raises(TaskRevokedError):
            revoked.get(timeout=60)
        assert revoked.id in ask(app, "revoked")


def test_a_stamp_that_was_revoked_a_moment_ago_is_known_when_its_task_is_claimed(
    app: Celery, worker: TestWorkController, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The worker hears of the task and not of the letter.
    monkeypatch.setattr(worker.consumer, "hear", list)
    stamped = app.tasks["add"].s(1, 2)
    stamped.stamp(batch="bad")

    app.control.revoke_by_stamped_headers({"batch": "bad"})

    with pytest.raises(TaskRevokedError):
        stamped.delay().get(timeout=60)


def test_running_tasks_with_a_stamp_are_terminated(app: Celery, worker: TestWorkController, tmp_path: Path) -> None:
    stamped = app.tasks["wait"].s("stamped")
    stamped.stamp(batch="bad")
    running = stamped.delay()
    eventually((tmp_path / "begun-stamped").exists)

    missed = told(app, "revoke_by_stamped_headers", {"batch": "other"}, terminate=True)
    hit = told(app, "revoke_by_stamped_headers", {"batch": ["bad"]}, terminate=True)

    assert missed == {"ok": "headers {'batch': 'other'} were not terminated"}
    assert hit == {"ok": "headers {'batch': {'bad'}} revoked"}
    with pytest.raises(TaskRevokedError):
        running.get(timeout=60)


def test_new_time_limits_reach_the_processes(app: Celery, worker: TestWorkController) -> None:
    @app.task(name="limits", bind=True)
    def limits(self: Any) -> Any:
        return self.soft_time_limit, self.time_limit

    assert told(app, "time_limit", "limits", soft=60, hard=120) == {"ok": "time limits set successfully"}
    assert told(app, "time_limit", "no.such.task", hard=1) == {"error": "unknown task"}
    assert limits.delay().get(timeout=60) == [60, 120]


def test_an_order_that_cannot_be_followed_is_refused(app: Celery, worker: TestWorkController) -> None:
    assert told(app, "rate_limit", "add", "often") == {
        "error": "Invalid rate limit string: ValueError(\"could not convert string to float: 'often'\")"
    }
    assert told(app, "rate_limit", "no.such.task", "1/s") == {"error": "unknown task"}
    assert told(app, "autoscale", 3, 1) == {"error": "ValueError('Autoscale not enabled')"}
    assert told(app, "pool_restart") == {"error": "ValueError('Pool restarts not enabled')"}


# -- orders to workers


def test_a_worker_without_remote_control_obeys_nothing_but_revocations(app: Celery, conn: Conn) -> None:
    app.conf.worker_enable_remote_control = False
    with start_worker(app, hostname=NODE, perform_ping_check=False):
        assert app.control.ping(timeout=0.5) == []
        eventually(lambda: conn.execute("SELECT count(*) FROM pgtasks.letter").fetchone() == (0,))


def test_a_queue_is_consumed_from_when_it_is_added_until_it_is_cancelled(
    app: Celery, worker: TestWorkController
) -> None:
    assert told(app, "add_consumer", "mail") == {"ok": "add consumer mail"}
    assert {queue["name"] for queue in ask(app, "active_queues")} == {"celery", "mail"}
    assert app.tasks["add"].apply_async((1, 2), queue="mail").get(timeout=60) == 3

    assert told(app, "cancel_consumer", "mail") == {"ok": "no longer consuming from mail"}
    left = app.tasks["add"].apply_async((1, 2), queue="mail")
    assert app.tasks["add"].delay(3, 4).get(timeout=60) == 7
    assert left.state == "PENDING"


def test_a_worker_without_queues_waits_for_one(app: Celery, worker: TestWorkController) -> None:
    told(app, "cancel_consumer", "celery")
    waiting = app.tasks["add"].delay(1, 2)
    ask(app, "ping")

    told(app, "add_consumer", "celery")

    assert waiting.get(timeout=60) == 3


def test_a_pool_grows_and_shrinks_without_stopping_a_task(
    app: Celery, worker: TestWorkController, tmp_path: Path
) -> None:
    first = begin(app, tmp_path, "first")

    assert told(app, "pool_grow", 1) == {"ok": "pool will grow"}
    second = begin(app, tmp_path, "second")
    assert told(app, "pool_shrink", 1) == {"ok": "pool will shrink"}
    (tmp_path / "gate").touch()

    assert (first.get(timeout=60), second.get(timeout=60)) == ("first", "second")
    eventually(lambda: len(ask(app, "stats")["pool"]["processes"]) == 1)


def test_a_restart_of_the_pool_lets_the_processes_know_new_tasks(app: Celery, worker: TestWorkController) -> None:
    app.conf.worker_pool_restarts = True

    @app.task
    def late() -> str:
        return "known"

    assert told(app, "pool_restart", modules=[]) == {"ok": "reload started"}
    assert late.delay().get(timeout=60) == "known"


@pytest.mark.filterwarnings("ignore::pgtasks.exceptions.DuplicateTaskNameWarning")
def test_a_restart_of_the_pool_loads_modules_of_the_current_directory_again(
    app: Celery, worker: TestWorkController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.conf.worker_pool_restarts = True
    app.set_current()
    source = tmp_path / "reloadable_jobs.py"
    body = "from pgtasks import current_app\n@current_app.task(name='value')\ndef value():\n    return VALUE\nVALUE = "
    monkeypatch.chdir(tmp_path)  # as whoever starts a worker in the project's directory: it is not on sys.path
    monkeypatch.delitem(sys.modules, source.stem, raising=False)

    source.write_text(f"{body}1\n")
    assert told(app, "pool_restart", modules=[source.stem]) == {"ok": "reload started"}
    assert app.send_task("value").get(timeout=60) == 1
    source.write_text(f"{body}'another'\n")
    assert told(app, "pool_restart", modules=[source.stem], reload=True) == {"ok": "reload started"}
    assert app.send_task("value").get(timeout=60) == "another"

    source.write_text("this is no Python\n")
    assert "SyntaxError" in told(app, "pool_restart", modules=[source.stem], reload=True)["error"]
    assert app.send_task("value").get(timeout=60) == "another"


def test_a_shutdown_by_letter_lets_the_running_task_end(app: Celery, tmp_path: Path, conn: Conn) -> None:
    @app.task(name="wait")
    def wait(name: str) -> str:
        (tmp_path / f"begun-{name}").touch()
        eventually((tmp_path / "gate").exists)
        return name

    with start_worker(app, pool="prefork", hostname=NODE, perform_ping_check=False) as worker:
        running = begin(app, tmp_path)
        app.control.shutdown()
        eventually(lambda: worker.is_stopping)
        (tmp_path / "gate").touch()
        assert running.get(timeout=60) == "task"
        eventually(lambda: conn.execute("SELECT count(*) FROM pgtasks.worker").fetchone() == (0,))

    assert worker.exitcode == 0


# -- what monitoring code looks at in the worker's process


def test_the_state_of_a_worker_is_there_under_celerys_names(
    app: Celery, worker: TestWorkController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = begin(app, tmp_path)
    claimed = hold(worker, monkeypatch)

    assert [request.id for request in state.active_requests] == [running.id]
    assert {request.id for request in state.reserved_requests} == {running.id, claimed}
    assert state.requests[claimed].args == [1, 2]
    assert state.requests[claimed] in state.reserved_requests
    assert running.id not in state.successful_requests
    (tmp_path / "gate").touch()
    eventually(lambda: running.id in state.successful_requests)
    assert running.state == "SUCCESS"
    assert (state.total_count, state.all_total_count) == ({"wait": 1}, [1])
