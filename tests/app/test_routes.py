"""Calls go to the queues that Celery's router would choose, whatever form `task_routes` has."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from kombu import Exchange, Queue
from kombu.common import Broadcast

from pgtasks import Celery
from pgtasks.exceptions import QueueNotFound
from tests.app.twin import Library, transcript

Program = Callable[[Library], Any]
PROGRAMS: list[Program] = []


def program(fun: Program) -> Program:
    PROGRAMS.append(fun)
    return fun


def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
    """A router function, found by its dotted name."""
    return {"queue": f"q-{args[0]}", "priority": 9} if name == "by.args" else None


class OldStyle:
    """A router class as before Celery 4, found by its dotted name."""

    def route_for_task(self, task: str, args: Any = None, kwargs: Any = None) -> Any:
        return "old" if task.startswith("old") else None


def shown(options: Any) -> Any:
    return {
        key: (value.name, value.exchange.name, value.exchange.type, value.routing_key) if key == "queue" else value
        for key, value in sorted(options.items())
    }


ROUTES: list[Any] = [
    None,
    {"a.b": "one", "c.*": {"queue": "two", "routing_key": "r"}, re.compile(r"d\.\d+"): {"queue": "three"}},
    [{"a.b": "one"}, {"a.b": "never", "*": "rest"}],
    ([("a.*", {"queue": "first"}), ("a.b", {"queue": "second"})],),
    "tests.app.test_routes:route",
    ["tests.app.test_routes:OldStyle", route],
    OldStyle(),
    {"a.b": {"exchange": "ex", "routing_key": "only.key"}},
    {"a.b": {"queue": "declared", "priority": 5, "expires": 3}},
]


@program
def every_form_of_routes(lib: Library) -> None:
    calls = [
        ("a.b", (1,), {}),
        ("c.d", (), {}),
        ("d.12", (), {}),
        ("old.x", (), {}),
        ("by.args", (7,), {}),
        ("z", (), {}),
    ]
    for routes in ROUTES:
        app = lib.Celery("proj", set_as_current=False, task_routes=routes)
        app.conf.task_queues = [
            Queue("declared", Exchange("dex", type="topic"), routing_key="d.#"),
            Queue("celery"),
        ]
        for name, args, kwargs in calls:
            for options in (
                {},
                {"queue": "mine"},
                {"queue": None, "priority": None},
                {"routing_key": "k", "priority": 1},
            ):
                lib.note(name, shown(app.amqp.router.route(dict(options), name, args, kwargs)))


@program
def declared_queues(lib: Library) -> None:
    forms: list[Any] = [
        None,
        [Queue("a"), Queue("b", Exchange("bx", type="topic"), routing_key="b.#", alias="bee")],
        {
            "a": {"exchange": "ax", "exchange_type": "direct"},
            "b": {"binding_key": "bk"},
            "c": {"routing_key": "ck"},
        },
    ]
    for queues in forms:
        for settings in (
            {},
            {"task_default_queue": "mine", "task_default_exchange": "mx", "task_default_routing_key": "mk"},
        ):
            app = lib.Celery("proj", set_as_current=False, task_queues=queues, **settings)
            found = app.amqp.queues
            lib.note([shown({"queue": queue}) for _, queue in sorted(found.items())], sorted(found.consume_from))
            lib.note(shown({"queue": found["unknown"]}), sorted(found.consume_from), "unknown" in found)
            found.select_add("later", routing_key="l")
            lib.note(sorted(found.consume_from))
            found.select(["a", "unknown"])
            lib.note(sorted(found.consume_from))
            found.select("a")
            found.select_add("more")
            found.deselect(["a", "absent"])
            found.deselect(None)
            lib.note(
                sorted(found.consume_from), found.format(indent=4), found.format(indent=2, indent_first=False).strip()
            )


@program
def a_queue_by_its_alias(lib: Library) -> None:
    app = lib.Celery("proj", set_as_current=False, task_queues=[Queue("b", alias="bee")])
    lib.note(app.amqp.queues["bee"].name)
    app.amqp.queues.deselect(["bee"])
    lib.note(sorted(app.amqp.queues.consume_from))


@program
def queues_that_must_be_declared(lib: Library) -> None:
    app = lib.Celery("proj", set_as_current=False, task_create_missing_queues=False)
    lib.note(app.amqp.queues["celery"].name)
    for call in (
        lambda: app.amqp.queues["nope"],
        lambda: app.amqp.router.route({"queue": "nope"}, "t"),
        lambda: app.select_queues(["nope"]),
    ):
        try:
            call()
        except KeyError as exc:
            lib.note(type(exc).__name__, "nope" in str(exc))


@pytest.mark.parametrize("run", PROGRAMS, ids=lambda run: run.__name__)
def test_routing_is_celerys(run: Program) -> None:
    expected = transcript("celery", run)

    assert transcript("pgtasks", run) == expected


# -- where it leads in Postgres


@pytest.fixture
def app() -> Celery:
    return Celery(
        "proj",
        set_as_current=False,
        task_queues=[
            Queue("celery"),
            Queue("feeds", Exchange("news", type="topic"), routing_key="feed.#"),
            Queue("images", Exchange("news", type="topic"), routing_key="*.image"),
            Queue("direct", Exchange("direct-ex", type="direct"), routing_key="dk"),
            Queue("everybody", Exchange("fan", type="fanout")),
            Broadcast("broadcast"),
        ],
    )


def where(app: Celery, **options: Any) -> Any:
    return tuple(app.amqp.destination(app.amqp.router.route(options, "task")))


@pytest.mark.parametrize(
    ("options", "destination"),
    [
        ({}, (("celery",), "", "celery")),
        ({"queue": "other"}, (("other",), "", "other")),
        ({"queue": "feeds"}, (("feeds",), "news", "feed.#")),
        ({"exchange": "news", "routing_key": "feed.sports"}, (("feeds",), "news", "feed.sports")),
        ({"exchange": "news", "routing_key": "feed"}, (("feeds",), "news", "feed")),
        ({"exchange": "news", "routing_key": "cat.image"}, (("images",), "news", "cat.image")),
        ({"exchange": "news", "routing_key": "feed.image"}, (("feeds", "images"), "news", "feed.image")),
        ({"exchange": "direct-ex", "routing_key": "dk"}, (("direct",), "direct-ex", "dk")),
        ({"exchange": "fan", "routing_key": "any"}, (("everybody",), "fan", "any")),
        ({"exchange": "nobody", "routing_key": "listens"}, (("celery",), "nobody", "listens")),
        (
            {"exchange": Exchange("news", type="topic"), "routing_key": "x.image"},
            (("images",), "news", "x.image"),
        ),
    ],
)
def test_an_exchange_and_a_routing_key_lead_to_the_queues_bound_to_them(
    app: Celery, options: dict[str, Any], destination: Any
) -> None:
    assert where(app, **options) == destination


def test_changed_routes_are_followed_at_once(app: Celery) -> None:
    assert where(app)[0] == ("celery",)

    app.conf.task_routes = {"task": "new"}
    assert where(app)[0] == ("new",)

    app.conf.update(task_routes={"task": "newer"})
    assert where(app)[0] == ("newer",)

    app.conf.task_routes["task"] = "newest"
    app.amqp.flush_routes()
    assert where(app)[0] == ("newest",)


def test_an_undeclared_queue_is_refused_with_a_way_out() -> None:
    app = Celery("proj", set_as_current=False, task_create_missing_queues=False)

    with pytest.raises(QueueNotFound, match=r"task_queues.*task_create_missing_queues"):
        where(app, queue="typo")
