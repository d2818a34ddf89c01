"""A part of a canvas runs again with what comes before it this time, whatever its tasks had become meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgtasks import Celery, chain, chord, group
from pgtasks.app import graph, rerun
from pgtasks.contrib.testing.worker import start_worker
from pgtasks.exceptions import ImproperlyConfigured

#: What tasks of this module do, since they run in this process.
broken: set[str] = set()
ran: list[str] = []


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    app = Celery("rerunning", broker=database_url, set_as_current=False)
    broken.clear()
    ran.clear()
    gave: list[int] = []

    def step(name: str, value: Any) -> Any:
        ran.append(name)
        if name in broken:
            raise ValueError(f"{name} is broken")
        return value

    @app.task(name="give")
    def give() -> int:
        """1 the first time, then 2."""
        gave.append(1)
        return step("give", len(gave))

    @app.task(name="ten")
    def ten(x: int) -> int:
        return step("ten", x * 10)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return step("add", x + y)

    @app.task(name="seen")
    def seen(*args: Any) -> int:
        return step("seen", 0)

    @app.task(name="total")
    def total(values: list[Any]) -> Any:
        return step("total", sum(value if isinstance(value, int) else -1000 for value in values))

    @app.task(name="becomes", bind=True)
    def becomes(self: Any, x: Any, what: str) -> Any:
        ran.append("becomes")
        if what.startswith("total"):
            x = [value if isinstance(value, int) else -1000 for value in x]
        raise self.replace(KINDS[what](app, x))

    @app.task(name="tries", bind=True, default_retry_delay=0)
    def tries(self: Any, values: list[Any], end: str) -> Any:
        if not self.request.retries:
            raise self.retry()
        return step(end, sum(value if isinstance(value, int) else -1000 for value in values))

    @app.task(name="widens", bind=True)
    def widens(self: Any, x: int) -> int:
        self.add_to_chord(app.tasks["ten"].s(x))
        return step("widens", x)

    yield app
    app.close()


def sig(app: Celery, name: str, *args: Any) -> Any:
    return app.tasks[name].s(*args)


#: What a task that got `x` can be replaced by.
KINDS: dict[str, Callable[[Celery, Any], Any]] = {
    "chain": lambda app, x: chain(sig(app, "ten", x), sig(app, "add", 1)),
    "chord": lambda app, x: chord([sig(app, "ten", x), sig(app, "add", x, 1)], sig(app, "total")),
    "group": lambda app, x: group(sig(app, "ten", x), sig(app, "add", x, 1)) | sig(app, "total"),
    "task with callback": lambda app, x: sig(app, "add", x, 1).on_error(sig(app, "seen")).set(link=[sig(app, "seen")]),
    "twice": lambda app, x: chain(sig(app, "ten", x), sig(app, "becomes", "chain")),
    "inner": lambda app, x: chain(sig(app, "becomes", x, "chain"), sig(app, "add", 1)),
    "total": lambda app, x: sig(app, "total", x),
    "totals": lambda app, x: chain(sig(app, "total", x), sig(app, "add", 1)),
}


@pytest.fixture
def work(app: Celery) -> Callable[[], Any]:
    return lambda: start_worker(app, pool="solo", concurrency=1, perform_ping_check=False)


def names_after(app: Celery, result: Any) -> list[str]:
    """The names of the tasks of the fork, or original, that a result belongs to."""
    seen = graph.load(app, result.id)
    key = next(node.id for node in seen.nodes if node.public_id == result.id)
    return sorted(node.name for node in seen.nodes if node.id in seen.same_fork(key))


# -- forks over what was replaced by a canvas


@pytest.mark.parametrize(
    ("what", "first", "second"),
    [
        ("chain", 11, 21), ("chord", 12, 23), ("group", 12, 23), ("task with callback", 2, 3), ("twice", 101, 201),
        ("inner", 12, 22),
    ],
)  # fmt: skip
def test_a_fork_from_before_a_replaced_task_has_it_replaced_anew(
    app: Celery, work: Callable[[], Any], what: str, first: int, second: int
) -> None:
    with work():
        result = chain(sig(app, "give"), sig(app, "becomes", what), sig(app, "add", 0))()
        assert result.get(timeout=60) == first
        original, once = names_after(app, result), sorted(ran)
        ran.clear()

        forked = result.fork(from_node=result.parent.parent.id)

        assert forked.get(timeout=60) == second
        # Nothing of the first replacement runs beside the second.
        assert names_after(app, forked) == names_after(app, result) == original
    assert sorted(ran) == once


@pytest.mark.parametrize("what", ["chain", "chord", "task with callback", "twice", "inner"])
def test_a_fork_from_a_replaced_task_runs_it_as_it_was_first_called(
    app: Celery, work: Callable[[], Any], what: str
) -> None:
    with work():
        result = chain(sig(app, "give"), sig(app, "becomes", what), sig(app, "add", 0))()
        value = result.get(timeout=60)
        once = sorted(ran)
        ran.clear()

        assert result.fork(from_node=result.parent.id).get(timeout=60) == value
    assert sorted([*ran, "give"]) == once


def test_a_task_without_inputs_that_was_replaced_is_forked_as_it_was_first_called(
    app: Celery, work: Callable[[], Any]
) -> None:
    with work():
        result = sig(app, "becomes", 3, "chain").delay()
        assert result.get(timeout=60) == 31
        ran.clear()

        assert result.fork().get(timeout=60) == 31
    assert ran == ["becomes", "ten", "add"]


def test_a_fork_from_within_a_replacement_goes_on_from_there(app: Celery, work: Callable[[], Any]) -> None:
    with work():
        result = chain(sig(app, "give"), sig(app, "becomes", "chain"), sig(app, "add", 0))()
        assert result.get(timeout=60) == 11
        (inner,) = (node for node in graph.load(app, result.id).nodes if node.name == "ten")
        ran.clear()

        forked = result.fork(from_node=inner.public_id)

        assert forked.get(timeout=60) == 11
        assert ran == ["ten", "add", "add"]
        # A fork of the fork is not led astray by what the task was in the original.
        (inner_copy,) = (
            node for node in graph.load(app, forked.id).nodes if node.name == "ten" and node.id != inner.id
        )
        assert forked.fork(from_node=inner_copy.public_id).get(timeout=60) == 11


def test_a_fork_from_within_what_was_replaced_once_more_says_where_to_begin(
    app: Celery, work: Callable[[], Any]
) -> None:
    with work():
        result = chain(sig(app, "give"), sig(app, "becomes", "twice"), sig(app, "add", 0))()
        assert result.get(timeout=60) == 101
    inner = next(node for node in graph.load(app, result.id).nodes if node.name == "ten")

    with pytest.raises(ImproperlyConfigured, match=f"Fork from task {result.parent.id}, which replaces itself anew"):
        result.fork(from_node=inner.public_id)


def test_a_fork_copies_no_other_fork(app: Celery, work: Callable[[], Any]) -> None:
    with work():
        result = chord([sig(app, "ten", 1), sig(app, "ten", 2)], sig(app, "total"))()
        assert result.get(timeout=60) == 30
        first, second = (member.id for member in result.parent.results)
        assert result.fork(from_node=first).get(timeout=60) == 30
        ran.clear()

        forked = result.fork(from_node=second)

        assert forked.get(timeout=60) == 30
        assert ran == ["ten", "total"]
        assert names_after(app, result) == ["ten", "ten", "total"]


def test_a_fork_of_a_task_that_added_to_its_chord_counts_what_it_adds_once(
    app: Celery, work: Callable[[], Any]
) -> None:
    with work():
        result = chord([sig(app, "widens", 1), sig(app, "ten", 2)], sig(app, "total"))()
        assert result.get(timeout=60) == 31

        forked = result.fork(from_node=result.parent.results[0].id)

        assert forked.get(timeout=60) == 31


def test_the_task_before_one_that_was_replaced_by_a_canvas_still_has_that_one_as_its_child(
    app: Celery, work: Callable[[], Any]
) -> None:
    with work():
        result = chain(sig(app, "give"), sig(app, "becomes", "twice"), sig(app, "add", 0))()
        result.get(timeout=60)

    assert [child.id for child in result.parent.parent.children] == [result.parent.id]


def test_a_task_that_replaces_itself_again_and_again_does_not_grow(app: Celery, work: Callable[[], Any]) -> None:
    sizes: list[int] = []

    @app.task(name="counts", bind=True)
    def counts(self: Any, x: int, left: int) -> int:
        (node,) = (node for node in graph.load(app, self.request.id).nodes if node.public_id == self.request.id)
        sizes.append(len(node.options or b""))
        if left:
            raise self.replace(chain(sig(app, "ten", 0), counts.s(left - 1)))
        return x

    with work():
        assert chain(sig(app, "give"), counts.s(6))().get(timeout=60) == 0

    assert sizes[-1] - sizes[2] < 10


# -- forks and redrives of what has expired


def test_what_has_expired_runs_when_it_is_forked_or_redriven(app: Celery, work: Callable[[], Any]) -> None:
    result = chain(sig(app, "give"), sig(app, "ten").set(expires=0.001))()
    with work():
        assert isinstance(result.get(timeout=60, propagate=False), BaseException)

        assert result.redrive() == 1

        assert app.AsyncResult(result.id).get(timeout=60) == 10
        assert result.fork().get(timeout=60) == 10


# -- redrives of bodies that ran although members had failed


def all_done(app: Celery, body: Any) -> Any:
    return chord([sig(app, "ten", 1), sig(app, "add", 1, 1)], body.set(trigger="all_done"))


@pytest.mark.parametrize("breaks", [True, False], ids=["failed", "succeeded"])
@pytest.mark.parametrize("body", ["total", "tries", "becomes a task", "becomes a canvas"])
def test_a_body_that_ran_with_errors_gets_what_the_redriven_members_return(
    app: Celery, work: Callable[[], Any], body: str, breaks: bool
) -> None:
    bodies = {
        "total": sig(app, "total"), "tries": sig(app, "tries", "total"),
        "becomes a task": sig(app, "becomes", "total"), "becomes a canvas": sig(app, "becomes", "totals"),
    }  # fmt: skip
    more = 1 if body == "becomes a canvas" else 0
    broken.add("ten")
    if breaks:
        broken.add("total")
    with work():
        result = all_done(app, bodies[body])()
        seen = result.get(timeout=60, follow_parents=False, propagate=False)
        assert isinstance(seen, ValueError) if breaks else seen == -998 + more
        broken.clear()
        original = names_after(app, result)

        # What a canvas was made of that replaced the body is no part of it any more.
        assert result.redrive() == 2

        assert app.AsyncResult(result.id).get(timeout=60, follow_parents=False) == 12 + more
        assert names_after(app, result) == original
        assert result.redrive() == 0


def test_what_follows_a_body_that_runs_again_runs_again(app: Celery, work: Callable[[], Any]) -> None:
    broken.add("ten")
    with work():
        result = chain(all_done(app, sig(app, "total")), sig(app, "add", 5))()
        assert result.get(timeout=60, follow_parents=False, propagate=False) == -993
        broken.clear()
        ran.clear()

        assert result.redrive() == 3

        assert app.AsyncResult(result.id).get(timeout=60) == 17
    assert ran == ["ten", "total", "add"]


def test_a_body_that_needed_one_success_and_had_it_keeps_its_result(app: Celery, work: Callable[[], Any]) -> None:
    broken.add("ten")
    with work():
        result = chord([sig(app, "add", 1, 1), sig(app, "ten", 1)], sig(app, "total").set(trigger="any"))()
        value = result.get(timeout=60, follow_parents=False, propagate=False)
        assert value in (2, -998)
        assert isinstance(result.parent.results[1].get(timeout=60, propagate=False), ValueError)
        broken.clear()
        ran.clear()

        assert result.redrive() == 1

        assert app.AsyncResult(result.parent.results[1].id).get(timeout=60) == 10
        assert app.AsyncResult(result.id).get(timeout=60) == value
    assert ran == ["ten"]


def test_a_replacement_that_failed_is_redriven_where_it_failed(app: Celery, work: Callable[[], Any]) -> None:
    broken.add("ten")
    with work():
        result = chain(sig(app, "give"), sig(app, "becomes", "chain"), sig(app, "add", 0))()
        assert isinstance(result.get(timeout=60, propagate=False), ValueError)
        broken.clear()
        ran.clear()

        assert result.redrive() == 3

        assert app.AsyncResult(result.id).get(timeout=60) == 11
    assert ran == ["ten", "add", "add"]


def test_a_member_that_failed_after_it_had_added_to_its_chord_adds_once(app: Celery, work: Callable[[], Any]) -> None:
    broken.add("widens")
    with work():
        result = chord([sig(app, "widens", 1), sig(app, "ten", 2)], sig(app, "total"))()
        assert isinstance(result.get(timeout=60, propagate=False), Exception)
        broken.clear()
        app.tasks["give"].delay().get(timeout=60)

        assert result.redrive() == 2

        assert app.AsyncResult(result.id).get(timeout=60) == 31


def test_a_canvas_that_replaces_a_body_which_waits_for_all_to_end_needs_successes_itself(
    app: Celery, work: Callable[[], Any]
) -> None:
    broken.add("ten")
    with work():
        result = chord([sig(app, "add", 1, 1)], sig(app, "becomes", "chain").set(trigger="all_done"))()

        assert isinstance(result.get(timeout=60, propagate=False, follow_parents=False), ValueError)
    assert ran == ["add", "becomes", "ten"]


def test_a_redrive_of_the_original_leaves_a_fork_alone(app: Celery, work: Callable[[], Any]) -> None:
    broken.add("total")
    with work():
        result = chord([sig(app, "ten", 1), sig(app, "add", 1, 1)], sig(app, "total"))()
        assert isinstance(result.get(timeout=60, propagate=False), ValueError)
        forked = result.fork(from_node=result.parent.results[0].id)
        assert isinstance(forked.get(timeout=60, propagate=False), ValueError)
        broken.clear()
        ran.clear()

        assert result.redrive() == 1

        assert app.AsyncResult(result.id).get(timeout=60) == 12
        assert app.AsyncResult(forked.id).state == "FAILURE"
    assert ran == ["total"]


# -- at the same moment as others


def test_a_fork_is_refused_when_what_it_reads_is_sent_anew_at_this_moment(
    app: Celery, work: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with work():
        header = [sig(app, "ten", 1).set(task_id="first"), sig(app, "ten", 2).set(task_id="second")]
        result = chord(header, sig(app, "total"))()
        assert result.get(timeout=60) == 30
    seen = graph.load(app, result.id)
    chain(sig(app, "ten", 1).set(task_id="second"), sig(app, "add", 1))()
    monkeypatch.setattr(rerun, "known", lambda *_: seen)

    with pytest.raises(ImproperlyConfigured, match="sent or redriven at this moment"):
        result.fork(from_node="first")


def test_what_was_sent_anew_keeps_its_last_canvas_from_being_redriven_with_too_few_inputs(
    app: Celery, work: Callable[[], Any]
) -> None:
    broken.add("total")
    with work():
        result = chord([sig(app, "ten", 1).set(task_id="first"), sig(app, "ten", 2)], sig(app, "total"))()
        assert isinstance(result.get(timeout=60, propagate=False), ValueError)
        again = chain(sig(app, "ten", 1).set(task_id="first"), sig(app, "add", 1))()
        assert again.get(timeout=60) == 11
    broken.clear()

    with pytest.raises(ImproperlyConfigured, match="'total' needs the result of task .*, which is gone"):
        result.redrive()
    assert again.redrive() == 0
