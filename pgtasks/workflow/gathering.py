"""Concurrent steps. Their places in the history are assigned before any of them begins, so that a replay matches each
step with its own record, in whatever order they finished."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from pgtasks.exceptions import Unwound, WorkflowError
from pgtasks.workflow.run import Run

__all__ = ("gather",)

MOST_THREADS = 32


def gather(run: Run, things: Sequence[Any], name_of: Callable[[Any], str]) -> Any:
    """Begin all of them; gives their values in order, or a coroutine that does."""
    if run.is_async:
        return _agather([_begun(run, thing, name_of) for thing in things])
    waits = [index for index, thing in enumerate(things) if _is_result(thing)]
    calls = {i: _prepared(run, things[i], name_of) for i in range(len(things)) if i not in waits}
    values = dict(zip(calls, _in_threads(list(calls.values())), strict=True))
    outcomes = [values.get(index) or _called(things[index].get) for index in range(len(things))]
    return _given(outcomes)


def _is_result(thing: Any) -> bool:
    return hasattr(thing, "as_tuple") and hasattr(thing, "get")


def _prepared(run: Run, thing: Any, name_of: Callable[[Any], str]) -> Callable[[], Any]:
    if hasattr(thing, "task") and hasattr(thing, "args"):
        task = thing.type
        return run.prepared_step(task.name, "task", task, tuple(thing.args), dict(thing.kwargs))
    if not callable(thing):
        raise WorkflowError(
            f"wf.gather got {thing!r}. Pass signatures, functions without arguments, or results: `wf.gather(charge.s(1), check)`."
        )
    return run.prepared_step(name_of(thing), "step", thing, (), {})


_Outcome = tuple[Any, BaseException | None]


def _called(call: Callable[[], Any]) -> _Outcome:
    try:
        return call(), None
    except Unwound:
        raise
    except Exception as error:
        return None, error


def _in_threads(calls: Sequence[Callable[[], Any]]) -> list[_Outcome]:
    if not calls:
        return []
    with ThreadPoolExecutor(min(len(calls), MOST_THREADS), thread_name_prefix="wf-gather") as pool:
        futures = [pool.submit(copy_context().run, _called, call) for call in calls]
    return [future.result() for future in futures]


def _given(outcomes: Sequence[_Outcome]) -> list[Any]:
    for _, error in outcomes:
        if error is not None:
            raise error
    return [value for value, _ in outcomes]


# -- coroutines


def _begun(run: Run, thing: Any, name_of: Callable[[Any], str]) -> Any:
    if inspect.isawaitable(thing):
        return thing
    return _prepared(run, thing, name_of)()


async def _agather(awaitables: Sequence[Any]) -> list[Any]:
    outcomes = await asyncio.gather(*awaitables, return_exceptions=True)
    unwound = next((each for each in outcomes if isinstance(each, Unwound)), None)
    if unwound is not None:
        raise unwound
    return _given([(None, each) if isinstance(each, BaseException) else (each, None) for each in outcomes])
