"""A canvas that is wrong is refused when it is applied, or fails with the reason; it never waits for ever."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgtasks import Celery, chain, chord, group
from pgtasks.contrib.testing.worker import start_worker
from pgtasks.exceptions import (
    ChordError,
    ContentDisallowed,
    DecodeError,
    EncodeError,
    ImproperlyConfigured,
    InvalidTaskError,
    NotRegistered,
    TaskRevokedError,
    TaskSentBefore,
)

Work = Callable[[], Any]


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    app = Celery("bad", broker=database_url, set_as_current=False)

    @app.task(name="add")
    def add(x: Any, y: Any) -> Any:
        return x + y

    @app.task(name="total")
    def total(values: Any) -> Any:
        return sum(values)

    @app.task(name="echo")
    def echo(*args: Any) -> Any:
        return list(args)

    @app.task(name="fail")
    def fail(*args: Any) -> None:
        raise KeyError("on purpose")

    @app.task(name="make")
    def make() -> Any:
        return object()

    @app.task(name="compose")
    def compose() -> None:
        chain(echo.s(1), echo.s(object())).delay()

    @app.task(name="replace", bind=True)
    def replace(self: Any, sig: Any) -> None:
        raise self.replace(self.app.signature(sig))

    @app.task(name="grow", bind=True)
    def grow(self: Any, sig: Any) -> str:
        self.add_to_chord(self.app.signature(sig))
        return "grew"

    yield app
    app.close()


@pytest.fixture
def work(app: Celery) -> Work:
    return lambda: start_worker(app, pool="solo", concurrency=1, perform_ping_check=False)


@pytest.fixture
def t(app: Celery) -> Any:
    """The tasks as attributes."""

    class Tasks:
        def __getattr__(self, name: str) -> Any:
            return app.tasks[name]

    return Tasks()


def count(conn: psycopg.Connection[Any], table: str = "message") -> int:
    row = conn.execute(f"SELECT count(*) FROM pgtasks.{table}").fetchone()
    assert row is not None
    return int(row[0])


def error_of(result: Any, timeout: float = 20) -> BaseException:
    error = result.get(timeout=timeout, propagate=False, follow_parents=False)
    assert isinstance(error, BaseException)
    return error


# -- cycles


def _linked_to_itself(t: Any) -> Any:
    sig = t.echo.s(1)
    sig.link(sig)
    return sig


def _linked_to_each_other(t: Any) -> Any:
    one, other = t.echo.s(1), t.echo.s(2)
    one.link(other)
    other.link(one)
    return one


def _chain_in_itself(t: Any) -> Any:
    made = chain(t.echo.s(1), t.echo.s(2))
    made.tasks.append(made)
    return made


def _group_in_itself(t: Any) -> Any:
    made = group([t.echo.s(1), t.echo.s(2)])
    made.tasks.append(made)
    return made


def _chord_that_is_its_own_body(t: Any) -> Any:
    made = chord([t.echo.s(1)], t.echo.s(2))
    made.body = made
    return made


@pytest.mark.parametrize(
    "compose",
    [_linked_to_itself, _linked_to_each_other, _chain_in_itself, _group_in_itself, _chord_that_is_its_own_body],
)
def test_a_canvas_that_contains_itself_is_refused(
    compose: Callable[[Any], Any], t: Any, conn: psycopg.Connection[Any]
) -> None:
    with pytest.raises(ValueError, match="is nested too deeply to be sent, or contains itself"):
        compose(t).apply_async()

    assert count(conn) == 0


# -- ids


def test_two_tasks_with_one_id_in_a_canvas_are_refused(t: Any, conn: psycopg.Connection[Any]) -> None:
    sig = t.echo.s(1)
    sig.freeze()

    for canvas in (group([sig, sig]), chain(sig, t.add.s(1), sig), chord([sig], sig)):
        with pytest.raises(ValueError, match=r"Two tasks of the canvas have the id .*: 'echo', 'echo'"):
            canvas.apply_async()

    assert count(conn) == 0


@pytest.mark.parametrize("earlier", ["add", "fail"])
def test_a_member_whose_id_is_of_a_task_that_has_ended_runs_again_as_in_celery(
    earlier: str, app: Celery, t: Any, work: Work
) -> None:
    with work():
        app.tasks[earlier].apply_async((1, 1), task_id="same").get(timeout=60, propagate=False)

        result = chord([t.add.s(5, 5).set(task_id="same"), t.add.s(2, 2)])(t.total.s())

        assert result.get(timeout=60) == 14


def test_a_step_whose_id_is_of_a_task_that_has_not_ended_is_refused_as_nobody_would_release_the_next(
    t: Any, conn: psycopg.Connection[Any]
) -> None:
    t.add.apply_async((1, 1), task_id="same")

    with pytest.raises(TaskSentBefore, match="was sent before under the same id, and has not ended"):
        chain(t.add.s(1, 1).set(task_id="same"), t.add.s(2)).apply_async()

    assert count(conn) == 1


def test_a_canvas_that_is_sent_twice_is_one_canvas(t: Any, work: Work, conn: psycopg.Connection[Any]) -> None:
    canvas = chord([t.add.s(1, 1), t.add.s(2, 2)], t.total.s())
    canvas.freeze()

    first, second = canvas.apply_async(), canvas.apply_async()

    assert first.id == second.id
    assert count(conn) == 3
    with work():
        assert second.get(timeout=60) == 6


# -- parts that are no signatures


def test_a_task_where_signatures_are_wanted_is_refused_with_what_to_write_instead(t: Any) -> None:
    with pytest.raises(TypeError, match=r"Step 2 of the chain is .*, not a signature. Use task.s"):
        chain(t.echo.s(1), t.echo)
    for members in (t.echo, 5):
        with pytest.raises(TypeError, match=r"The members of the group are .*, neither a signature nor several"):
            group(members)


@pytest.mark.parametrize(
    "compose",
    [
        lambda t: group([t.echo.s(1), "echo"]),
        lambda t: group(member for member in (t.echo.s(1), None)),
        lambda t: chord([t.echo.s(1), 5], t.total.s()),
        lambda t: chain(t.echo.s(1), t.echo),
        lambda t: t.echo.s(1).set(link="echo"),
        lambda t: t.echo.s(1).set(link=[t.echo.s(), 5]),
        lambda t: chord([t.echo.s(1)], "total"),
        lambda t: t.echo.s(1).set(link_error=5),
        lambda t: group([t.echo.s(1).set(link_error=[5])]),
    ],
    ids=["member", "generated", "header", "step", "link", "links", "body", "link_error", "link_error of a member"],
)
def test_a_part_that_is_no_signature_is_refused(
    compose: Callable[[Any], Any], t: Any, conn: psycopg.Connection[Any]
) -> None:
    with pytest.raises(TypeError, match="not a signature"):
        compose(t).apply_async()

    assert count(conn) == 0


def test_arguments_that_a_later_step_does_not_take_are_refused_before_anything_runs(
    t: Any, conn: psycopg.Connection[Any]
) -> None:
    for canvas in (
        chain(t.add.s(1, 1), t.add.s(2, 3)),
        chain(t.add.s(1, 1), t.add.s(z=1)),
        chord([t.add.s(1, 1)], t.total.s(1)),
        group([t.add.s(1)]),
    ):
        with pytest.raises(TypeError):
            canvas.apply_async()

    assert count(conn) == 0


# -- what cannot be written


@pytest.mark.parametrize(
    "compose",
    [
        lambda t: chain(t.echo.s(1), t.echo.s(object())),
        lambda t: group(t.echo.s(value) for value in (1, object())),
        lambda t: chord([t.echo.s(1)], t.echo.s(object())),
        lambda t: t.echo.s(1).set(link=t.echo.s(object())),
        lambda t: t.echo.s(1).set(link_error=t.echo.s(object())),
        lambda t: chord([t.echo.s(1)], t.echo.s()).set(link_error=[t.echo.s(object())]),
    ],
    ids=["step", "member", "body", "link", "link_error", "errback of a chord"],
)
def test_a_partial_that_cannot_be_serialised_is_refused_and_leaves_nothing(
    compose: Callable[[Any], Any], t: Any, conn: psycopg.Connection[Any]
) -> None:
    with pytest.raises(EncodeError, match=r"The arguments of 'echo' cannot be written as json: .*Pass plain data"):
        compose(t).apply_async()

    assert count(conn) == count(conn, "edge") == count(conn, "waiting") == 0


def test_an_argument_given_late_that_cannot_be_serialised_is_refused(t: Any, conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(EncodeError):
        chain(t.echo.s(1), t.echo.s(2)).delay(object())

    assert count(conn) == 0


def test_a_task_that_sends_such_a_canvas_fails_with_the_reason(
    t: Any, work: Work, conn: psycopg.Connection[Any]
) -> None:
    with work():
        error = error_of(t.compose.delay())

    assert "cannot be written as json" in str(error)
    assert count(conn) == 1


def test_a_member_whose_result_cannot_be_written_fails_the_body_with_the_reason(t: Any, work: Work) -> None:
    with work():
        result = chord([t.add.s(1, 1), t.make.s()])(t.total.s())

        error = error_of(result)

    assert isinstance(error, ChordError)
    assert "Task 'make' returned a object that cannot be written as json" in str(error)


# -- what the worker does not have


def test_a_body_that_no_worker_knows_fails_and_so_does_what_follows(app: Celery, t: Any, work: Work) -> None:
    with work():
        body = app.signature("nobody.has.this").set(task_id="body")
        result = chain(group(t.add.s(1, 1), t.add.s(2, 2)), body, t.add.s(1))()

        assert isinstance(error_of(result), NotRegistered)
        assert isinstance(error_of(app.AsyncResult("body")), NotRegistered)
        assert result.parent.get(timeout=60) == [2, 4]


@pytest.mark.parametrize("place", ["member", "step", "link", "link_error"])
def test_a_missing_task_ends_wherever_it_is_in_a_canvas(
    place: str, app: Celery, t: Any, work: Work, conn: psycopg.Connection[Any]
) -> None:
    missing = app.signature("nobody.has.this")
    canvas = {
        "member": lambda: chord([t.add.s(1, 1), missing], t.total.s()),
        "step": lambda: chain(missing, t.echo.s()),
        "link": lambda: t.echo.s(1).set(link=missing),
        "link_error": lambda: t.fail.s(1).set(link_error=missing),
    }[place]()

    with work():
        result = canvas.apply_async()
        result.get(timeout=60, propagate=False, follow_parents=False)
        # What is sent last runs last.
        t.echo.delay().get(timeout=60)
    stuck = conn.execute("SELECT name, state FROM pgtasks.tasks WHERE state NOT IN ('SUCCESS', 'FAILURE')").fetchall()
    assert stuck == []
    row = conn.execute("SELECT state, result FROM pgtasks.tasks WHERE name = 'nobody.has.this'").fetchone()
    assert row is not None
    assert (row[0], "NotRegistered" in row[1]) == ("FAILURE", True)
    expected = {"member": ChordError, "step": NotRegistered, "link": list, "link_error": KeyError}[place]
    assert isinstance(result.result, expected)


def test_a_body_in_a_format_that_the_worker_refuses_fails_and_so_does_what_follows(t: Any, work: Work) -> None:
    with work():
        result = chain(chord([t.add.s(1, 1)], t.total.s().set(serializer="pickle")), t.echo.s())()

        assert isinstance(error_of(result), ContentDisallowed)
        assert isinstance(error_of(result.parent), ContentDisallowed)


def test_a_result_that_cannot_be_read_any_more_fails_the_body(
    t: Any, work: Work, conn: psycopg.Connection[Any]
) -> None:
    result = chord([t.add.s(1, 1), t.add.s(2, 2).set(queue="later")], t.echo.s().set(queue="later"))()
    with work():
        result.parent.results[0].get(timeout=60)
    conn.execute(r"UPDATE pgtasks.result SET value = '\xff00'")

    t.add.app.amqp.queues.select(["later"])
    with work():
        error = error_of(result)

    assert isinstance(error, DecodeError)


def test_a_body_whose_row_is_damaged_fails_instead_of_stopping_the_worker(
    t: Any, work: Work, conn: psycopg.Connection[Any]
) -> None:
    result = chain(t.add.s(1, 1), t.add.s(2), t.echo.s())()
    conn.execute(r"UPDATE pgtasks.message SET payload = '[1]' WHERE id = %s", [result.parent.id])

    with work():
        assert isinstance(error_of(result), ValueError | InvalidTaskError)
        assert t.add.delay(1, 2).get(timeout=60) == 3


# -- members that do not run


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_member_that_never_runs_fails_the_body_with_the_reason(how: str, t: Any, work: Work) -> None:
    late = t.add.s(2, 2).set(expires=-1) if how == "expired" else t.add.s(2, 2)
    result = chord([t.add.s(1, 1), late])(t.total.s())
    if how == "revoked":
        result.parent.results[1].revoke()

    with work():
        error = error_of(result)

    assert isinstance(error, ChordError)
    assert f"TaskRevokedError('{how}')" in str(error)
    assert isinstance(result.parent.results[1].result, TaskRevokedError)


def test_a_body_that_is_revoked_while_it_waits_ends_and_so_does_what_follows(app: Celery, t: Any, work: Work) -> None:
    body = t.total.s().set(task_id="body")
    result = chain(group(t.add.s(1, 1), t.add.s(2, 2)), body, t.echo.s())()
    app.AsyncResult("body").revoke()

    with work():
        assert isinstance(error_of(result), TaskRevokedError)
        assert result.parent.get(timeout=60) == [2, 4]


# -- replacements


def test_a_replacement_with_a_callback_calls_it_once_and_only_when_it_has_run(
    t: Any, work: Work, conn: psycopg.Connection[Any]
) -> None:
    sig = t.add.s(1, 1)
    sig.link(t.echo.s("callback"))

    with work():
        assert t.replace.delay(sig).get(timeout=60) == 2
        t.add.delay(1, 2).get(timeout=60)

    results = conn.execute("SELECT result FROM pgtasks.tasks WHERE name = 'echo'").fetchall()
    assert results == [('[2, "callback"]',)]


def test_a_replacement_with_the_id_of_another_task_fails_the_task(t: Any, work: Work) -> None:
    other = str(uuid4())
    with work():
        t.echo.apply_async((1,), task_id=other).get(timeout=60)

        error = error_of(t.replace.delay(t.add.s(1, 1).set(task_id=other)))

    assert isinstance(error, ImproperlyConfigured)
    assert f"has an id of its own, {other}" in str(error)


def test_a_replacement_whose_steps_ran_before_under_their_ids_runs_them_again(t: Any, work: Work) -> None:
    steps = chain(t.echo.s(1).set(task_id=str(uuid4())), t.echo.s(2))
    with work():
        assert t.replace.delay(steps).get(timeout=60) == [[1], 2]
        assert t.replace.delay(steps).get(timeout=60) == [[1], 2]


def test_a_replacement_whose_step_has_not_ended_yet_fails_the_task_instead_of_waiting(t: Any, work: Work) -> None:
    other = str(uuid4())
    t.echo.apply_async((1,), task_id=other, countdown=3600)
    with work():
        error = error_of(t.replace.delay(chain(t.echo.s(1).set(task_id=other), t.echo.s(2))))

    assert isinstance(error, TaskSentBefore)


def test_a_task_that_ran_before_joins_a_chord_and_does_not_hold_up_its_body(t: Any, work: Work) -> None:
    member = t.echo.s(1).set(task_id=str(uuid4()))
    with work():
        member.delay().get(timeout=60)

        assert chord([t.grow.s(member)], t.echo.s())().get(timeout=60) == [["grew", [1]]]


# -- eager


@pytest.mark.parametrize(
    ("apply", "error", "words"),
    [
        (lambda t: t.echo.apply_async((1,), link="text"), TypeError, "A callback of 'echo' is 'text', not a signature"),
        (lambda t: t.echo.apply_async((1,), link=[5]), TypeError, "A callback of 'echo' is 5, not a signature"),
        (lambda t: t.echo.apply_async((1,), link=t.add), TypeError, "A callback of 'echo' is <@task: add"),
        (lambda t: t.echo.apply_async((1,), link_error=5), TypeError, "An errback of 'echo' is 5, not a signature"),
        (lambda t: chord([t.echo.s(1)], 5)(), TypeError, "The body of the chord is 5, not a signature"),
        (lambda t: chord([t.echo.s(1)], t.echo)(), TypeError, "The body of the chord is <@task: echo"),
        (lambda t: chord([t.echo.s(1)])(None), ValueError, "The chord has no body"),
        (lambda t: chord(5, t.echo.s())(), TypeError, "The members of the header are 5"),
        (lambda t: group([1, 2])(), TypeError, "A member of the group is 1, not a signature"),
    ],
)
@pytest.mark.parametrize("is_eager", [True, False])
def test_what_is_no_signature_is_named_before_anything_runs(
    app: Celery, t: Any, apply: Any, error: type[Exception], words: str, is_eager: bool
) -> None:
    app.conf.task_always_eager = is_eager

    with pytest.raises(error, match=re.escape(words)):
        apply(t)


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("eta", 5),
        ("expires", [5]),
        ("countdown", [5]),
        ("countdown", "soon"),
        ("queue", 5),
        ("priority", "high"),
        ("task_id", 5),
        ("group_id", 5),
    ],
)
def test_an_option_of_the_wrong_type_is_named_and_nothing_is_sent(
    conn: psycopg.Connection[Any], t: Any, option: str, given: Any
) -> None:
    sig = t.echo.s(1).set(**{option: given})
    forms = (
        lambda: t.echo.apply_async((1,), **{option: given}),
        lambda: chain(t.echo.s(1), sig).apply_async(),
        lambda: group(t.echo.s(1), sig).apply_async(),
        lambda: asyncio.run(t.echo.aapply_async((1,), **{option: given})),
    )

    for send in forms:
        with pytest.raises(TypeError, match=re.escape(repr(given))):
            send()

    assert count(conn) == 0


def test_a_moment_that_cannot_be_read_is_named(t: Any) -> None:
    with pytest.raises(ValueError, match="'soon' is no moment"):
        t.echo.apply_async((1,), expires="soon")


def test_a_dict_that_names_no_task_is_no_signature(t: Any) -> None:
    with pytest.raises(TypeError, match="does not say which task"):
        chord([t.echo.s(1)])({"a": 1})

    with pytest.raises(TypeError, match=r"The body of the chord is \{'a': 1\}, a dict that does not say which task"):
        chord([t.echo.s(1)], {"a": 1}).apply()
