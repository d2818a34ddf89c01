"""What a worker does around a task happens in Celery's order; the tracer of real Celery is the judge."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

from pgtasks import Celery, signals, states
from pgtasks.app import trace
from pgtasks.app.trace import Effects, build_tracer
from pgtasks.exceptions import EncodeError, Ignore, OperationalError, Reject
from tests.app.twin import Library, tells, transcript

Program = Callable[[Library], Any]
PROGRAMS: list[Program] = []


def program(fun: Program) -> Program:
    PROGRAMS.append(fun)
    return fun


class Noting(Effects):
    """Effects that say they happened; `refusal` is what storing a success raises."""

    def __init__(self, note: Callable[..., None], refusal: Exception | None = None) -> None:
        self.note = note
        self.refusal = refusal

    def started(self, task: Any, request: Any) -> None:
        self.note("store", "STARTED", sorted(trace.started_meta(request)))

    def succeeded(self, task: Any, request: Any, retval: Any, store: bool) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.note("store", "SUCCESS", retval, store)

    def retried(self, task: Any, request: Any, retry: Any, einfo: Any, store: bool) -> None:
        if store:
            self.note("store", "RETRY", retry.exc, tells(einfo.traceback, retry))

    def failed(self, task: Any, request: Any, exc: Any, einfo: Any, store: bool) -> None:
        self.note("store", "FAILURE", exc, store, tells(einfo.traceback, exc))


def celerys_backend(app: Any, note: Callable[..., None], refusal: Exception | None) -> Any:
    from celery.backends.base import DisabledBackend

    class Backend(DisabledBackend):  # type: ignore[misc]
        def store_result(self, task_id: Any, result: Any, state: str, **kwargs: Any) -> None:
            note("store", state, sorted(result))

        def mark_as_done(self, task_id: Any, result: Any, request: Any = None, store_result: bool = True) -> None:
            if refusal is not None:
                raise refusal
            note("store", "SUCCESS", result, store_result)

        def mark_as_failure(self, task_id: Any, exc: Any, traceback: Any = None, **kwargs: Any) -> None:
            note("store", "FAILURE", exc, kwargs["store_result"], tells(traceback, exc))

        def mark_as_retry(self, task_id: Any, exc: Any, traceback: Any = None, **kwargs: Any) -> None:
            note("store", "RETRY", exc, traceback.startswith("Traceback"))

    return Backend(app)


def run_as_worker(
    lib: Library,
    task: Any,
    args: Any = (),
    kwargs: Any = None,
    refusal: Exception | None = None,
    **request: Any,
) -> Any:
    """Run a task as a worker of this library does; returns what the attempt came to."""
    kwargs = {} if kwargs is None else kwargs
    module = import_module(f"{lib.package}.app.trace")
    task = task._get_current_object()
    request = {"id": "an-id", "hostname": "w@h", "headers": None, "delivery_info": {}, **request}
    if lib.package == "pgtasks":
        tracer = module.build_tracer(task.name, task, app=task.app)
        attempt = tracer("an-id", args, kwargs, {**request, "effects": Noting(lib.note, refusal)})
        return attempt.state
    task.backend = celerys_backend(task.app, lib.note, refusal)
    info = module.build_tracer(task.name, task, app=task.app)("an-id", args, kwargs, request).info
    return info.state if info else "SUCCESS"


def telling_app(lib: Library, **settings: Any) -> Any:
    base = import_module("celery.loaders.app" if lib.package == "celery" else "pgtasks.app.loader").AppLoader

    class Telling(base):  # type: ignore[misc, valid-type]
        def on_task_init(self, task_id: str, task: Any) -> None:
            lib.note("on_task_init", task_id, task.name)

        def on_process_cleanup(self) -> None:
            lib.note("on_process_cleanup")

    return lib.app(loader=Telling, **settings)


@program
def every_way_a_body_can_end(lib: Library) -> None:
    app = telling_app(lib, task_track_started=True)

    @app.task(bind=True, throws=(LookupError,))
    def end(self: Any, how: str) -> Any:
        lib.note("run", how, self.request.called_directly, self.request.is_eager, app.current_worker_task.name)
        if how == "return":
            return how
        raise {
            "error": ValueError(how),
            "expected": KeyError(how),
            "ignore": lib.exceptions.Ignore(how),
            "reject": lib.exceptions.Reject(how),
            "requeue": lib.exceptions.Reject(how, requeue=True),
            "retry": lib.exceptions.Retry(None, KeyError(how), when=5),
        }[how]

    for how in ("return", "error", "expected", "ignore", "reject", "requeue", "retry"):
        lib.note(run_as_worker(lib, end, (how,)))
        lib.note(app.current_task, end.request.id)


@program
def what_is_stored_for_whom(lib: Library) -> None:
    app = lib.app()

    @app.task(ignore_result=True)
    def ignoring(fails: bool) -> int:
        return 1 // (not fails)

    @app.task(ignore_result=True, store_errors_even_if_ignored=True, track_started=True)
    def errors_only(fails: bool) -> int:
        return 1 // (not fails)

    for task in (ignoring, errors_only):
        for fails in (False, True):
            lib.note(run_as_worker(lib, task, (fails,)))
            lib.note(run_as_worker(lib, task, (fails,), ignore_result=False))


@program
def a_result_that_cannot_be_stored(lib: Library) -> None:
    app = lib.app()

    @app.task
    def fine() -> int:
        return 1

    lib.note(run_as_worker(lib, fine, refusal=EncodeError("not JSON")))


@program
def a_hook_that_raises_after_success(lib: Library) -> None:
    app = lib.app()

    class Bad(app.Task):  # type: ignore[misc, name-defined]
        abstract = True

        def on_success(self, *args: Any) -> None:
            raise ValueError("on_success")

        def after_return(self, *args: Any) -> None:
            raise ValueError("after_return")

    @app.task(base=Bad)
    def fine() -> int:
        return 1

    lib.note(run_as_worker(lib, fine))


@program
def the_shadow_and_reprs_of_a_message(lib: Library) -> None:
    app = lib.app()

    @app.task
    def body(x: int) -> int:
        return 1 // x

    for x in (1, 0):
        lib.note(run_as_worker(lib, body, (x,), shadow="shown", argsrepr="(?)", kwargsrepr="{?}"))


@pytest.mark.parametrize("run", PROGRAMS, ids=lambda run: run.__name__)
def test_a_worker_runs_a_task_as_celerys(run: Program) -> None:
    expected = transcript("celery", run)

    assert transcript("pgtasks", run) == expected


# -- what a worker must not do


@pytest.fixture
def app() -> Celery:
    return Celery("proj", set_as_current=False)


def attempt(task: Any, *args: Any, effects: Effects | None = None) -> trace.Attempt:
    task = task._get_current_object()
    result: trace.Attempt = build_tracer(task.name, task, app=task.app)(
        "id", args, {}, {"id": "id", "hostname": "w@h", "effects": effects or Effects()}
    )
    return result


@pytest.mark.parametrize("error", [RuntimeError("hook"), Ignore(), EncodeError("x")])
def test_a_failing_on_failure_hook_does_not_crash_the_worker_but_fails_the_task(app: Celery, error: Exception) -> None:
    class Bad(app.Task):  # type: ignore[misc, name-defined]
        abstract = True

        def on_failure(self, *args: Any) -> None:
            raise error

    @app.task(base=Bad)
    def body() -> None:
        raise ValueError("body")

    with pytest.warns(RuntimeWarning, match="outside body"):
        ended = attempt(body)

    assert (ended.state, ended.retval) == (states.FAILURE, error)
    assert app.current_task is None


def test_effects_that_raise_are_internal_errors_and_receivers_hear_of_it(app: Celery) -> None:
    heard: list[Any] = []

    def receive(exception: Any, **kwargs: Any) -> None:
        heard.append(exception)

    class Broken(Effects):
        def succeeded(self, *args: Any) -> None:
            raise LookupError("store")

    @app.task
    def body() -> int:
        return 1

    signals.task_internal_error.connect(receive)
    try:
        with pytest.warns(RuntimeWarning):
            ended = attempt(body, effects=Broken())
    finally:
        signals.task_internal_error.disconnect(receive)

    assert ended.state == states.FAILURE
    assert heard == [ended.retval]


def test_a_database_that_is_gone_when_the_result_is_stored_fails_the_task(app: Celery) -> None:
    class Gone(Effects):
        def succeeded(self, *args: Any) -> None:
            raise OperationalError("gone")

    @app.task
    def body() -> int:
        return 1

    assert attempt(body, effects=Gone()).state == states.FAILURE


def test_reject_from_a_hook_rejects_the_task(app: Celery) -> None:
    class Choosy(app.Task):  # type: ignore[misc, name-defined]
        abstract = True

        def on_success(self, *args: Any) -> None:
            raise Reject("no", requeue=True)

    @app.task(base=Choosy)
    def body() -> int:
        return 1

    ended = attempt(body)

    assert ended.state == states.REJECTED
    assert ended.retval.requeue is True


def test_memory_errors_and_exits_are_not_outcomes(app: Celery) -> None:
    @app.task
    def leave(kind: type[BaseException]) -> None:
        raise kind

    for kind in (SystemExit, KeyboardInterrupt):
        with pytest.raises(kind):
            attempt(leave, kind)
        assert app.current_task is None


def test_a_coroutine_function_runs_to_its_end_in_a_worker_that_is_none(app: Celery) -> None:
    @app.task(bind=True)
    async def body(self: Any, x: int) -> Any:
        return [x, self.request.id, app.current_task.name]

    assert attempt(body, 4).retval == [4, "id", body.name]


def test_a_super_call_of_a_custom_call_method_keeps_the_request_of_the_worker(app: Celery) -> None:
    class Wrapped(app.Task):  # type: ignore[misc, name-defined]
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            self.request.update(seen=True)
            return super().__call__(*args, **kwargs)

    @app.task(base=Wrapped, bind=True)
    def body(self: Any) -> Any:
        return [self.request.seen, len(self.request_stack)]

    assert attempt(body).retval == [True, 1]


def test_the_locals_of_a_failed_task_are_not_kept_alive(app: Celery) -> None:
    import weakref

    class Big:
        pass

    kept: list[Any] = []

    @app.task
    def body() -> None:
        big = Big()
        kept.append(weakref.ref(big))
        raise ValueError("big")

    ended = attempt(body)

    assert ended.einfo is not None
    assert kept[0]() is None


def test_logging_that_is_off_costs_no_repr_of_the_result(app: Celery) -> None:
    class Loud:
        def __repr__(self) -> str:
            raise AssertionError("nobody asked")

    @app.task
    def body() -> Any:
        return Loud()

    logging.getLogger("celery.app.trace").setLevel(logging.WARNING)
    try:
        assert attempt(body).state == states.SUCCESS
    finally:
        logging.getLogger("celery.app.trace").setLevel(logging.NOTSET)
