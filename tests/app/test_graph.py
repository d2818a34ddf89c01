"""A sent canvas can be seen, run again where it failed, and forked."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgtasks import Celery, chain, chord, group
from pgtasks.app import graph
from pgtasks.contrib.testing.worker import start_worker
from pgtasks.exceptions import ChordError, ImproperlyConfigured

#: Tasks of this module fail while their name is in here: they run in this process.
broken: set[str] = set()
ran: list[str] = []


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    app = Celery("graphs", broker=database_url, set_as_current=False)
    broken.clear()
    ran.clear()

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return step("add", x + y)

    @app.task(name="weak")
    def weak(x: int) -> int:
        return step("weak", x * 10)

    @app.task(name="collect")
    def collect(values: list[int]) -> int:
        return step("collect", sum(values))

    def step(name: str, value: int) -> int:
        ran.append(name)
        if name in broken:
            raise ValueError(f"{name} is broken")
        return value

    yield app
    app.close()


@pytest.fixture
def work(app: Celery) -> Callable[[], Any]:
    return lambda: start_worker(app, pool="solo", concurrency=1, perform_ping_check=False)


def sig(app: Celery, name: str, *args: Any) -> Any:
    return app.tasks[name].s(*args)


def test_a_chord_is_shown_with_its_order_and_states(app: Celery) -> None:
    result = chord([sig(app, "add", 1, 1), sig(app, "weak", 2)])(sig(app, "collect"))

    seen = graph.load(app, result.parent.results[0].id)

    states = {node.name: (node.state, seen.depths[node.id]) for node in seen.nodes}
    assert states == {"add": ("READY", 0), "weak": ("READY", 0), "collect": ("WAITING", 1)}
    assert seen.text().splitlines()[-1].split() == ["collect", "WAITING", result.id]
    (waiting,) = [node["waits_for"] for node in json.loads(seen.json()) if node["name"] == "collect"]
    assert waiting == [r.id for r in result.parent.results]
    assert seen.dot().count("->") == 2
    drawing = ElementTree.fromstring(seen.svg())
    assert len(drawing.findall(".//{*}rect")) == 3


def test_a_redrive_runs_only_what_failed_and_what_could_not_run_for_it(app: Celery, work: Callable[[], Any]) -> None:
    broken.add("weak")
    with work():
        result = chord([sig(app, "add", 1, 1), sig(app, "weak", 2)])(sig(app, "collect"))
        with pytest.raises((ValueError, ChordError)):
            result.get(timeout=60)
        ran.clear()
        broken.clear()

        assert result.redrive() == 2

        assert app.AsyncResult(result.id).get(timeout=60) == 22
    assert ran == ["weak", "collect"]
    assert result.redrive() == 0


def test_a_canvas_that_still_runs_is_not_redriven_under_its_workers(app: Celery) -> None:
    result = chain(sig(app, "add", 1, 1), sig(app, "weak"))()

    with pytest.raises(ImproperlyConfigured, match="2 of 2 tasks of this canvas have not ended"):
        result.redrive()


def test_a_fork_runs_from_one_task_on_with_the_results_of_those_before(app: Celery, work: Callable[[], Any]) -> None:
    with work():
        result = chain(sig(app, "add", 1, 1), sig(app, "weak"), sig(app, "add", 5))()
        assert result.get(timeout=60) == 25
        ran.clear()

        forked = result.fork(from_node=result.parent.id)

        assert forked.get(timeout=60) == 25
        assert forked.id != result.id
    assert ran == ["weak", "add"]


def test_a_fork_needs_the_results_of_what_came_before(app: Celery) -> None:
    result = chain(sig(app, "add", 1, 1), sig(app, "weak"))()

    with pytest.raises(ImproperlyConfigured, match="which is READY"):
        result.fork()


def test_revoking_a_canvas_ends_every_task_of_it(app: Celery, work: Callable[[], Any]) -> None:
    result = chain(group(sig(app, "add", 1, 1), sig(app, "weak", 2)), sig(app, "collect"))()

    result.revoke(canvas=True)

    assert {app.AsyncResult(r.id).state for r in (*result.parent.results, result)} == {"REVOKED"}
    with work():
        assert sig(app, "add", 1, 2).delay().get(timeout=60) == 3
    assert ran == ["add"]


def test_an_unknown_id_is_named(app: Celery) -> None:
    with pytest.raises(ImproperlyConfigured, match="No task nobody is known here"):
        app.AsyncResult("nobody").redrive()


@pytest.fixture
def triggered(app: Celery) -> Callable[[str], Any]:
    @app.task(name="kinds")
    def kinds(values: list[Any]) -> list[str]:
        return [value if isinstance(value, int) else type(value).__name__ for value in values]

    return lambda trigger: chord(
        [sig(app, "add", 1, 1), chain(sig(app, "weak", 2), sig(app, "add", 1)), sig(app, "add", 3, 3)],
        kinds.s().set(trigger=trigger),
    )


def test_a_body_that_runs_when_all_are_done_gets_the_errors_in_their_places(
    triggered: Callable[[str], Any], work: Callable[[], Any]
) -> None:
    broken.add("weak")
    with work():
        assert triggered("all_done")().get(timeout=60, follow_parents=False) == [2, "ValueError", 6]


def test_a_body_that_needs_any_success_runs_once_with_those_there_are(
    triggered: Callable[[str], Any], work: Callable[[], Any]
) -> None:
    broken.add("weak")
    with work():
        values = triggered("any")().get(timeout=60, follow_parents=False)

    assert values
    assert set(values) <= {2, 6}


def test_a_body_that_needs_any_success_fails_when_there_is_none(
    triggered: Callable[[str], Any], work: Callable[[], Any]
) -> None:
    broken.update(("weak", "add"))
    with work(), pytest.raises(ChordError, match="None of the 3 tasks it waits for has succeeded"):
        triggered("any")().get(timeout=60, follow_parents=False)


def test_an_unknown_trigger_is_refused_when_the_canvas_is_sent(triggered: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match="trigger='most' is not known"):
        triggered("most")()


@pytest.fixture
def changing(app: Celery) -> Callable[[str], Any]:
    """A chain whose first task returns 1 the first time, then 2, and whose second is made anew in the way named."""
    gave: list[int] = []

    @app.task(name="give")
    def give() -> int:
        gave.append(1)
        return len(gave)

    @app.task(name="made anew", bind=True, default_retry_delay=0)
    def made_anew(self: Any, x: int, how: str) -> int:
        if how == "retried" and not self.request.retries:
            raise self.retry()
        if how == "retried with other arguments" and not self.request.retries:
            raise self.retry(args=(x * 100, how))
        if how == "retried twice" and self.request.retries < 2:
            raise self.retry()
        if how == "replaced" and x < 10:
            raise self.replace(self.s(x * 10, how))
        return x

    return lambda how: chain(give.s(), made_anew.s(how), sig(app, "add", 5))


@pytest.mark.parametrize(
    ("how", "first", "second"),
    [
        ("retried", 6, 7),
        ("retried twice", 6, 7),
        ("retried with other arguments", 105, 205),
        ("replaced", 15, 25),
    ],
)
def test_a_fork_gives_a_task_that_was_made_anew_what_is_returned_this_time(
    changing: Callable[[str], Any], work: Callable[[], Any], how: str, first: int, second: int
) -> None:
    with work():
        result = changing(how)()
        assert result.get(timeout=60) == first

        forked = result.fork(from_node=result.parent.parent.id)

        assert forked.get(timeout=60) == second
        # From the task itself on, what came before is not run again.
        assert result.fork(from_node=result.parent.id).get(timeout=60) == first
