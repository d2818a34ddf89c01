"""Steps that are recorded in the same transaction as their own writes: exactly once.

The body writes, the record follows in the same transaction, which locks the claim until it commits. Either both are there or
neither; a worker that has lost the run rolls back. When the answer to COMMIT is lost, the history says whether it was done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pgtasks.app.transactional import atransaction, is_connection_lost, transaction
from pgtasks.exceptions import RunInterrupted, RunLost
from pgtasks.store import borrow, workflows
from pgtasks.store.workflows import Place, Step
from pgtasks.utils.coroutines import run_coroutine
from pgtasks.workflow.base import BaseRun
from pgtasks.workflow.effects import Body, Plan

__all__ = ("step_within",)


class _Unsure(Exception):
    """An error came where the answer to COMMIT should have."""


def step_within(
    run: BaseRun, place: Place, kind: str, call: Callable[[Any], Any], source: Any, *, awaits: bool = False
) -> Plan[Any]:
    """Run a step in a transaction of this source, or replay its recorded outcome; `call` gets the connection."""
    known = yield from run.known(place)
    if known is not None and known.state != "PENDING":
        return run.replay(place, known)
    attempt = _Attempt(run, place, kind, call, source)
    try:
        value, step = yield attempt.body(awaits)
    except _Unsure as unsure:
        return (yield from _resolved(run, place, unsure))
    except Exception as error:
        yield from run.fail(place, kind, error, 1, attempt.took_s(), False)
        raise
    return run.given(value, step)


@dataclass(slots=True)
class _Attempt:
    """One run of the step's body in its transaction; gives the value and the recorded step."""

    run: BaseRun
    place: Place
    kind: str
    call: Callable[[Any], Any]
    source: Any
    is_recorded: bool = False
    began_at: float = field(default_factory=time.monotonic)

    def took_s(self) -> float:
        return time.monotonic() - self.began_at

    def body(self, awaits: bool) -> Body:
        key, is_async = self.run.key_of(self.place), self.run.is_async
        if not awaits:
            return Body(key, self.done, is_async)
        return Body(key, self.adone if is_async else lambda: run_coroutine(self.adone()))

    def done(self) -> tuple[Any, Step]:
        with self._doubting(), transaction(self.source, self.run.app) as connection:
            value = self.call(connection)
            step = self._made(value)
            if self.run.is_durable:
                self._check_held(borrow.run(connection, workflows.remember_within(self.run.hold, step)))
            self.is_recorded = True
        return value, step

    async def adone(self) -> tuple[Any, Step]:
        with self._doubting():
            async with atransaction(self.source, self.run.app) as connection:
                value = await self.call(connection)
                step = self._made(value)
                if self.run.is_durable:
                    self._check_held(await borrow.arun(connection, workflows.remember_within(self.run.hold, step)))
                self.is_recorded = True
        return value, step

    def _made(self, value: Any) -> Step:
        return self.run.made(self.place, self.kind, value, took_s=self.took_s())

    def _check_held(self, recorded: Any) -> None:
        if recorded is None:
            raise RunLost(f"Run {self.run.hold.run} is not held by this worker any more")

    @contextmanager
    def _doubting(self) -> Iterator[None]:
        """Turn an error after the record was written into `_Unsure`: the COMMIT may have been done."""
        try:
            yield
        except Exception as error:
            if self.is_recorded or _is_recorded_before(error):
                raise _Unsure from error
            raise


def _is_recorded_before(error: BaseException) -> bool:
    constraint = getattr(getattr(error, "diag", None), "constraint_name", None)
    return bool(constraint == "step_pkey")


def _resolved(run: BaseRun, place: Place, unsure: _Unsure) -> Plan[Any]:
    """Find out whether the step is there; if not, it was rolled back."""
    error = unsure.__cause__ or unsure
    rows = yield workflows.recall(run.hold.run)
    if any((row.name, row.ordinal) == (place.name, place.ordinal) for row in rows):
        adopted = yield from run.adopt(place, unsure)
        return run.replay(place, adopted)
    if is_connection_lost(error):
        run.leave(RunInterrupted(str(error)))
    raise error
