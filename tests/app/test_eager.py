"""Eager execution does, sends, logs and returns what it does under Celery, in the same order."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import pytest

from tests.app.twin import Library, Program, Programs, transcript

program = Programs()


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


@pytest.mark.parametrize("run", program, ids=lambda run: run.__name__)
def test_eager_execution_is_celerys(run: Program) -> None:
    expected = transcript("celery", run)

    assert transcript("pgtasks", run) == expected
