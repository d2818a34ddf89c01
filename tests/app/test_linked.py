"""What errbacks are called with, and that none keeps another from being called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pgtasks import Celery
from pgtasks.contrib.testing.app import TestApp


@pytest.fixture
def app() -> Iterator[Celery]:
    with TestApp("linked", config={"task_always_eager": True}) as app:
        yield app


@pytest.fixture
def calls() -> list[tuple[Any, ...]]:
    return []


@pytest.mark.parametrize("stored", [{"args": ("now",)}, {"kwargs": {"label": "now"}}])
def test_arguments_that_an_errback_brings_along_are_not_left_for_the_failure_to_fill(
    app: Celery, calls: list[tuple[Any, ...]], stored: dict[str, Any]
) -> None:
    @app.task
    def fail() -> None:
        raise KeyError

    @app.task
    def note(task_id: str, label: str) -> None:
        calls.append((task_id, label))

    result = fail.apply(link_error=note.signature(**stored))

    assert calls == [(result.id, "now")]


def test_an_errback_with_room_for_the_exception_gets_it_before_its_own_arguments(
    app: Celery, calls: list[tuple[Any, ...]]
) -> None:
    @app.task
    def fail() -> None:
        raise KeyError

    @app.task
    def note(request: Any, exc: BaseException, traceback: Any, label: str) -> None:
        calls.append((request.id, type(exc), label))

    result = fail.apply(link_error=note.s("now"))

    assert calls == [(result.id, KeyError, "now")]


def test_an_errback_that_raises_does_not_silence_the_next_one(
    app: Celery, calls: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    def fail() -> None:
        raise KeyError

    @app.task
    def broken(request: Any, exc: BaseException, traceback: Any) -> None:
        raise ValueError("of the errback")

    @app.task
    def note(request: Any, exc: BaseException, traceback: Any) -> None:
        calls.append((request.id,))

    result = fail.apply(link_error=[broken.s(), note.s()])

    assert calls == [(result.id,)]
    assert f"{broken.name!r} of task {result.id} raised" in caplog.text
