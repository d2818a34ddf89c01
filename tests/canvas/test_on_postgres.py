"""Canvases on a real Postgres: as rows, and run by a real worker."""

import json
import re
from pathlib import Path

import psycopg
import pytest

from pgtasks import Celery, canvas, chain, chord, group
from pgtasks.contrib.testing.worker import start_worker
from pgtasks.exceptions import ChordError, TaskSentBefore
from pgtasks.execution import Site, execute
from tests.canvas.recipes import Library
from tests.canvas.test_plan import ANSWERS
from tests.support.hands import Hand, back, done

DOCS = Path(__file__).parents[2] / "docs" / "canvas.md"


@pytest.fixture
def app(database_url):
    made = Celery("canvas", set_as_current=False)
    made.called = []

    @made.task(name="say", shared=False)
    def say(*args):
        return list(args)

    @made.task(name="fail")
    def fail(*args):
        raise KeyError("on purpose")

    @made.task(name="sorry")
    def sorry(task_id):
        return task_id

    @made.task(name="oops")
    def oops(request, exc, traceback):
        made.called.append((request.id, type(exc).__name__))

    yield made
    made.close()


@pytest.fixture
def say(app):
    return lambda *args, **options: app.tasks["say"].s(*args).set(**options)


@pytest.fixture
def worker(app):
    with start_worker(app, pool="solo", perform_ping_check=False):
        yield


# -- rows


def test_a_canvas_is_written_with_all_its_tasks_and_edges_before_anything_runs(say, conn):
    result = chain(say("a"), group(say("b"), say("c")), say("d")).delay()

    edges = conn.execute("SELECT pred, succ, position FROM pgtasks.edge").fetchall()
    assert len(edges) == 4
    assert [str(pred) for pred, succ, position in sorted(edges, key=lambda e: e[2]) if str(succ) == result.id] == [
        member.id for member in result.parent.results
    ]
    states = "SELECT state, count(*) FROM pgtasks.tasks GROUP BY state ORDER BY state"
    assert conn.execute(states).fetchall() == [("READY", 1), ("WAITING", 3)]


def test_a_canvas_rolled_back_with_the_callers_transaction_leaves_nothing(say, conn, database_url):
    with psycopg.connect(database_url) as mine:
        chord([say("a"), say("b")], say("c")).apply_async(conn=mine)
        mine.rollback()

    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (0,)
    assert conn.execute("SELECT count(*) FROM pgtasks.edge").fetchone() == (0,)


def test_a_canvas_with_arguments_that_cannot_be_serialised_leaves_nothing(say, conn):
    with pytest.raises(Exception, match="cannot be written as json"):
        chain(say("a"), say(object())).delay()

    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (0,)


def test_the_query_in_the_documentation_shows_what_waits(say, conn):
    (query,) = re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (say(1) | group(say(10), say(20)) | say("total")).delay()

    assert sorted(conn.execute(query).fetchall()) == [("say", 1, 1), ("say", 1, 1), ("say", 2, 2)]


def test_a_canvas_with_a_task_that_ended_in_another_one_runs_that_again(app, say, hand):
    shared = say("shared")
    shared.freeze()
    chain(say("before"), shared).delay()
    while claims := hand.claim():
        hand.settle(*fail_all(app, hand, claims))

    chain(shared, say("after")).delay()
    (claim,) = hand.claim()

    assert str(claim.id) == shared.id
    hand.settle(*fail_all(app, hand, [claim]))
    (after,) = hand.claim()
    assert after.input_values is not None


def test_a_canvas_with_a_task_that_another_one_still_runs_is_refused_instead_of_waiting_for_ever(say, hand, conn):
    shared = say("shared")
    shared.freeze()
    chain(say("before"), shared).delay()

    with pytest.raises(TaskSentBefore, match="has not ended"):
        chain(shared, say("after")).delay()

    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (2,)


def test_a_canvas_that_is_sent_again_since_the_answer_was_lost_changes_nothing(app, say, conn):
    canvas = chain(say("first"), say("second"))
    canvas.freeze()
    canvas.delay()

    canvas.delay()

    assert conn.execute("SELECT count(*), sum(pending) FROM pgtasks.waiting").fetchone() == (1, 1)
    assert conn.execute("SELECT count(*) FROM pgtasks.ready").fetchone() == (1,)


def test_a_frozen_canvas_that_is_sent_again_runs_again_once_all_of_it_has_ended(app, say, hand):
    canvas = chord([say("first"), say("second")], say("body"))
    canvas.freeze()
    before = canvas.delay()
    hand.settle(*map(done, hand.claim()))

    # Its body waits: nothing changes.
    assert canvas.delay().id == before.id
    (body,) = hand.claim()
    hand.settle(done(body))
    again = canvas.delay()

    assert again.id == before.id
    assert again.state == "PENDING"
    assert sorted(claim.name for claim in hand.claim()) == ["say", "say"]


def test_a_group_of_frozen_tasks_can_be_sent_again(app, say, hand):
    canvas = group(say("first"), chain(say("second"), say("third")))
    canvas.freeze()
    for _ in range(2):
        canvas.delay()
        while claims := hand.claim():
            hand.settle(*map(done, claims))

    assert canvas.freeze().successful()


# -- run


def test_canvases_return_what_celery_was_seen_to_return(app, worker):
    library = Library(canvas, app)
    asked = [(answer, library.cook(answer["recipe"]).apply_async(answer["args"])) for answer in ANSWERS]

    for answer, result in asked:
        returned = None if result is None else result.get(timeout=60)
        assert returned == answer["value"], json.dumps(answer["recipe"])


def test_a_failed_task_fails_what_waits_for_it_and_each_errback_is_called_once(app, say, worker):
    body = say("body").on_error(app.tasks["oops"].s())
    header = [app.tasks["fail"].s(), say("b")]

    result = chain(say("a"), chord(header, body), say("last")).delay()

    with pytest.raises(KeyError, match="on purpose"):
        result.get(timeout=60)
    assert isinstance(result.result, ChordError)
    assert isinstance(result.parent.result, ChordError)
    assert app.called == [(result.parent.id, "ChordError")]


@pytest.mark.filterwarnings("ignore:task_allow_error_cb_on_chord_header")
def test_an_errback_of_two_chords_one_in_the_header_of_the_other_is_called_once_also_if_a_chain_is_between(
    app, say, worker
):
    inner = chain(group(app.tasks["fail"].s(), say("b")), say("first"), say("last"))
    outer = chord([inner, say("c")], say("body"))
    outer.link_error(app.tasks["oops"].s())

    result = outer.delay()

    with pytest.raises(ChordError, match="on purpose"):
        result.get(timeout=60)
    assert [error for _, error in app.called] == ["ChordError"]


@pytest.fixture
def hand(app):
    return Hand(app.database)


def fail_all(app, hand, claims):
    """Run claims to their ends without storing these, as processes do that fail at the same moment."""
    return [execute(Site(app, hand.id, "w@h"), claim) for claim in claims]


def test_of_several_header_tasks_that_fail_at_once_only_one_calls_the_errbacks_of_the_body(app, say, hand):
    chord([app.tasks["fail"].s() for _ in range(3)], say("body").on_error(app.tasks["oops"].s())).delay()

    outcomes = fail_all(app, hand, hand.claim(3))

    assert len(app.called) == 1
    assert len(hand.settle(*outcomes)) == 3


def test_an_errback_is_called_again_when_the_failure_was_lost_with_its_worker(app, say, hand):
    chord([app.tasks["fail"].s()] * 2, say("body").on_error(app.tasks["oops"].s())).delay()
    first, second = hand.claim(2)
    fail_all(app, hand, [first])
    hand.settle(back(first))

    fail_all(app, hand, [second])
    (again,) = hand.claim(2)
    fail_all(app, hand, [again])

    assert len(app.called) == 2


def test_an_errback_is_called_by_another_when_the_first_failure_was_lost_and_became_a_success(app, say, hand):
    chord([app.tasks["fail"].s()] * 2, say("body").on_error(app.tasks["oops"].s())).delay()
    first, second = hand.claim(2)
    fail_all(app, hand, [first])
    hand.settle(done(first))

    fail_all(app, hand, [second])

    assert len(app.called) == 2


def test_an_errback_that_looks_its_task_up_finds_it_failed(app, hand):
    seen = []

    @app.task
    def look(request, exc, traceback):
        seen.append((app.AsyncResult(request.id).state, app.AsyncResult(request.id).result))

    app.tasks["fail"].apply_async(link_error=look.s())
    (outcome,) = fail_all(app, hand, hand.claim())

    ((state, error),) = seen
    assert (state, type(error)) == ("FAILURE", KeyError)
    assert len(hand.settle(outcome)) == 1


def test_the_children_of_a_step_are_the_group_that_it_has_called_and_not_its_tasks(app, say, worker):
    body = say("body").set(immutable=True)
    result = chain(say("a"), group(say("b"), chain(say("c"), say("d"))), body).delay()
    result.get(timeout=60)

    header = result.parent
    (called,) = header.parent.children
    assert [called.id, *(member.id for member in called.results)] == [header.id, *(each.id for each in header.results)]
    # An immutable body is called by none of the tasks of its header either.
    assert [member.children for member in header.results] == [[], []]


def test_a_step_that_was_retried_or_replaced_is_still_the_child_of_the_one_before(app, say, worker):
    @app.task(bind=True)
    def twice(self, *args):
        if self.request.retries == 0:
            raise self.retry(countdown=0)

    @app.task(bind=True)
    def swapped(self, *args):
        return self.replace(say("instead"))

    result = chain(say("a"), twice.s(), swapped.s(), group(say("b"), swapped.s())).delay()
    assert result.get(timeout=60) == [[["instead"], "b"], ["instead"]]

    third = result.parent
    assert [child.id for child in third.parent.children] == [third.id]
    assert [child.id for child in third.parent.parent.children] == [third.parent.id]
    (called,) = third.children
    assert [member.id for member in called.results] == [member.id for member in result.results]


@pytest.mark.parametrize("is_last", [True, False])
def test_a_task_is_replaced_by_a_chord_into_a_group_and_has_all_its_results(app, say, worker, is_last):
    @app.task(bind=True)
    def swapped(self):
        instead = chord([say("a")], chain(say("b"), group(say("c"), say("d"))))
        return self.replace(instead if is_last else chain(say("first"), instead))

    result = chain(swapped.s(), say("after")).delay()

    results, after = result.get(timeout=60)
    assert after == "after"
    assert [value[-1] for value in results] == ["c", "d"]


def test_the_parent_of_what_replaces_a_task_is_the_task_that_it_replaces(app, worker):
    @app.task(bind=True)
    def instead(self):
        return [self.request.id, self.request.parent_id]

    @app.task(bind=True)
    def swapped(self):
        return self.replace(instead.s())

    result = swapped.delay()

    assert result.get(timeout=60) == [result.id, result.id]


def test_a_task_that_joins_a_chord_which_has_failed_runs_as_the_others_of_the_header_do(app, say, worker):
    @app.task(bind=True)
    def widens(self):
        return self.add_to_chord(app.tasks["say"].s("added")).id

    result = chord([app.tasks["fail"].s(), widens.s()], say("body")).delay()
    with pytest.raises(ChordError):
        result.get(timeout=60, propagate=True, follow_parents=False)

    added = app.AsyncResult(result.parent.results[1].get(timeout=60))
    assert added.get(timeout=60) == ["added"]
    assert [child.id for child in result.parent.results[1].children] == [added.id]


def test_of_several_members_that_have_failed_the_first_of_the_group_raises(app, say, hand):
    @app.task
    def fail_with(label):
        raise ValueError(label)

    result = group(fail_with.s("first"), fail_with.s("second")).delay()
    first, second = sorted(hand.claim(2), key=lambda claim: str(claim.id) != result.results[0].id)
    for claim in (second, first):
        hand.settle(*fail_all(app, hand, [claim]))

    with pytest.raises(ValueError, match="first"):
        result.get(timeout=60)


def test_a_callback_of_a_failed_task_does_not_run(app, say, worker, conn):
    good, bad = say("good"), app.tasks["fail"].s()
    good.link(say("callback"))
    bad.link(say("never"))

    for sig in (good, bad):
        sig.delay().get(timeout=60, propagate=False)
    # What is sent last runs last: the callback has run when this has.
    say("done").delay().get(timeout=60)

    states = conn.execute("SELECT state, count(*) FROM pgtasks.tasks WHERE name = 'say' GROUP BY state")
    assert dict(states.fetchall()) == {"SUCCESS": 3, "IGNORED": 1}


def test_a_step_that_never_ran_shows_the_traceback_of_the_one_that_failed(app, say, worker):
    result = chain(app.tasks["fail"].s(), say("b"), say("c")).delay()

    with pytest.raises(KeyError):
        result.get(timeout=60)

    assert result.traceback.rstrip().endswith("KeyError: 'on purpose'")
    assert result.traceback == result.parent.traceback == result.parent.parent.traceback


def test_a_body_that_never_ran_shows_its_errbacks_as_children_and_why_its_chord_has_failed(app, say, worker):
    result = chord([say("a"), app.tasks["fail"].s()], say("body").on_error(app.tasks["sorry"].s())).delay()

    error = result.get(timeout=60, propagate=False)

    (group_of_errbacks,) = result.children
    assert group_of_errbacks.get(timeout=60) == [result.id]
    assert result.traceback.rstrip().endswith(f"ChordError: {error}")
    assert "KeyError: 'on purpose'" in result.traceback


def test_of_a_large_group_that_never_ran_not_every_member_keeps_a_traceback(app, say, worker, monkeypatch):
    monkeypatch.setattr("pgtasks.execution.settling.MAX_TRACEBACKS", 2)
    result = chain(app.tasks["fail"].s(), group(say(n) for n in range(5))).delay()

    with pytest.raises(KeyError):
        result.get(timeout=60)

    assert sum(member.traceback is not None for member in result) == 2
    assert all(member.state == "FAILURE" for member in result)
