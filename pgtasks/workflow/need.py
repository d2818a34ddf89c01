"""What a run needs done, and the two ways of doing it: in threads and in coroutines.

The logic of a run is written once, as generators: they yield a need and are sent the answer, or have its error raised in
them. Needs are `Query` (one statement), `Together` and `Transaction` (some in one
transaction), `Body` (the user's own code), `Pause` and `Wish` (suspend until something is there).
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

from pgtasks import _state
from pgtasks.exceptions import OperationalError, RunInterrupted
from pgtasks.store import workflows
from pgtasks.store.sql import Query
from pgtasks.store.workflows import Recorder

T = TypeVar("T")

#: What a generator of a run yields, gets and returns.
Plan = Generator[Any, Any, T]


class Together(NamedTuple):
    """Run these in one transaction and one round trip; nothing of it is done when one of them fails."""

    queries: list[Query[Any]]


class Transaction(NamedTuple):
    """Call `work` with what runs queries in one transaction, for queries that depend on the answers to those before."""

    work: Callable[[Callable[[Query[Any]], Any]], Any]


class Body(NamedTuple):
    """Call the user's code, as the step `key`; `within` is entered around it."""

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


def supply(database: Any, need: Any, recorder: Recorder | None = None) -> Any:
    """Do what a run needs done, in a thread."""
    if isinstance(need, Body):
        return call_body(need)
    if isinstance(need, Pause):
        return time.sleep(need.seconds)
    try:
        if isinstance(need, Together):
            return database.run_at_once(*need.queries)
        if isinstance(need, Transaction):
            return database.transact(need.work)
        if recorder is not None and workflows.may_share(need):
            return recorder.record(need)
        return database.run(need)
    except OperationalError as error:
        raise RunInterrupted(str(error)) from error


def carry_out(plan: Plan[T], do: Callable[[Any], Any]) -> T:
    """Do what a plan needs, one need after the other; returns what it returns."""
    try:
        need = next(plan)
        while True:
            try:
                answer = do(need)
            except BaseException as error:
                need = plan.throw(error)
            else:
                need = plan.send(answer)
    except StopIteration as end:
        value: T = end.value
        return value


async def acarry_out(plan: Plan[T], do: Callable[[Any], Awaitable[Any]]) -> T:
    """`carry_out` for coroutines."""
    try:
        need = next(plan)
        while True:
            try:
                answer = await do(need)
            except BaseException as error:
                need = plan.throw(error)
            else:
                need = plan.send(answer)
    except StopIteration as end:
        value: T = end.value
        return value
