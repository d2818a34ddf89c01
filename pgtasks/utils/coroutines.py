"""Running a coroutine from synchronous code.

Each thread keeps one event loop for this, so that what a task leaves there - a client, a pool - still works
in the next task. A loop that was interrupted (a time limit's signal hit while it waited) is closed, which
cancels what was still running on it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, TypeVar

__all__ = ("run_coroutine", "run_coroutines_by")

T = TypeVar("T")

_run_by: Callable[[Coroutine[Any, Any, Any]], Any] | None = None


def run_coroutines_by(run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    """Have this process run coroutines in another way: where tasks share a thread, only one could have a loop in it."""
    global _run_by
    _run_by = run


class _Thread(threading.local):
    runner: asyncio.Runner | None = None
    pid = 0


_thread = _Thread()


def run_coroutine(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end and return the result; in another thread when an event loop is running in this one."""
    if _run_by is not None:
        result: T = _run_by(coroutine)
        return result
    if asyncio._get_running_loop() is not None:
        return _run_elsewhere(coroutine)
    runner = _thread.runner
    if runner is None or _thread.pid != os.getpid():
        # A loop inherited over a fork shares its selector with the parent: leave it alone.
        runner = _thread.runner = asyncio.Runner()
        _thread.pid = os.getpid()
    try:
        outcome = runner.run(_outcome(coroutine), context=copy_context())
    except BaseException:
        _thread.runner = None
        runner.close()
        raise
    if outcome.error is not None:
        raise outcome.error
    value: T = outcome.value
    return value


class _Outcome:
    """How the coroutine itself ended, told apart from how its loop did."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any = None, error: Exception | None = None) -> None:
        self.value = value
        self.error = error


async def _outcome(coroutine: Coroutine[Any, Any, Any]) -> _Outcome:
    try:
        return _Outcome(await coroutine)
    except Exception as exc:
        return _Outcome(error=exc)


def _run_elsewhere(coroutine: Coroutine[Any, Any, T]) -> T:
    outcome: list[_Outcome] = []
    context = copy_context()

    def work() -> None:
        outcome.append(context.run(asyncio.run, _outcome(coroutine)))

    thread = threading.Thread(target=work, name="pgtasks-coroutine")
    thread.start()
    thread.join()
    if not outcome:
        raise RuntimeError("The coroutine's event loop was stopped before it ended.")
    if outcome[0].error is not None:
        raise outcome[0].error
    result: T = outcome[0].value
    return result
