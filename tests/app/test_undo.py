"""A canvas that fails undoes what it had done: the last success first, each exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgtasks import Celery, chain, chord, group
from pgtasks.app import graph
from pgtasks.app.undoing import send_undos
from pgtasks.canvas.undoing import UNDO
from pgtasks.contrib.testing.worker import start_worker
from pgtasks.exceptions import ImproperlyConfigured

#: Tasks of this module fail while their argument is in here: they run in this process.
broken: set[Any] = set()
done: list[Any] = []

Conn = psycopg.Connection[Any]


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    app = Celery("undoing", broker=database_url, set_as_current=False)
    broken.clear()
    done.clear()

    @app.task(name="do", bind=True)
    def do(self: Any, what: str) -> str:
        if what in broken:
            raise ValueError(what)
        done.append(what)
        return f"{what} done"

    @app.task(name="collect")
    def collect(values: list[Any]) -> int:
        if "collect" in broken:
            raise ValueError("collect")
        return len(values)

    @app.task(name="undo")
    def undo(value: str, *more: Any) -> None:
        if f"undo {value}" in broken:
            raise ValueError(value)
        done.append(("undo", value, *more))

    @app.task(name="tidy")
    def tidy() -> None:
        done.append("tidy")

    @app.task(name="become", bind=True)
    def become(self: Any) -> None:
        self.replace(chain(step(app, "inner"), step(app, "inner end")))

    yield app
    app.close()


@pytest.fixture
def work(app: Celery) -> Callable[[], Any]:
    return lambda: start_worker(app, pool="solo", concurrency=1, perform_ping_check=False)


def step(app: Celery, what: str, *more: Any) -> Any:
    """A task with an undo."""
    return app.tasks["do"].si(what).undo(app.tasks["undo"].s(*more))


def bare(app: Celery, what: str) -> Any:
    return app.tasks["do"].si(what)


def finish(app: Celery, work: Callable[[], Any], result: Any) -> list[tuple[str, str]]:
    """Have everything run; gives the tasks of the canvas that undo it, with their states."""
    with work():
        result = result.results[0] if hasattr(result, "results") else result
        nodes = eventually_ended(app, result.id)
    return [(node.name, node.state) for node in nodes.nodes if node.id in nodes.undoing]


def eventually_ended(app: Celery, task_id: str) -> graph.CanvasGraph:
    for _ in range(20):
        seen = graph.load(app, task_id)
        unfinished = [node for node in seen.nodes if node.result_state is None]
        if not unfinished:
            return seen
        app.AsyncResult(unfinished[-1].public_id).get(timeout=60, propagate=False)
    raise AssertionError(seen.text())


def test_a_chain_that_fails_is_undone_the_last_success_first(app: Celery, work: Callable[[], Any]) -> None:
    broken.add("ship")
    result = chain(step(app, "charge"), step(app, "reserve", 7), bare(app, "ship"))()

    undoing = finish(app, work, result)

    assert done == ["charge", "reserve", ("undo", "reserve done", 7), ("undo", "charge done")]
    assert undoing == [(UNDO, "SUCCESS"), ("undo", "SUCCESS"), ("undo", "SUCCESS")]
    assert result.state == "FAILURE"


def test_a_canvas_that_succeeds_undoes_nothing(app: Celery, work: Callable[[], Any]) -> None:
    result = chain(step(app, "charge"), step(app, "ship"))()

    assert finish(app, work, result) == [(UNDO, "SUCCESS")]
    assert done == ["charge", "ship"]
    assert result.redrive() == 0


def test_an_immutable_undo_does_not_get_what_its_task_returned(app: Celery, work: Callable[[], Any]) -> None:
    broken.add("ship")
    result = chain(app.tasks["do"].si("charge").undo(app.tasks["tidy"].si()), bare(app, "ship"))()

    finish(app, work, result)

    assert done == ["charge", "tidy"]


def test_a_member_that_succeeds_after_the_failure_is_undone_too(app: Celery, work: Callable[[], Any]) -> None:
    broken.add("b")
    result = chord([step(app, "a"), bare(app, "b"), step(app, "c")], app.tasks["collect"].s())()

    finish(app, work, result)

    assert done[:2] == ["a", "c"]
    assert done[2:] == [("undo", "c done"), ("undo", "a done")]


def test_a_group_of_nothing_but_equal_calls_is_undone_too(app: Celery, work: Callable[[], Any]) -> None:
    broken.add("b")

    finish(app, work, group(step(app, what) for what in "abc")())

    assert done == ["a", "c", ("undo", "c done"), ("undo", "a done")]


def test_a_group_is_undone_when_one_member_that_nothing_follows_fails(app: Celery, work: Callable[[], Any]) -> None:
    broken.add("b")
    result = group(step(app, "a"), chain(step(app, "b1"), bare(app, "b")))()

    finish(app, work, result)

    assert set(done[2:]) == {("undo", "b1 done"), ("undo", "a done")}


def test_a_failure_that_the_bodys_trigger_allows_for_undoes_nothing(app: Celery, work: Callable[[], Any]) -> None:
    broken.add("b")
    body = app.tasks["collect"].s().set(trigger="all_done")
    result = chord([step(app, "a"), bare(app, "b")], body)()

    assert finish(app, work, result) == [(UNDO, "SUCCESS")]
    assert done == ["a"]


def test_a_body_that_fails_undoes_its_header_and_a_callback_that_fails_undoes_nothing(
    app: Celery, work: Callable[[], Any]
) -> None:
    broken.update(("collect", "callback"))
    finish(app, work, chord([step(app, "a"), step(app, "b")], app.tasks["collect"].s())())
    assert sorted(done[2:]) == [("undo", "a done"), ("undo", "b done")]
    done.clear()

    last = bare(app, "last")
    last.link(bare(app, "callback"))
    finish(app, work, chain(step(app, "first"), last)())
    assert done == ["first", "last"]


def test_undos_within_nested_canvases_are_all_found(app: Celery, work: Callable[[], Any]) -> None:
    broken.add("end")
    inner = chord([step(app, "x"), chain(step(app, "y"), bare(app, "z"))], app.tasks["collect"].s())
    result = chain(step(app, "first"), group(inner, step(app, "w")), app.tasks["collect"].s(), bare(app, "end"))()

    finish(app, work, result)

    undone = [each for each in done if isinstance(each, tuple)]
    assert {value for _, value in undone} == {"first done", "x done", "y done", "w done"}
    assert undone[-1] == ("undo", "first done")


def test_an_undo_that_fails_does_not_keep_the_others_from_running_and_a_redrive_runs_it_again(
    app: Celery, work: Callable[[], Any]
) -> None:
    broken.update(("ship", "undo b done"))
    result = chain(step(app, "a"), step(app, "b"), bare(app, "ship"))()

    undoing = finish(app, work, result)
    assert done == ["a", "b", ("undo", "a done")]
    assert sorted(undoing) == [(UNDO, "SUCCESS"), ("undo", "FAILURE"), ("undo", "SUCCESS")]

    broken.clear()
    assert result.redrive() == 1
    finish(app, work, result)
    assert done == ["a", "b", ("undo", "a done"), ("undo", "b done")]


def test_what_was_undone_can_neither_be_redriven_nor_forked(app: Celery, work: Callable[[], Any]) -> None:
    broken.add("ship")
    result = chain(step(app, "a"), bare(app, "ship"))()
    finish(app, work, result)

    with pytest.raises(ImproperlyConfigured, match="was undone"):
        result.redrive()
    with pytest.raises(ImproperlyConfigured, match="was undone"):
        result.fork()


def test_a_failed_canvas_with_nothing_to_undo_can_be_redriven_and_is_undone_when_it_fails_again(
    app: Celery, work: Callable[[], Any]
) -> None:
    broken.update(("a", "ship"))
    result = chain(step(app, "a"), bare(app, "ship"))()
    assert finish(app, work, result) == [(UNDO, "IGNORED")]

    broken.remove("a")
    assert result.redrive() == 3
    finish(app, work, result)

    assert done == ["a", ("undo", "a done")]


def test_a_fork_undoes_what_it_has_done_itself(app: Celery, work: Callable[[], Any]) -> None:
    result = chain(step(app, "a"), step(app, "b"), bare(app, "c"))()
    finish(app, work, result)
    done.clear()
    broken.add("c")

    for _ in range(2):
        forked = result.fork(from_node=result.parent.id)
        finish(app, work, forked)

    assert done == ["b", ("undo", "b done")] * 2


def test_a_canvas_that_is_revoked_is_undone(app: Celery, work: Callable[[], Any]) -> None:
    with work():
        result = chain(step(app, "a"), bare(app, "b").set(countdown=1000))()
        result.parent.get(timeout=60)
    result.revoke(canvas=True)

    finish(app, work, result)

    assert done == ["a", ("undo", "a done")]
    assert result.state == "REVOKED"


def test_what_a_task_is_replaced_by_is_undone_by_itself_and_then_what_came_before(
    app: Celery, work: Callable[[], Any]
) -> None:
    broken.add("inner end")
    result = chain(step(app, "first"), app.tasks["become"].si())()

    with work():
        assert result.get(timeout=60, propagate=False)
        eventually_ended(app, result.id)

    assert sorted(map(str, done)) == sorted(
        map(str, ["first", "inner", ("undo", "inner done"), ("undo", "first done")])
    )


def test_sending_the_undos_again_sends_nothing_new(app: Celery, work: Callable[[], Any], conn: Conn) -> None:
    broken.add("ship")
    result = chain(step(app, "a"), step(app, "b"), bare(app, "ship"))()
    finish(app, work, result)
    row = conn.execute(
        "SELECT id, convert_from(payload, 'utf8')::jsonb FROM pgtasks.message WHERE name = %s", [UNDO]
    ).fetchone()
    assert row is not None
    before = conn.execute("SELECT count(*) FROM pgtasks.message").fetchone()

    again = send_undos(app, str(row[0]), *row[1][0])

    assert len(again) == 2
    assert {UUID(each).int & 1023 for each in again} == {row[0].int & 1023}
    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == before
    assert conn.execute("SELECT count(*) FROM pgtasks.ready").fetchone() == (0,)


def test_the_task_that_undoes_waits_in_the_queue_of_the_last_task_and_is_nobodys_child(
    app: Celery, work: Callable[[], Any], conn: Conn
) -> None:
    app.conf.task_routes = {"collect": {"queue": "far"}}
    result = chain(group(step(app, "a"), step(app, "b")), app.tasks["collect"].s())()

    rows = conn.execute("SELECT queue, trigger FROM pgtasks.message WHERE name = %s", [UNDO]).fetchall()

    assert rows == [("far", "all_done")]
    with work():
        assert result.parent.results[0].get(timeout=60) == "a done"
        assert not result.parent.results[0].children


def test_a_task_alone_has_nothing_to_undo(app: Celery, work: Callable[[], Any], conn: Conn) -> None:
    step(app, "a").delay()
    chain(step(app, "b"))()

    assert conn.execute("SELECT name FROM pgtasks.message").fetchall() == [("do",), ("do",)]
    assert conn.execute("SELECT count(*) FROM pgtasks.message WHERE options::text LIKE '%undo%'").fetchone() == (0,)


def test_eager_calls_undo_nothing(app: Celery) -> None:
    broken.add("b")

    assert chain(step(app, "a"), bare(app, "b")).apply().state == "FAILURE"

    assert done == ["a"]


def test_undos_survive_being_written_down_as_json(app: Celery, work: Callable[[], Any]) -> None:
    broken.add("ship")
    canvas = chain(step(app, "a"), bare(app, "ship"))

    result = app.signature(app.tasks["do"].si("x").app.signature(dict(canvas.clone()))).apply_async()
    finish(app, work, result)

    assert done == ["a", ("undo", "a done")]


def test_undos_that_cannot_work_are_refused_before_anything_is_sent(app: Celery, conn: Conn) -> None:
    do = app.tasks["do"].si("a")
    with pytest.raises(TypeError, match="An undo must be a signature of one task"):
        do.undo(chain(do, do))
    with pytest.raises(TypeError, match="An undo must be a signature of one task"):
        do.undo("undo")
    with pytest.raises(TypeError, match="What an undo is given to must be a signature of one task"):
        chain(do, do).undo(do)
    with pytest.raises(TypeError, match="tidy"):
        chain(app.tasks["do"].si("a").undo(app.tasks["tidy"].s()), do)()

    followed = app.tasks["undo"].s()
    followed.link(do)
    with pytest.raises(ValueError, match="has callbacks"):
        chain(app.tasks["do"].si("a").undo(followed), do)()

    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (0,)
