"""Eager retries are what they are under Celery: when, how often, with which arguments, and what is raised in the end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.app.twin import Library, Program, Programs, transcript

program = Programs()


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


@pytest.mark.parametrize("run", program, ids=lambda run: run.__name__)
def test_eager_execution_is_celerys(run: Program) -> None:
    expected = transcript("celery", run)

    assert transcript("pgtasks", run) == expected
