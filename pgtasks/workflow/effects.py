"""The effects of a run, and how they are performed: in threads and in coroutines.

The logic of a run is written once, as generators. They yield an effect, something that has to be done outside of them, and
are sent its answer, or have its error raised in them. Effects are `Query` (one statement), `Together` and `Transaction`
(some in one transaction), `Body` (the user's own code), `Pause` (sleep) and `Wish` (suspend until something is there).
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

from pgtasks import _state
from pgtasks.exceptions import OperationalError, RunInterrupted
from pgtasks.store import workflows
from pgtasks.store.sql import Query
from pgtasks.store.workflows import Recorder, Together

T = TypeVar("T")

#: What a generator of a run yields, gets and returns.
Plan = Generator[Any, Any, T]


class Transaction(NamedTuple):
    """Call `work` with what runs queries in one transaction, for queries that depend on the answers to those before."""

    work: Callable[[Callable[[Query[Any]], Any]], Any]


class Body(NamedTuple):
    """Call the user's code, as the step `key`."""

    key: str
    call: Callable[[], Any]
    is_threaded: bool = False


class Pause(NamedTuple):
    """Sleep for this many seconds."""

    seconds: float


#: The key of the step whose body runs here.
current_step: ContextVar[str | None] = ContextVar("pgtasks.step", default=None)


def call_body(body: Body) -> Any:
    """Run the body of a step: in it there is no run, so what it calls is called as anywhere else."""
    run_token = _state.current_run.set(None)
    step_token = current_step.set(body.key)
    try:
        return body.call()
    finally:
        current_step.reset(step_token)
        _state.current_run.reset(run_token)


async def acall_body(body: Body) -> Any:
    """`call_body` for coroutine functions; others run in a thread where asked for, so as not to hold up the loop."""
    run_token = _state.current_run.set(None)
    step_token = current_step.set(body.key)
    try:
        value = await asyncio.to_thread(body.call) if body.is_threaded else body.call()
        return await value if inspect.isawaitable(value) else value
    finally:
        current_step.reset(step_token)
        _state.current_run.reset(run_token)


def perform(database: Any, effect: Any, recorder: Recorder | None = None) -> Any:
    """Perform an effect in this thread; raises RunInterrupted when the database is away."""
    if isinstance(effect, Body):
        return call_body(effect)
    if isinstance(effect, Pause):
        return time.sleep(effect.seconds)
    try:
        if isinstance(effect, Transaction):
            return database.transact(effect.work)
        if recorder is not None and workflows.may_share(effect):
            return recorder.record(effect)
        if isinstance(effect, Together):
            return database.run_at_once(*effect.queries)
        return database.run(effect)
    except OperationalError as error:
        raise RunInterrupted(str(error)) from error
