"""A failure ends all that waits for it, each with the error that Celery gives it."""

import pytest

from pgtasks.canvas import Signature, chain, chord, group
from pgtasks.canvas.failing import Waiting, falls
from pgtasks.canvas.plan import plan
from pgtasks.exceptions import ChordError
from tests.canvas.recipes import App


@pytest.fixture
def s():
    app = App()
    return lambda name, **options: Signature(name, (), {}, options, app=app)


def fallen(canvas, failing):
    """What a failure of one task does to the others, by name: the error (`chord: ` before it if it is one), `!` after
    it if errbacks are called, and "silent"."""
    planned = plan(canvas)
    names = {node.id: node.name for node in planned.nodes}
    failed = next(node for node in planned.nodes if node.name == failing)
    waiting, level = [], {failed.id}
    while level:
        found = [(n, p) for n in planned.nodes for p in n.waits_for if p in level]
        waiting += [Waiting(node.id, pred, node.name, node.role, node.entry) for node, pred in found]
        level = {node.id for node, _ in found}
    return {names[fall.id]: shown(fall) for fall in falls(failed.id, failing, KeyError("boom"), waiting)}


def shown(fall):
    if fall.is_silent:
        return "silent"
    return f"{'chord' if isinstance(fall.error, ChordError) else 'same'}{'!' if fall.calls_errbacks else ''}"


def test_the_rest_of_a_chain_fails_with_the_same_error_and_calls_no_errbacks(s):
    assert fallen(chain(s("a"), s("b"), s("c")), "a") == {"b": "same", "c": "same"}


def test_the_body_of_a_chord_fails_with_a_chord_error_that_names_the_culprit(s):
    planned = plan(chord([s("a"), s("b")], s("body")))
    a, _, body = planned.nodes
    cause = KeyError("boom")

    (fall,) = falls(a.id, "id-of-a", cause, [Waiting(body.id, a.id, "id-of-body", body.role, body.entry)])

    assert isinstance(fall.error, ChordError)
    assert str(fall.error) == "Dependency id-of-a raised KeyError('boom')"
    assert fall.error.__cause__ is cause
    assert fall.calls_errbacks


def test_what_follows_a_failed_chord_fails_with_the_error_of_its_body(s):
    canvas = chain(s("z"), chord([s("a"), s("b")], s("c")), s("d"))

    assert fallen(canvas, "a") == {"c": "chord!", "d": "chord"}


def test_members_of_a_group_body_fail_with_the_error_itself_each_with_its_errbacks(s):
    assert fallen(chord([s("a"), s("b")], group(s("c"), s("d"))), "b") == {"c": "same!", "d": "same!"}


def test_a_chord_that_never_began_is_just_what_comes_next_in_the_chain(s):
    canvas = chain(s("z"), chord([s("a"), s("b")], s("c")), s("d"))

    assert fallen(canvas, "z") == {"a": "same", "b": "same", "c": "same", "d": "same"}


def test_a_chain_within_a_header_fails_the_body_wherever_it_breaks(s):
    canvas = chain(s("z"), chord([s("a") | s("b"), s("c")], s("body")))

    assert fallen(canvas, "a") == {"b": "same", "body": "chord!"}
    assert fallen(canvas, "b") == {"body": "chord!"}


def test_a_chord_around_a_chord_that_failed_fails_too_where_celery_leaves_it_pending(s):
    canvas = chord([chord([s("a"), s("b")], s("inner")), s("c")], s("outer"))

    assert fallen(canvas, "a") == {"inner": "chord!", "outer": "chord!"}


def test_a_body_that_is_a_chord_fails_as_a_whole_where_celery_leaves_it_pending(s):
    canvas = chord([s("a"), s("b")], chord([s("c")], s("inner")))

    assert fallen(canvas, "a") == {"c": "same!", "inner": "chord!"}


def test_a_callback_of_a_failed_task_does_not_happen_nor_does_what_follows_it(s):
    sig = s("a")
    sig.link(chord([s("b")], s("c")))

    assert fallen(sig, "a") == {"b": "silent", "c": "silent"}


def test_a_callback_that_fails_itself_fails_what_follows_it_aloud(s):
    sig = s("a")
    sig.link(chain(s("b"), s("c")))

    assert fallen(sig, "b") == {"c": "same"}


def test_a_body_that_several_fallen_tasks_lead_to_falls_once(s):
    header = [s("a") | group(s("b"), s("c") | s("d"))]
    planned = plan(chord(header, s("body")))
    assert len(planned.nodes[-1].waits_for) == 2

    assert fallen(chord(header, s("body")), "a") == {"b": "same", "c": "same", "d": "same", "body": "chord!"}


def test_around_a_chord_whose_body_is_a_chain_the_culprit_is_the_last_step_of_that_chain(s):
    inner = chain(group(s("a"), s("b")), s("first"), s("last"))
    planned = plan(chord([inner], s("outer")))
    named = {node.name: node for node in planned.nodes}
    waiting = [
        Waiting(named[name].id, named[pred].id, f"id-of-{name}", named[name].role, named[name].entry)
        for pred, name in [("a", "first"), ("first", "last"), ("last", "outer")]
    ]

    *_, outer = falls(named["a"].id, "id-of-a", KeyError("boom"), waiting)

    assert str(outer.error) == """Dependency id-of-last raised ChordError("Dependency id-of-a raised KeyError('boom')")"""
    assert outer.within == named["first"].id


def test_the_culprit_of_a_body_that_begins_with_a_group_is_the_task_that_failed_and_no_member(s):
    planned = plan(chord([s("a"), s("b")], chain(group(s("c"), s("d")), s("e"))))
    named = {node.name: node for node in planned.nodes}
    waiting = [
        Waiting(named[name].id, named[pred].id, f"id-of-{name}", named[name].role, named[name].entry)
        for pred, name in [("a", "c"), ("a", "d"), ("c", "e"), ("d", "e")]
    ]

    *_, end = falls(named["a"].id, "id-of-a", KeyError("boom"), waiting)

    assert str(end.error) == "Dependency id-of-a raised KeyError('boom')"
