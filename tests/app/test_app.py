"""Apps, task declarations and registries behave as Celery's, run side by side with it."""

from __future__ import annotations

import pickle
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from pgtasks import Celery, Task, shared_task
from pgtasks.exceptions import ImproperlyConfigured
from tests.app.twin import Library, transcript

pytestmark = pytest.mark.usefixtures("only_built_in_tasks")

Program = Callable[[Library], Any]
PROGRAMS: list[Program] = []


def program(fun: Program) -> Program:
    PROGRAMS.append(fun)
    return fun


def plain_app(lib: Library, *args: Any, **kwargs: Any) -> Any:
    return lib.Celery(*args, **{"set_as_current": False, **kwargs})


def names(tasks: Any) -> list[str]:
    """The names of tasks, less one that testing tools add to every app of the process."""
    return sorted(name for name in tasks if name not in ("celery.ping", "celery.undo"))


# -- declaring tasks


@program
def names_of_tasks(lib: Library) -> None:
    app = plain_app(lib, "proj")

    def make(module: str) -> Any:
        def fun() -> None: ...

        fun.__module__ = module
        return fun

    lib.note(app.task(make("a.b")).name, app.task(make("__main__")).name, app.task(name="own")(make("x")).name)
    lib.note(plain_app(lib).task(make("__main__")).name, app.gen_task_name("f", "nowhere"))
    lib.note(names(app.tasks))


@program
def what_a_task_looks_like(lib: Library) -> None:
    app = plain_app(lib, "proj")

    @app.task(bind=True, verbose_name="Verbose", max_retries=7)
    def body(self: Any, x: int, y: str = "a") -> float:
        """What it does."""

    for _ in range(2):
        lib.note(body.__name__, body.__qualname__, body.__doc__, sorted(body.__annotations__))
        lib.note(body.verbose_name, body.max_retries, body.default_retry_delay, body.typing, body.ignore_result)
        lib.note(body.acks_on_failure, body.acks_on_timeout, body.priority, body.serializer)
        lib.note(body.time_limit, body.rate_limit, body.trail, body.send_events, body.resultrepr_maxsize)
        lib.note(body.app is app, type(body).__mro__[1] is app.Task, bool(body), body == app.tasks[body.name])
        lib.note(repr(body), body.__wrapped__.__name__, callable(body))
        app.finalize()


@program
def settings_that_tasks_take(lib: Library) -> None:
    app = plain_app(lib, "proj", task_acks_late=True, task_time_limit=9, task_ignore_result=True, task_track_started=1)
    app.conf.update(task_acks_on_failure_or_timeout=False, task_default_rate_limit="1/s", task_default_priority=3)

    @app.task(name="a", acks_late=False, acks_on_timeout=True)
    def one() -> None: ...

    names = "acks_late time_limit ignore_result track_started acks_on_failure acks_on_timeout rate_limit priority"
    lib.note({name: getattr(one, name) for name in names.split()})


@program
def wrong_uses_of_the_decorator(lib: Library) -> None:
    app = plain_app(lib, "proj")
    lib.tried(lambda: app.task(1))
    lib.tried(lambda: app.task(1, 2))
    strict = plain_app(lib, "proj", autofinalize=False)

    @strict.task
    def early() -> int:
        return 1

    lib.tried(lambda: early.name)
    lib.tried(lambda: strict.tasks)
    strict.finalize()
    lib.tried(early)


@program
def two_functions_with_one_name(lib: Library) -> None:
    app = plain_app(lib, "proj")

    # Not shared: which of two shared tasks Celery registers first depends on their addresses.
    @app.task(name="same", shared=False)
    def first() -> int:
        return 1

    @app.task(name="same", shared=False)
    def second() -> int:
        return 2

    app.finalize()
    lib.note(first(), second(), app.tasks["same"]())
    app.task(name="same")(second)

    class Third(app.Task):
        name = "same"

        def run(self) -> int:
            return 3

    lib.note(app.register_task(Third())(), app.tasks["same"]())


@program
def a_filter_and_a_base(lib: Library) -> None:
    app = plain_app(lib, "proj")

    class Base(app.Task):
        abstract = True
        color = "red"

    @app.task(base=Base, filter=lambda task: (task, "filtered"), lazy=False)
    def body() -> None: ...

    lib.note(body[1], body[0].color, isinstance(body[0], Base))


@program
def class_based_tasks(lib: Library) -> None:
    app = plain_app(lib, "proj")

    class Add(app.Task):
        def run(self, x: int, y: int) -> int:
            return x + y

    class Named(app.Task):
        name = "named"
        max_retries = 1

        def run(self) -> Any:
            return [self.name, self.max_retries]

    add, named = app.register_task(Add), app.register_task(Named())
    lib.note(add.name, named.name, add(1, 2), named(), add.apply((1, 2)).get(), add is app.tasks[add.name])


@program
def the_registry(lib: Library) -> None:
    app = plain_app(lib, "proj")

    @app.task(name="a")
    def one() -> None: ...

    lib.tried(lambda: app.tasks["missing"])
    lib.note("a" in app.tasks, app.tasks.get("missing"), names(app.tasks.regular()), app.tasks.periodic())
    app.tasks.unregister("a")
    lib.note("a" in app.tasks)
    lib.tried(lambda: app.tasks.unregister("a"))
    lib.tried(lambda: app.tasks.unregister(one))

    class Nameless(app.Task):
        pass

    with pytest.raises(lib.exceptions.InvalidTaskError):
        app.tasks.register(Nameless)


@program
def annotations(lib: Library) -> None:
    def around(fun: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return ["around", fun(*args, **kwargs)]

        return wrapped

    class Tens:
        def annotate(self, task: Any) -> Any:
            return {"rate_limit": "10/s"} if task.name.startswith("t") else None

        def annotate_any(self) -> Any:
            return {"time_limit": 10}

    for setting in (
        None,
        {"*": {"rate_limit": "1/s"}, "two": {"rate_limit": "2/s", "color": "blue"}},
        [{"one": {"time_limit": 1}}, {"one": {"time_limit": 2}}, Tens()],
        {"*": {"@__call__": around}},
        (Tens(), {"two": {"rate_limit": "2/s"}}),
    ):
        app = plain_app(lib, "proj", task_annotations=setting)

        @app.task(name="one")
        def one() -> int:
            return 1

        @app.task(name="two")
        def two() -> int:
            return 2

        for task in (one, two):
            lib.note(task.rate_limit, task.time_limit, getattr(task, "color", None), task(), task.apply().get())


@program
def shared_tasks(lib: Library) -> None:
    before = plain_app(lib, "before")
    before.finalize()

    @lib.shared_task(name="lib.shared", max_retries=9)
    def shared(x: int) -> int:
        return x

    after = plain_app(lib, "after")
    lib.note(shared.name, shared.max_retries, shared(1), shared.name in before.tasks, shared.name in after.tasks)
    before.set_current()
    lib.note(shared.app.main)
    after.set_current()
    lib.note(shared.app.main, shared.s(1).apply().get())
    lib.tried(lambda: lib.shared_task(shared))


@program
def pickled_tasks_and_apps(lib: Library) -> None:
    app = plain_app(lib, "proj", task_time_limit=3)
    app.set_current()
    app.conf.task_soft_time_limit = 2
    module = types.ModuleType("pickled_tasks")
    sys.modules["pickled_tasks"] = module

    @app.task(name="pickled")
    def task() -> int:
        return 5

    lib.note(
        pickle.loads(pickle.dumps(task))() == 5,
        pickle.loads(pickle.dumps(app.tasks["pickled"])) is app.tasks["pickled"],
    )
    again = pickle.loads(pickle.dumps(app))
    lib.note(again.main, again.conf.task_time_limit, again.conf.task_soft_time_limit, again is app)
    result = app.AsyncResult("an id")
    lib.note(pickle.loads(pickle.dumps(result)).id, type(result).__name__)


# -- configuration


@program
def where_settings_come_from(lib: Library) -> None:
    class Config:
        task_time_limit = 1
        task_soft_time_limit = 1
        custom = "kept"

    app = plain_app(lib, "proj", task_time_limit=5, include=["a"])
    order: list[str] = []
    app.on_after_configure.connect(lambda **kw: order.append("configured"), weak=False)
    app.conf.task_soft_time_limit = 2
    app.config_from_object(Config)
    app.add_defaults({"task_default_queue": "from defaults", "task_time_limit": 77})
    app.add_defaults(lambda: {"custom2": "c2"})
    lib.note(app.configured, order)
    lib.note(app.conf.task_time_limit, app.conf.task_soft_time_limit, app.conf.custom, app.conf.custom2)
    lib.note(app.configured, order, app.conf.task_default_queue, app.conf.include, app.conf["timezone"])
    app.conf.task_time_limit = 6
    app.conf.update(custom="changed")
    lib.note(
        app.conf.task_time_limit,
        app.conf.custom,
        app.conf.get("no"),
        app.conf.setdefault("no", 3),
        app.conf.no,
    )
    lib.tried(lambda: app.conf.does_not_exist)
    lib.tried(lambda: app.conf["does_not_exist"])


@program
def a_namespace(lib: Library) -> None:
    class Config:
        CELERY_TASK_TIME_LIMIT = 3
        CELERY_BEAT_SCHEDULE = {"a": {}}
        TASK_SOFT_TIME_LIMIT = 1
        TIME_ZONE = "Europe/Berlin"

    app = plain_app(lib, "proj")
    app.config_from_object(Config, namespace="CELERY")
    lib.note(app.conf.task_time_limit, app.conf.beat_schedule, app.conf.task_soft_time_limit, app.timezone)


@program
def configuration_that_cannot_be_found(lib: Library) -> None:
    app = plain_app(lib, "proj")
    app.config_from_object("no.such.module")
    lib.tried(lambda: app.conf.task_time_limit)
    app = plain_app(lib, "proj")
    app.config_from_object("no.such.module", silent=True)
    lib.tried(lambda: app.conf.task_time_limit)
    app = plain_app(lib, "proj")
    lib.note(app.config_from_envvar("NO_SUCH_VARIABLE", silent=True))
    try:
        app.config_from_envvar("NO_SUCH_VARIABLE")
    except lib.exceptions.ImproperlyConfigured:
        lib.note("improper")


@program
def settings_on_the_command_line(lib: Library) -> None:
    app = plain_app(lib, "proj")
    app.config_from_cmdline(
        [
            *("worker.concurrency=4", "task_time_limit=30", "task.acks_late=yes"),
            *("worker_concurrency=(int)5", 'task_routes=(dict){"a": "b"}', "worker_log_format=(string)%(x)s"),
        ]
    )
    lib.note(app.conf.worker_concurrency, app.conf.task_time_limit, app.conf.task_acks_late, app.conf.task_routes)
    lib.tried(lambda: app.config_from_cmdline(["worker.concurrency=four"]))


@program
def periodic_tasks(lib: Library) -> None:
    app = plain_app(lib, "proj")

    @app.task(name="tick")
    def tick(x: int = 0) -> None: ...

    lib.note(app.add_periodic_task(10, tick.s(1), name="named", expires=5))
    lib.note(app.add_periodic_task(20, tick.s(2).set(queue="q")), app.add_periodic_task(30, tick, args=(3,)))
    lib.note(app.configured, sorted(app.conf.beat_schedule))
    lib.note(app.add_periodic_task(40, tick.s(4)), app.add_periodic_task(50, tick.s(), (5,), {"k": 1}))
    lib.note({key: dict(entry) for key, entry in app.conf.beat_schedule.items()})


@program
def time_zones(lib: Library) -> None:
    for settings in ({}, {"timezone": "Asia/Tokyo"}, {"enable_utc": False, "timezone": "UTC"}):
        app = plain_app(lib, "proj", **settings)
        lib.note(str(app.timezone), app.uses_utc_timezone(), app.now().utcoffset())
    lib.tried(lambda: plain_app(lib, "proj", timezone="No/Where").timezone)


@program
def ways_to_the_current_app(lib: Library) -> None:
    one, two = plain_app(lib, "one"), plain_app(lib, "two")
    one.set_current()
    lib.note(lib.current_app.main, lib.current_app == one)
    two.set_default()
    lib.note(lib.current_app.main)
    with lib.Celery("three") as three:
        lib.note(lib.current_app.main, three is lib.current_app._get_current_object())
    lib.note(bool(lib.current_task), repr(lib.current_task))
    lib.note(one.either("task_default_queue", None, "given"), one.either("task_default_queue", None))
    lib.note(len(one.oid), one.oid == one.oid, one.thread_oid == one.thread_oid, one.oid != two.oid)


@program
def subclasses_with_their_own_parts(lib: Library) -> None:
    class Own(lib.Celery):  # type: ignore[misc, name-defined]
        def gen_task_name(self, name: str, module: str) -> str:
            return f"own.{name}"

        def on_init(self) -> None:
            lib.note("on_init", self.main)

        def on_configure(self) -> None:
            lib.note("on_configure")

    app = Own("proj", set_as_current=False)

    @app.task
    def body() -> None: ...

    lib.note(body.name, app.conf.task_time_limit, type(app).__name__, repr(app)[:5])


@pytest.mark.parametrize("run", PROGRAMS, ids=lambda run: run.__name__)
def test_an_app_is_celerys(run: Program) -> None:
    expected = transcript("celery", run)

    assert transcript("pgtasks", run) == expected


# -- what Celery does not have, or does by luck


def test_of_two_shared_tasks_with_one_name_the_first_wins_every_time() -> None:
    def first() -> int:
        return 1

    def second() -> int:
        return 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for fun in (first, second):
            shared_task(name="twice")(fun)
        winners = {Celery(f"app {n}", set_as_current=False).tasks["twice"]() for n in range(20)}

    assert winners == {1}


@pytest.mark.filterwarnings("ignore::pgtasks.exceptions.DuplicateTaskNameWarning")
@pytest.mark.parametrize("is_taken", [False, True])
def test_a_task_that_refuses_its_app_leaves_no_half_made_task_in_the_registry(is_taken: bool) -> None:
    from pgtasks import Celery, Task

    class Choosy(Task):
        name = "choosy"

        @classmethod
        def on_bound(cls, app: Any) -> None:
            raise ValueError("not this app")

    app = Celery("refused", set_as_current=False)
    first = app.task(name="choosy", lazy=False)(lambda: 1) if is_taken else None

    with pytest.raises(ValueError, match="not this app"):
        app.register_task(Choosy)
    with pytest.raises(ValueError, match="not this app"):
        app.task(base=Choosy, name="choosy too", lazy=False)(lambda: 2)

    assert app.tasks.get("choosy") is first
    assert "choosy too" not in app.tasks


def test_making_an_app_does_not_look_for_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGTASKS_DATABASE_URL", "nonsense://")

    app = Celery("proj", set_as_current=False, broker="redis://nowhere")

    assert app.conf.broker_url == "redis://nowhere"
    assert "database" not in vars(app)


def test_a_typed_project_may_say_in_brackets_which_class_the_tasks_of_an_app_have() -> None:
    app = Celery[Task]("typed", set_as_current=False)

    assert (type(app), app.main) == (Celery, "typed")


def test_an_app_refuses_to_sign_messages_rather_than_to_leave_them_unsigned() -> None:
    with pytest.raises(ImproperlyConfigured, match="does not sign messages"):
        Celery("signed", set_as_current=False).setup_security()


def test_the_worker_of_an_app_is_a_class_that_knows_it_and_may_be_subclassed(database_url: str) -> None:
    app = Celery("classes", broker=database_url, set_as_current=False)

    class Own(app.Worker):  # type: ignore[misc, name-defined]
        pass

    worker = Own(hostname="own@h", pool="solo")

    assert (worker.app, worker.hostname) == (app, "own@h")
    assert app.Beat.app is app
    assert app.Worker is app.WorkController
    app.close()
