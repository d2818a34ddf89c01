"""Eager links, canvases and replaced tasks run what they run under Celery, in the same order."""

from __future__ import annotations

from typing import Any

import pytest

from tests.app.twin import Library, Program, Programs, transcript

program = Programs()


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


@pytest.mark.parametrize("run", program, ids=lambda run: run.__name__)
def test_eager_execution_is_celerys(run: Program) -> None:
    expected = transcript("celery", run)

    assert transcript("pgtasks", run) == expected
