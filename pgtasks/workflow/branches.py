"""The branches of an asynchronous run: which of them are active, and when all of them wait.

A run is suspended as a whole. So a branch that has to wait says so and sits out until no branch works any more; then one of
them suspends the run for all, until the first of what they wait for is there.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from pgtasks.exceptions import OperationalError, RunInterrupted, Unwound
from pgtasks.store import workflows
from pgtasks.store.records import CoroutineRecords
from pgtasks.store.workflows import Wish
from pgtasks.utils.plans import acarry_out
from pgtasks.workflow.effects import Body, Pause, Plan, acall_body

__all__ = ("Branches",)

T = TypeVar("T")

#: A branch that has ended a step may begin its next one a moment later: so long nobody takes it for waiting.
GRACE_S = 0.005


class Branches:
    """Carries out what the branches of one run need, on its event loop."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self._working = 0
        self._waiting: dict[object, Wish] = {}
        self._changed = asyncio.Event()
        self._suspending = asyncio.Lock()
        #: Set when the run's code must be left.
        self.left = asyncio.Event()
        self._scopes: dict[Any, str] = {}
        self.main: asyncio.Task[Any] | None = None

    # -- branches

    def scope(self) -> str:
        """What tells the steps of this branch from those of others; nothing for the main one."""
        task = asyncio.current_task()
        if task is self.main or task is None:
            return ""
        if task not in self._scopes:
            self._scopes[task] = f"@{len(self._scopes) + 1}"
        return self._scopes[task]

    async def carry_out(self, plan: Plan[T]) -> T:
        """Do what a plan needs, as part of this branch."""
        self._begin()
        try:
            return await acarry_out(plan, self._do)
        finally:
            self._end()

    def _begin(self) -> None:
        self._working += 1

    def _end(self) -> None:
        self._working -= 1
        self._changed.set()

    async def _do(self, need: Any) -> Any:
        if isinstance(need, Body):
            try:
                return await acall_body(need)
            except Unwound as unwound:
                self._run.unwind(unwound)
                raise
        if isinstance(need, Pause):
            return await asyncio.sleep(need.seconds)
        if isinstance(need, Wish) and self._run.is_durable:
            return await self._wait(need)
        return await self._ask(need)

    async def _ask(self, need: Any) -> Any:
        """Ask the database, together with other runs on this loop where that can be."""
        records = self._run.hold.recorder
        if isinstance(records, CoroutineRecords):
            asked = workflows.suspend(self._run.hold, need) if isinstance(need, Wish) else need
            if workflows.may_share(asked):
                return await self._record(records, asked)
        if self._run.hold.is_loop_shared or isinstance(need, Wish):
            return await asyncio.to_thread(self._run.do, need)
        # Nobody else is on this loop but branches of this run: a short statement may hold them up.
        return self._run.do(need)

    async def _record(self, records: CoroutineRecords, asked: Any) -> Any:
        try:
            return await records.arecord(asked)
        except OperationalError as error:
            interrupted = RunInterrupted(str(error))
            self._run.unwind(interrupted)
            raise interrupted from error

    # -- all wait

    async def _wait(self, wish: Wish) -> str:
        ticket = object()
        self._waiting[ticket] = wish
        self._end()
        try:
            while ticket in self._waiting:
                if self._run.unwinding is not None:
                    raise self._run.unwinding
                if await self._is_quiet():
                    await self._suspend()
                else:
                    self._changed.clear()
                    await self._changed.wait()
            return "ready"
        finally:
            self._waiting.pop(ticket, None)
            self._begin()

    async def _is_quiet(self) -> bool:
        if self._working:
            return False
        await asyncio.sleep(GRACE_S)
        return not self._working

    async def _suspend(self) -> None:
        async with self._suspending:
            if self._working or not self._waiting or self._run.unwinding is not None:
                return
            wishes = list(self._waiting.values())
            said = await self._ask(_together(wishes))
            if said == "ready":
                # For one of them; the others find that it is not theirs and come back.
                self._waiting.clear()
            else:
                self._run.note(said)
            self._changed.set()


def _together(wishes: list[Wish]) -> Wish:
    """What several branches wait for, as one: the run wakes for the first of it."""
    if len(wishes) == 1:
        return wishes[0]
    moments = [wish.until for wish in wishes if wish.until is not None]
    rechecks = [wish.recheck_s for wish in wishes if wish.recheck_s is not None]
    return Wish(
        tasks=tuple({task for wish in wishes for task in wish.tasks}),
        names=tuple({name for wish in wishes for name in wish.names}),
        pending=tuple(each for wish in wishes for each in wish.pending),
        until=min(moments, default=None),
        recheck_s=min(rechecks, default=None),
    )
