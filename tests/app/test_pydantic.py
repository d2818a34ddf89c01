"""Tasks with `pydantic=True` take, validate and return models as under Celery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import pytest

from tests.app.twin import Library, transcript

pydantic = pytest.importorskip("pydantic")

Program = Callable[[Library], Any]
PROGRAMS: list[Program] = []


def program(fun: Program) -> Program:
    PROGRAMS.append(fun)
    return fun


class Point(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    x: int
    y: int = 0


class Named(Point):
    name: str = "n"


class Context(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    value: str

    @pydantic.field_validator("value")
    @classmethod
    def _look(cls, value: str, info: Any) -> str:
        context = info.context or {}
        return f"{value}:{context.get('celery_task_name')}:{context.get('mine')}:{sorted(context)}"


@program
def models_in_and_out(lib: Library) -> None:
    app = lib.app(task_always_eager=True)

    @app.task(pydantic=True)
    def move(point: Point, by: Optional[Point] = None, plain: int = 1, *, key: Point | None = None) -> Point:  # noqa: UP045
        lib.note(type(point).__name__, type(by).__name__, type(key).__name__, plain)
        return Point(x=point.x + plain, y=by.y if by else -1)

    for args, kwargs in (
        (({"x": 1},), {}),
        ((Point(x=1),), {"by": Point(x=2, y=3)}),
        (({"x": 1}, None, 5), {"key": {"x": 3}}),
        ((Named(x=1),), {}),
        (({"x": "not a number"},), {}),
        ((), {}),
    ):
        for serializer in (None, "pickle"):
            try:
                lib.result(move.apply_async(args, kwargs, serializer=serializer))
            except Exception as exc:
                lib.note("refused", type(exc).__name__)
    lib.note(move({"x": 4}), move.apply(({"x": 4},)).get())


@program
def what_is_returned(lib: Library) -> None:
    app = lib.app(task_always_eager=True)

    @app.task(pydantic=True)
    def unannotated(x: int):  # type: ignore[no-untyped-def]
        return Point(x=x)

    @app.task(pydantic=True)
    def wider(x: int) -> pydantic.BaseModel:  # type: ignore[name-defined]
        return Named(x=x)

    @app.task(pydantic=True)
    def maybe(x: int) -> Point | None:
        return Point(x=x) if x else None

    @app.task(pydantic=True, pydantic_dump_kwargs={"exclude_defaults": True})
    def short(x: int) -> Point:
        return Point(x=x)

    for task in (unannotated, wider, maybe, short):
        for x in (0, 1):
            lib.note(task.apply((x,)).get())


@program
def strictness_context_and_binding(lib: Library) -> None:
    app = lib.app(task_always_eager=True)

    @app.task(pydantic=True, pydantic_strict=True)
    def strict(point: Point) -> int:
        return point.x

    @app.task(pydantic=True, bind=True, pydantic_context={"mine": "ctx"})
    def bound(self: Any, model: Context, *rest: Any, **more: Any) -> Any:
        return [self.name, model.value, rest, more]

    for value in (1, "1"):
        result = strict.delay({"x": value})
        lib.note(result.state, type(result.result).__name__)
    lib.note(bound.delay({"value": "v"}, 1, k=2).get())
    lib.tried(lambda: bound.delay())


@pytest.mark.parametrize("run", PROGRAMS, ids=lambda run: run.__name__)
def test_pydantic_tasks_are_celerys(run: Program) -> None:
    expected = transcript("celery", run)

    assert transcript("pgtasks", run) == expected
