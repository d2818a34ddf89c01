"""What a call's row says: the route's options, the task's own, and what nobody has said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from kombu.messaging import Producer

from pgtasks import Celery, chain, signals


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    with Celery("proj", set_as_current=False) as app:
        yield app


def row_of(conn: psycopg.Connection[Any], result: Any) -> tuple[str, int, dict[str, Any]]:
    found = conn.execute("SELECT queue, priority, options FROM pgtasks.message WHERE id = %s", [result.id]).fetchone()
    assert found is not None
    return found[0], found[1], json.loads(found[2])


def test_a_route_decides_more_than_the_queue(app: Celery, conn: psycopg.Connection[Any]) -> None:
    app.conf.task_routes = {"t": {"queue": "slow", "priority": 7, "tenant": "a"}}

    queue, priority, options = row_of(conn, app.send_task("t"))
    assert (queue, priority, options["properties"]) == ("slow", 7, {"tenant": "a"})

    queue, priority, options = row_of(conn, app.send_task("t", priority=2, queue="mine"))
    assert (queue, priority) == ("mine", 2)


def test_a_router_given_with_the_call_is_asked_instead(app: Celery, conn: psycopg.Connection[Any]) -> None:
    class Mine:
        def route(self, options: Any, name: str, args: Any, kwargs: Any, task_type: Any = None) -> Any:
            return {**options, "queue": f"{name}-{args[0]}"}

    assert row_of(conn, app.send_task("t", (3,), router=Mine()))[0] == "t-3"


def test_a_call_by_name_leaves_it_to_the_task_whether_its_result_is_kept(
    app: Celery, conn: psycopg.Connection[Any]
) -> None:
    @app.task(name="own", ignore_result=True)
    def own() -> None: ...

    @app.task(name="other")
    def other() -> None: ...

    said = {
        "by name": app.send_task("unknown here"),
        "refused": app.send_task("unknown here", ignore_result=True),
        "wanted": own.apply_async(ignore_result=False),
        "own": own.delay(),
        "default": other.delay(),
    }

    options = {key: row_of(conn, result)[2] for key, result in said.items()}
    assert options["by name"]["ignore_result"] is None
    assert options["refused"]["ignore_result"] is True
    assert options["own"]["ignore_result"] is True
    assert not options["wanted"].get("ignore_result", False)
    assert not options["default"].get("ignore_result", False)
    assert [key for key, result in said.items() if result.ignored] == ["refused", "own"]


def test_a_registered_task_lends_its_options_to_a_call_by_name(app: Celery, conn: psycopg.Connection[Any]) -> None:
    @app.task(name="t", time_limit=30, priority=4)
    def t() -> None: ...

    app.finalize()

    _, priority, options = row_of(conn, app.send_task("t"))
    assert (priority, options["timelimit"]) == (4, [30, None])

    _, priority, options = row_of(conn, app.send_task("t", time_limit=None, priority=1))
    assert priority == 1
    assert "timelimit" not in options


def test_relatives_keep_the_names_their_users_gave_them(app: Celery, conn: psycopg.Connection[Any]) -> None:
    _, _, options = row_of(conn, app.send_task("t", root_id="my-root", parent_id="my-parent"))

    assert (options["root_id"], options["parent_id"]) == ("my-root", "my-parent")
    canvas = chain(app.signature("a", task_id="first"), app.signature("b"))
    result = canvas.apply_async()
    _, _, options = row_of(conn, result)
    assert (options["root_id"], options["parent_id"]) == ("first", "first")


def test_a_canvas_does_not_carry_where_nobody_replies_to(app: Celery, conn: psycopg.Connection[Any]) -> None:
    _, _, options = row_of(conn, chain(app.signature("a"), app.signature("b")).apply_async())

    assert "reply_to" not in options


# -- from a thread and from a coroutine

CALLERS = {
    "thread": lambda task, *args, **options: task.apply_async(args, **options),
    "coroutine": lambda task, *args, **options: asyncio.run(task.aapply_async(args, **options)),
}


@pytest.fixture(params=CALLERS)
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return CALLERS[request.param]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What those see who watch calls, in its order: receivers of the two signals, and who wraps kombu's producer."""
    seen: list[str] = []

    def publish(self: Any, body: Any, *, headers: dict[str, Any], **_: Any) -> None:
        seen.append(f"kombu {headers['task']}")

    def before(sender: str, headers: dict[str, Any], **_: Any) -> None:
        headers["tenant"] = "a"
        seen.append(f"before {sender}")

    def after(sender: str, headers: dict[str, Any], **_: Any) -> None:
        seen.append(f"after {sender} of {headers['tenant']}")

    monkeypatch.setattr(Producer, "publish", publish)
    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    yield seen
    signals.before_task_publish.disconnect(before)
    signals.after_task_publish.disconnect(after)


def test_whoever_watches_calls_sees_those_of_coroutines_too_and_may_change_them(
    app: Celery, conn: psycopg.Connection[Any], call: Callable[..., Any], seen: list[str]
) -> None:
    add = app.task(lambda x, y: x + y, name="add")

    sent = call(add, 1, 2)

    assert seen == ["kombu add", "before add", "after add of a"]
    assert row_of(conn, sent)[2]["headers"] == {"tenant": "a"}


def test_a_call_with_callbacks_is_shown_once_for_each_of_its_tasks(
    app: Celery, call: Callable[..., Any], seen: list[str]
) -> None:
    add, show = app.task(lambda x, y: x + y, name="add"), app.task(lambda x: x, name="show")

    call(add, 1, 2, link=show.s())

    assert seen == ["kombu add", "before add", "before show", "after add of a", "after show of a"]


def test_a_call_for_which_another_task_stands_is_not_said_to_be_sent(
    app: Celery, call: Callable[..., Any], seen: list[str]
) -> None:
    once = app.task(lambda: None, name="once", unique=True)

    first, second = call(once), call(once)

    assert second.id == first.id
    assert seen == ["kombu once", "before once", "after once of a", "kombu once", "before once"]
