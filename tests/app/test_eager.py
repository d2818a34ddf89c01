"""Eager execution does, sends, logs and returns what it does under Celery, in the same order."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import pytest

from tests.app.twin import Library, transcript

Program = Callable[[Library], Any]
PROGRAMS: list[Program] = []


def program(fun: Program) -> Program:
    PROGRAMS.append(fun)
    return fun


# -- plain calls


@program
def a_task_that_returns(lib: Library) -> None:
    app = lib.app()

    @app.task
    def add(x: int, y: int = 2) -> int:
        return x + y

    lib.result(add.apply((1,)))
    lib.result(add.apply((1,), {"y": 5}))
    lib.note(add.apply((1,)).get(), add.apply((1,)).successful(), add.apply((1,)).ready())


@program
def a_task_that_raises(lib: Library) -> None:
    app = lib.app()

    @app.task
    def div(x: int, y: int) -> float:
        return x / y

    result = div.apply((1, 0))
    lib.result(result)
    lib.tried(result.get)
    lib.tried(lambda: result.get(propagate=False))


@program
def an_expected_exception_is_logged_as_information(lib: Library) -> None:
    app = lib.app()

    @app.task(throws=(KeyError,))
    def find() -> None:
        raise KeyError("nowhere")

    lib.result(find.apply())


@program
def an_error_raised_to_the_caller(lib: Library) -> None:
    app = lib.app()

    @app.task
    def div(x: int, y: int) -> float:
        return x / y

    lib.tried(lambda: div.apply((1, 0), throw=True))
    app.conf.task_eager_propagates = True
    lib.tried(lambda: div.apply((1, 0)))
    lib.result(div.apply((1, 0), throw=False))


@program
def an_error_raised_to_the_caller_of_delay(lib: Library) -> None:
    app = lib.app(task_always_eager=True, task_eager_propagates=True)

    @app.task
    def div(x: int, y: int) -> float:
        return x / y

    lib.tried(lambda: div.delay(1, 0))
    lib.tried(lambda: div.delay(1, 1).get())


@program
def keyword_arguments_that_are_no_mapping(lib: Library) -> None:
    app = lib.app()

    @app.task
    def nothing() -> None: ...

    lib.tried(lambda: nothing.apply((), ["x"]))


@program
def arguments_go_through_the_serializer(lib: Library) -> None:
    app = lib.app(task_always_eager=True)

    @app.task
    def show(*args: Any, **kwargs: Any) -> Any:
        return [args, kwargs]

    when = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
    for args in ((1, 2.5), ((1, 2), {"a": (1,)}), (when,), (b"bytes",), ("ü\ud800",), ({1: 2},)):
        lib.tried(lambda args=args: show.delay(*args, key=args).get())
    lib.tried(lambda: show.delay({1, 2}, object()))
    lib.tried(lambda: show.apply_async((when,), serializer="pickle").get())
    lib.tried(lambda: show.apply_async(serializer="nonsense"))


@program
def arguments_are_checked_before_the_call(lib: Library) -> None:
    app = lib.app(task_always_eager=True)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(typing=False)
    def unchecked(x: int, y: int) -> int:
        return x + y

    @app.task(bind=True)
    def bound(self: Any, x: int) -> int:
        return x

    lib.tried(lambda: add.delay(1))
    lib.tried(lambda: add.delay(1, 2, 3))
    lib.tried(lambda: add.delay(1, z=3))
    lib.tried(lambda: bound.delay())
    lib.tried(lambda: bound.delay(1).get())
    lib.result(unchecked.delay(1))


@program
def a_soft_time_limit_above_the_hard_one(lib: Library) -> None:
    app = lib.app(task_always_eager=True)

    @app.task(soft_time_limit=10, time_limit=5)
    def slow() -> None: ...

    lib.tried(slow.delay)


# -- what the task sees


@program
def the_request_of_an_applied_task(lib: Library) -> None:
    app = lib.app()
    keys = (
        *("root_id", "parent_id", "retries", "is_eager", "logfile", "loglevel", "callbacks", "errbacks", "headers"),
        *("timelimit", "time_limit", "soft_time_limit", "ignore_result", "delivery_info", "called_directly"),
        *("args", "kwargs", "children", "group", "chord", "chain", "eta", "expires", "origin", "reply_to"),
        *("correlation_id", "properties", "stamped_headers", "stamps", "shadow", "utc", "replaced_task_nesting"),
    )

    @app.task(bind=True, time_limit=20)
    def look(self: Any, *args: Any, **kwargs: Any) -> Any:
        lib.note({key: getattr(self.request, key) for key in keys})
        lib.note(self.request.id == self.request.root_id, self.request.get("task"))
        return None

    look.apply((1,), {"a": 2}, task_id="my-id", headers={"x": 1}, loglevel=20, logfile="log")
    look.apply(retries=3, priority=7, routing_key="r", exchange="e", queue="q", ignore_result=True)
    look.apply(stamped_headers=["a"], a="stamp")
    look()
    lib.note(look.request.id, look.request.called_directly, look.request.retries)


@program
def headers_and_options_of_an_eager_call(lib: Library) -> None:
    app = lib.app(task_always_eager=True)

    @app.task(bind=True, priority=3)
    def look(self: Any) -> Any:
        request = self.request
        return [request.headers, request.delivery_info, request.retries, request.id]

    lib.note(look.apply_async(task_id="given", headers={"tenant": "a"}, countdown=100, expires=1).get())
    lib.note(look.apply_async(task_id="given", queue="q", routing_key="r", exchange="e", app_id="x").get())
    lib.note(look.apply_async(task_id="given", retries=2, eta=datetime(2030, 1, 1)).get())


@program
def tasks_calling_tasks(lib: Library) -> None:
    results = import_module(f"{lib.package}.result")
    app = lib.app(task_always_eager=True)

    @app.task(bind=True)
    def inner(self: Any, n: int) -> Any:
        return [
            self.request.parent_id,
            self.request.root_id,
            app.current_task.name,
            app.current_worker_task.name,
        ]

    @app.task(bind=True)
    def outer(self: Any) -> Any:
        with results.allow_join_result():
            found = [inner.apply_async((1,), task_id="in").get(), inner(2)]
        return [found, app.current_task.name, len(self.request.children)]

    lib.note(outer.apply_async(task_id="out").get())
    lib.note(app.current_task, app.current_worker_task)


@program
def waiting_for_a_result_inside_a_task_is_refused(lib: Library) -> None:
    app = lib.app(task_always_eager=True)

    @app.task
    def inner() -> int:
        return 1

    @app.task
    def outer() -> Any:
        return inner.delay().get()

    lib.result(outer.delay())
    lib.result(outer.apply())


@program
def calling_a_task_as_a_function(lib: Library) -> None:
    app = lib.app()

    @app.task(bind=True)
    def look(self: Any, n: int) -> Any:
        if n:
            return [self.request.args, self.request.called_directly, look(n - 1)]
        return [self.request.args, self.request.called_directly]

    lib.note(look(1))
    lib.note(look.apply((2,)).get())
    lib.tried(lambda: look())


# -- retries


@program
def a_retry_that_succeeds_in_the_end(lib: Library) -> None:
    app = lib.app()

    @app.task(bind=True)
    def flaky(self: Any, wanted: int, key: Any = None) -> Any:
        lib.note("attempt", self.request.retries, self.request.args, self.request.kwargs)
        if self.request.retries < wanted:
            raise self.retry(countdown=10)
        return self.request.retries

    lib.result(flaky.apply((2,), {"key": "k"}))
    lib.result(flaky.apply((9,)))
    app.conf.task_always_eager = True
    lib.result(flaky.delay(1, key=(1, 2)))


@program
def a_retry_gives_up_with_the_exception_it_was_given(lib: Library) -> None:
    app = lib.app()

    @app.task(bind=True, max_retries=1)
    def give_up(self: Any, how: str) -> None:
        try:
            1 / 0
        except ZeroDivisionError as exc:
            if how == "same":
                raise self.retry(exc=exc) from None
            if how == "other":
                self.retry(exc=KeyError("other"))
            self.retry()

    for how in ("same", "other", "none"):
        result = give_up.apply((how,))
        lib.result(result)
        lib.tried(result.get)


@program
def a_retry_with_other_arguments(lib: Library) -> None:
    app = lib.app()

    @app.task(bind=True)
    def look(self: Any, a: int, b: int = 0, *rest: int, **more: Any) -> Any:
        lib.note(a, b, rest, more)
        if not self.request.retries:
            self.retry(**wanted)
        return None

    wanted: dict[str, Any]
    for wanted in (  # noqa: B007 - read by the task
        {"args": (5, 6)},
        {"args": (5,), "kwargs": {"b": 7}},
        {"kwargs": {"b": 8}},
        {"kwargs": {"a": 8}},
        {"args": (), "kwargs": {"a": 1}},
        {"kwargs": {"x": 8}},
    ):
        lib.result(look.apply((1, 2, 3), {"m": 1}))
    wanted = {"args": (9,)}
    lib.result(look.apply((), {"a": 1, "b": 2}))
    lib.result(look.apply((1,), {"b": 2}))


@program
def a_retry_returned_instead_of_raised(lib: Library) -> None:
    app = lib.app()

    @app.task(bind=True)
    def look(self: Any) -> Any:
        return self.retry(throw=False, countdown=3) if not self.request.retries else "again"

    @app.task(bind=True)
    def go_on(self: Any) -> Any:
        return repr(self.retry(throw=False, countdown=3))

    lib.result(look.apply())
    lib.result(go_on.apply())


@program
def a_retry_outside_of_an_execution(lib: Library) -> None:
    app = lib.app()

    @app.task(bind=True)
    def look(self: Any, exc: Any = None) -> Any:
        self.retry(exc=exc)

    lib.tried(lambda: look())
    lib.tried(lambda: look(ValueError("given")))

    @app.task(bind=True)
    def within(self: Any) -> Any:
        try:
            raise KeyError("first")
        except KeyError as exc:
            self.retry(exc=exc)

    lib.tried(lambda: within())


@program
def a_retry_raised_to_the_caller(lib: Library) -> None:
    app = lib.app()

    @app.task(bind=True)
    def look(self: Any) -> Any:
        self.retry(countdown=1, exc=KeyError("k"))

    lib.tried(lambda: look.apply(throw=True))


@program
def a_limit_given_to_retry(lib: Library) -> None:
    app = lib.app()

    @app.task(bind=True, max_retries=None)
    def look(self: Any) -> Any:
        lib.note(self.request.retries)
        self.retry(max_retries=2, countdown=0)

    @app.task(bind=True, max_retries=0)
    def never(self: Any) -> Any:
        self.retry(countdown=0)

    lib.result(look.apply())
    lib.result(never.apply())


@program
def retrying_by_itself(lib: Library) -> None:
    app = lib.app()

    @app.task(bind=True, autoretry_for=(ValueError,), max_retries=2)
    def look(self: Any, kind: str) -> Any:
        lib.note(kind, self.request.retries)
        if kind == "value":
            raise ValueError(kind)
        if kind == "key":
            raise KeyError(kind)
        if kind == "retry":
            raise self.retry(countdown=1)
        if kind == "ignore":
            raise lib.exceptions.Ignore
        if kind == "reject":
            raise lib.exceptions.Reject("no")
        return kind

    for kind in ("value", "key", "retry", "ignore", "reject", "fine"):
        lib.result(look.apply((kind,)))


@program
def retrying_by_itself_with_options(lib: Library) -> None:
    app = lib.app()

    @app.task(
        bind=True,
        autoretry_for=(Exception,),
        dont_autoretry_for=(KeyError,),
        retry_kwargs={"max_retries": 3},
        retry_backoff=True,
        retry_jitter=False,
        retry_backoff_max=3,
    )
    def look(self: Any, kind: str) -> Any:
        raise {"key": KeyError, "value": ValueError}[kind](kind)

    @app.task(bind=True, autoretry_for=(Exception,))
    def limited(self: Any) -> Any:
        lib.note(self.request.retries)
        try:
            self.retry(max_retries=5, countdown=0)
        except lib.exceptions.Retry:
            raise ValueError("swallowed") from None

    lib.result(look.apply(("key",)))
    lib.result(look.apply(("value",)))
    lib.result(limited.apply())


# -- control flow


@program
def a_task_that_is_ignored_or_rejected(lib: Library) -> None:
    app = lib.app()

    @app.task
    def stop(how: str) -> None:
        if how == "ignore":
            raise lib.exceptions.Ignore("enough")
        if how == "reject":
            raise lib.exceptions.Reject("no", requeue=False)
        raise lib.exceptions.Reject("later", requeue=True)

    for how in ("ignore", "reject", "requeue"):
        result = stop.apply((how,))
        lib.result(result)
        lib.tried(result.get)
        lib.tried(lambda how=how: stop.apply((how,), throw=True).state)


@program
def exits_pass_through(lib: Library) -> None:
    app = lib.app()

    @app.task
    def leave(kind: str) -> None:
        raise {"exit": SystemExit, "interrupt": KeyboardInterrupt, "memory": MemoryError}[kind]("bye")

    for kind in ("exit", "interrupt", "memory"):
        try:
            lib.result(leave.apply((kind,)))
        except BaseException as exc:
            lib.note("passed", type(exc).__name__)
        lib.note(app.current_task, leave.request.id)


@program
def hooks_that_raise(lib: Library) -> None:
    app = lib.app()
    base = app.Task

    class Bad(base):
        abstract = True
        where = ""

        def before_start(self, *args: Any) -> None:
            self._maybe("before_start")

        def on_success(self, *args: Any) -> None:
            self._maybe("on_success")

        def on_failure(self, *args: Any) -> None:
            self._maybe("on_failure")

        def on_retry(self, *args: Any) -> None:
            self._maybe("on_retry")

        def after_return(self, *args: Any) -> None:
            self._maybe("after_return")

        def _maybe(self, hook: str) -> None:
            lib.note(hook)
            if hook == type(self).where:
                raise RuntimeError(hook)

    for where, fails in (
        ("before_start", False),
        ("on_success", False),
        ("after_return", False),
        ("on_failure", True),
        ("after_return", True),
    ):

        @app.task(base=Bad, name=f"{where}.{fails}", where=where)
        def body(fails: bool) -> str:
            if fails:
                raise ValueError("body")
            return "fine"

        lib.note(where, fails)
        lib.tried(lambda body=body, fails=fails: lib.result(body.apply((fails,))))

    @app.task(base=Bad, bind=True, where="on_retry")
    def again(self: Any) -> None:
        self.retry()

    lib.tried(again.apply)


@program
def signal_receivers_that_raise(lib: Library) -> None:
    app = lib.app()

    @app.task
    def fine() -> int:
        return 1

    def bad(**kwargs: Any) -> None:
        raise RuntimeError("receiver")

    names = ("task_prerun", "task_success", "task_postrun")
    for name in names:
        getattr(lib.signals, name).connect(bad)
    try:
        result = fine.apply()
    finally:
        for name in names:
            getattr(lib.signals, name).disconnect(bad)
    lib.result(result)


# -- links


@program
def callbacks_and_errbacks(lib: Library) -> None:
    app = lib.app(task_always_eager=True)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    @app.task
    def fail(x: Any) -> None:
        raise ValueError(x)

    @app.task
    def say(*args: Any, **kwargs: Any) -> Any:
        lib.note("say", args, kwargs)
        return args

    @app.task
    def old_style(task_id: str) -> None:
        lib.note("old_style", task_id)

    @app.task
    def new_style(request: Any, exc: Any, traceback: Any) -> None:
        lib.note("new_style", request.id, exc, traceback.strip().splitlines()[-1])

    @app.task(bind=True)
    def bound_style(self: Any, task_id: str) -> None:
        lib.note("bound_style", task_id, self.request.parent_id, self.request.root_id)

    lib.result(add.apply_async((1, 2), link=say.s()))
    lib.result(add.apply_async((1, 2), link=[say.s(1), say.si("immutable"), add.s(10)], task_id="t"))
    lib.result(add.apply_async((1, 2), link=[lib.group([say.s(1), say.s(2)], app=app), say.s(3)]))
    lib.result(fail.apply_async((1,), link=say.s(), link_error=old_style.s(), task_id="t"))
    lib.result(fail.apply_async((1,), link_error=[old_style.s(), new_style.s(), bound_style.s()], task_id="t"))
    lib.result(fail.apply((1,), link_error=[new_style.s()], task_id="t"))
    lib.result(fail.apply((1,), link_error=[fail.s()], task_id="t"))
    lib.result(add.apply_async((1, 2), link=fail.s()))


@program
def a_callback_that_fails_to_be_serialised(lib: Library) -> None:
    app = lib.app(task_always_eager=True)

    @app.task
    def make() -> Any:
        return object()

    @app.task
    def take(x: Any) -> Any:
        return None

    lib.result(make.apply_async(link=take.s()))


@program
def eager_canvas(lib: Library) -> None:
    app = lib.app(task_always_eager=True)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    @app.task
    def xsum(numbers: Any) -> int:
        return sum(numbers)

    @app.task
    def fail(*args: Any) -> None:
        raise ValueError("canvas")

    lib.note((add.s(1, 2) | add.s(3)).delay().get())
    lib.note(lib.group([add.s(1, 1), add.s(2, 2)], app=app).delay().get())
    lib.note(lib.chord([add.s(1, 1), add.s(2, 2)], app=app)(xsum.s()).get())
    lib.note(add.chunks([(1, 2), (3, 4), (5, 6)], 2).delay().get())
    lib.note(add.starmap([(1, 2), (3, 4)]).delay().get(), xsum.map([[1, 2], [3]]).delay().get())
    lib.tried(lambda: (fail.s() | add.s(1)).delay().get())


@program
def replacing_a_task(lib: Library) -> None:
    app = lib.app(task_always_eager=True)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(bind=True)
    def become(self: Any, kind: str) -> Any:
        sig = {
            "task": add.s(1, 2),
            "chain": add.s(1, 2) | add.s(3),
            "group": lib.group([add.s(1, 1), add.s(2, 2)], app=app),
            "chord": add.s(1, 2).set(chord={"x": 1}),
        }[kind]
        lib.note("replaced by", kind)
        return self.replace(sig)

    for kind in ("task", "chain", "group", "chord"):
        lib.tried(lambda kind=kind: become.apply_async((kind,), task_id="t").get())
    lib.tried(lambda: become.apply_async(("task",), link=add.s(10)).get())


# -- states and results


@program
def an_exception_that_cannot_be_pickled(lib: Library) -> None:
    app = lib.app()

    class Strange(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__(a)
            self.b = b

    class Worse(Exception):
        def __init__(self, handle: Any) -> None:
            super().__init__(handle)

    @app.task
    def fail(kind: str) -> None:
        raise Strange(1, 2) if kind == "strange" else Worse(lambda: None)

    for kind in ("strange", "worse"):
        result = fail.apply((kind,))
        lib.note(result.state, type(result.result).__name__, str(result.result))


@program
def the_name_shown_in_logs(lib: Library) -> None:
    app = lib.app(task_always_eager=True)

    @app.task(resultrepr_maxsize=20)
    def long(n: int) -> str:
        return "x" * n

    long.apply_async((100,), shadow="another name", argsrepr="(secret)", kwargsrepr="{secret}")


@program
def a_task_with_its_own_call_method(lib: Library) -> None:
    app = lib.app()

    class Wrapped(app.Task):
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            lib.note("call", args, kwargs)
            return super().__call__(*args, **kwargs)

    @app.task(base=Wrapped, bind=True)
    def look(self: Any, x: int) -> Any:
        lib.note("run", x, self.request.called_directly, self.request.id)
        return x

    lib.result(look.apply((1,), task_id="t"))
    lib.note(look(2))


@program
def a_subclass_that_watches_apply_async(lib: Library) -> None:
    app = lib.app(task_always_eager=True)

    class Watched(app.Task):
        abstract = True

        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            lib.note("apply_async", args, kwargs, options)
            return super().apply_async(args, kwargs, **options)

        def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            lib.note("apply", args, kwargs, sorted(options))
            return super().apply(args, kwargs, **options)

    @app.task(base=Watched)
    def add(x: int, y: int) -> int:
        return x + y

    lib.note(add.delay(1, 2).get())
    lib.note(add.s(1, 2).apply_async(countdown=3).get())


@program
def sending_by_name_is_never_eager(lib: Library) -> None:
    app = lib.app(task_always_eager=True)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    lib.note(add.signature((1, 2)).apply().get())


@pytest.mark.parametrize("run", PROGRAMS, ids=lambda run: run.__name__)
def test_eager_execution_is_celerys(run: Program) -> None:
    expected = transcript("celery", run)

    assert transcript("pgtasks", run) == expected
