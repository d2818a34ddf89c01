"""What signatures do on their own: merging, linking, running, and staying what they are."""

import asyncio
import copy
import json
import pickle
from types import SimpleNamespace

import pytest

from pgtasks import _state, canvas
from pgtasks.canvas import Signature, chain, chord, chunks, group, maybe_signature, signature, xmap, xstarmap
from pgtasks.exceptions import CPendingDeprecationWarning
from tests.canvas.recipes import App, Result


class Task:
    """What signatures ask of a task."""

    sends_plainly = True

    def __init__(self, app, name="proj.add"):
        self.app, self.name = app, name
        self.sent = []
        self.ran = []

    def __call__(self, *args, **kwargs):
        return sum(args, *kwargs.values())

    def AsyncResult(self, task_id):
        return Result(task_id)

    def apply_async(self, args, kwargs, **options):
        self.sent.append((args, kwargs, options))
        return SimpleNamespace(get=lambda: self(*args))

    async def aapply_async(self, args, kwargs, **options):
        return self.apply_async(args, kwargs, **options)

    def apply(self, args, kwargs, **options):
        self.ran.append((args, options))
        return SimpleNamespace(get=lambda propagate=True: self(*args), state="SUCCESS")

    def _prepare_call(self, args, kwargs, shadow, options):
        return args, kwargs, shadow, {"queue": "own", **options}


@pytest.fixture
def app():
    made = App()
    _state.set_default_app(made)
    return made


@pytest.fixture
def add(app):
    task = app.tasks["proj.add"] = Task(app)
    return task


@pytest.fixture
def s(app, add):
    return lambda *args, **options: Signature(add, args, {}, options, app=app)


# -- merging


def test_later_arguments_come_first_and_options_are_merged(s, add):
    s(2, queue="q").apply_async((1,), {"k": 3}, priority=5, countdown=None)

    assert add.sent == [((1, 2), {"k": 3}, {"queue": "q", "priority": 5})]


def test_an_immutable_signature_takes_options_but_no_arguments(s, add):
    s(2).set(immutable=True).apply_async((1,), {"k": 3}, priority=5)

    assert add.sent == [((2,), {}, {"priority": 5})]


def test_stamps_and_the_place_in_a_group_cannot_be_changed_by_a_later_call(s, add):
    s(group_id="g", stamped_headers=["who"], who="me").apply_async(group_id="other", who="you")

    assert add.sent == [((), {}, {"group_id": "g", "stamped_headers": ["who"], "who": "me"})]


def test_a_task_that_is_not_registered_is_sent_by_name(app):
    Signature("unknown", (1,), app=app).delay(0)

    assert app.sent == [("unknown", (0, 1), {}, {})]


def test_a_clone_shares_nothing_that_can_be_changed(s):
    original = s(1, link=[s(2)])
    before = json.dumps(original)

    clone = original.clone(kwargs={"k": 1})
    clone.link(s(3))
    clone.kwargs["more"] = 1
    clone.options["link"][0]["options"]["queue"] = "q"

    assert json.dumps(original) == before


def test_replace_takes_only_what_is_given(s):
    replaced = s(1, queue="q").replace(args=(5,))

    assert (replaced.args, replaced.options) == ((5,), {"queue": "q"})


# -- links


def test_an_equal_callback_is_linked_once(s):
    sig = s(1)
    sig.link(s(2))
    sig.link(s(2))

    assert sig.options["link"] == [s(2)]


def test_link_returns_the_callback_and_on_error_the_signature(s):
    sig, callback = s(1), s(2)

    assert sig.link(callback) is callback
    assert sig.link_error(callback) is callback
    assert sig.on_error(callback) is sig
    assert sig.flatten_links() == [sig, callback]


def test_a_single_callback_given_as_an_option_becomes_a_list_when_another_is_added(s):
    sig = s(1, link=s(2))
    sig.extend_list_option("link", s(3))

    assert sig.options["link"] == [s(2), s(3)]


def test_an_errback_of_a_chord_reaches_the_header_only_when_the_setting_says_so(s, app):
    sig = chord([s(1)], s())
    with pytest.warns(CPendingDeprecationWarning):
        sig.link_error(s(9))
    assert ["link_error" in task.options for task in (sig.tasks[0], sig.body)] == [False, True]

    app.conf.task_allow_error_cb_on_chord_header = True
    sig.link_error(s(9))
    assert sig.tasks[0].options["link_error"] == [s(9, immutable=True)]


def test_a_callback_of_a_group_is_called_by_its_first_member_without_the_result(s):
    sig = group(s(1), s(2))
    sig.link(s(9))

    assert sig.tasks[0].options["link"][0].immutable
    assert "link" not in sig.tasks[1].options


# -- running


def test_calling_a_signature_calls_the_task_here_and_now(s, add):
    assert s(2)(1) == 3
    assert add.sent == []


def test_inverting_a_signature_sends_it_and_waits(s):
    assert ~s(2, 2) == 4


def test_an_eager_chain_hands_results_on(s, app):
    app.conf.task_always_eager = True

    result = chain(s(1, 1), s(2), s(3)).apply_async()

    assert (result.get(), result.parent.get(), result.parent.parent.get()) == (7, 4, 2)


def test_an_eager_chain_stops_after_a_task_that_was_ignored(s, add, app):
    result = Signature("stop", app=app)
    stop = app.tasks["stop"] = Task(app, "stop")
    stop.apply = lambda *args, **options: SimpleNamespace(state="IGNORED")

    assert chain(result, s(1)).apply().state == "IGNORED"
    assert add.ran == []


def test_an_eager_chord_runs_its_body_with_the_list_of_results(s, app):
    app.conf.task_always_eager = True
    app.GroupResult = lambda id, results: SimpleNamespace(get=lambda propagate: [r.get() for r in results])
    total = app.tasks["total"] = Task(app, "total")

    chord([s(1, 1), s(2, 2)], Signature("total", app=app)).apply_async()

    assert total.ran == [(([2, 4],), {})]


def test_a_chain_of_nothing_is_not_sent(app):
    assert chain(app=app)() is None
    assert app.plans == []


def test_the_options_of_the_task_itself_reach_the_tasks_of_a_canvas(s, app):
    chain(s(1), s(2, queue="q")).apply_async()

    assert [node.options["queue"] for node in app.plans[0].nodes] == ["own", "q"]


# -- maps


def test_a_map_is_one_task_that_is_routed_as_the_task_it_calls(s, app):
    add_many = app.tasks["celery.map"] = Task(app, "celery.map")
    sig = s()

    xmap(sig, iter([1, 2]), app=app).apply_async(priority=3)

    assert add_many.sent == [((), {"task": sig, "it": [1, 2]}, {"route_name": "proj.add", "priority": 3})]


def test_chunks_are_a_group_of_starmaps(s, app):
    app.tasks["celery.starmap"] = Task(app, "celery.starmap")

    chunks(s(), zip(range(5), range(5), strict=True), 2, app=app).apply_async()

    assert [node.kwargs["it"] for node in app.plans[0].nodes] == [
        [(0, 0), (1, 1)],
        [(2, 2), (3, 3)],
        [(4, 4)],
    ]


def test_maps_show_what_they_call(s):
    assert repr(xmap(s(), [1, 2])) == "[proj.add(x) for x in [1, 2]]"
    assert repr(xstarmap(s(), [(1, 2)])) == "[proj.add(*x) for x in [(1, 2)]]"


# -- coroutines


async def awaited(value):
    return value


@pytest.mark.parametrize("compose", [lambda s: s(1), lambda s: chain(s(1), s(2)), lambda s: chord([s(1)], s(2))])
def test_every_canvas_can_be_sent_by_a_coroutine(compose, s, app, add):
    app.aenqueue_plan = lambda plan, connection=None: awaited(app.plans.append(plan))

    asyncio.run(compose(s).aapply_async())

    assert len(app.plans) + len(add.sent) == 1


def test_a_canvas_is_written_in_the_transaction_of_the_caller(s, app):
    seen = []
    app.enqueue_plan = lambda plan, connection: seen.append(connection)

    chain(s(1), s(2)).apply_async(conn="mine")
    group(s(1), s(2)).apply_async(using="replica")

    assert seen == ["mine", "replica"]


# -- a dict among dicts


@pytest.mark.parametrize("through", [copy.copy, lambda sig: pickle.loads(pickle.dumps(sig))])
def test_a_copy_of_a_canvas_is_a_canvas_again(through, s):
    for sig in (s(1), chain(s(1), s(2)), group(s(1)), chord([s(1)], s(2))):
        copied = through(sig)
        assert (type(copied), copied) == (type(sig), sig)


def test_a_signature_is_found_again_in_what_json_keeps(s):
    kept = json.loads(json.dumps(chord([s(1)], chain(s(2), s(3)))))

    again = maybe_signature(kept)

    assert type(again) is canvas._chord
    assert type(again.body) is canvas._chain


def test_maybe_signature_leaves_nothing_alone():
    assert maybe_signature(None) is None


def test_a_registered_type_of_the_users_own_survives_cloning(app):
    @Signature.register_type("loud")
    class Loud(Signature):
        @classmethod
        def from_dict(cls, d, app=None):
            return cls(d, app=app)

    try:
        assert type(Loud("shout", subtask_type="loud", app=app).clone()) is Loud
    finally:
        del Signature.TYPES["loud"]


def test_signature_makes_one_of_a_name_a_dict_or_another(s):
    assert signature("proj.add", args=(1,)) == s(1)
    assert signature(dict(s(1))) == s(1)
    original = s(1)
    assert signature(original) == original
    assert signature(original) is not original


def test_a_generator_stays_unread_until_the_group_is_sent(s, app):
    read = []
    members = (read.append(number) or s(number) for number in range(10))

    sig = chord(group(members), s())
    assert len(read) < 3

    sig.apply_async()
    assert len(read) == 10
