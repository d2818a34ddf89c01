"""Plans: logic that is written once, for threads and for coroutines.

A plan is a generator. It yields what has to be done outside of it, is sent the answer, or has the error raised in it, and
returns a value. Whoever carries it out knows how each need is met: by blocking, or by awaiting.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

__all__ = ("acarry_out", "carry_out")

T = TypeVar("T")
N = TypeVar("N")


def carry_out(plan: Generator[N, Any, T], do: Callable[[N], Any]) -> T:
    """Meet the needs of a plan, one after the other, by `do`; returns what the plan returns."""
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


async def acarry_out(plan: Generator[N, Any, T], do: Callable[[N], Awaitable[Any]]) -> T:
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
