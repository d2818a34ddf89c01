"""`@app.workflow`: a task whose body has a run.

    worker: execute -> tracer -> Workflow.__call__ -> run.begin -> the body -> run.close
                                                  \\-> failed or cancelled: run.undo

Called as a function inside another workflow, its body is part of that workflow's run. Called anywhere else, or eagerly, it
runs in memory and records nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from pgtasks import _state
from pgtasks.app.task import Task
from pgtasks.exceptions import ImproperlyConfigured, RunCancelled, TaskPredicate, TaskRevokedError
from pgtasks.serialization import encode, encode_exception
from pgtasks.store import tasks, workflows
from pgtasks.workflow.branches import Branches
from pgtasks.workflow.effects import Plan
from pgtasks.workflow.memory import MemoryRun
from pgtasks.workflow.run import Run

__all__ = ("Workflow",)

Mode = Literal["tolerant", "strict", "pin"]
_MODES = ("tolerant", "strict", "pin")
_POLICIES = ("cancel", "leave")


class Workflow(Task[Any, Any]):
    """Base class of workflows."""

    abstract = True
    #: Set by the worker: the hold under which the run writes.
    remembers = True

    #: What to do where the code no longer fits what a run remembers: `tolerant` goes by the names of steps and logs what
    #: differs, `strict` leaves the run alone until the code is mended, `pin` leaves it to workers of the same `version`.
    mode: Mode = "tolerant"
    version: str | int | None = None
    #: What becomes of the tasks that a run has made when it is cancelled: `cancel` or `leave`.
    children: Literal["cancel", "leave"] = "cancel"

    @classmethod
    def on_bound(cls, app: Any) -> None:
        super().on_bound(app)
        if cls.mode not in _MODES:
            raise ImproperlyConfigured(f"Workflow {cls.name} has mode={cls.mode!r}; it is one of {', '.join(_MODES)}.")
        if cls.children not in _POLICIES:
            raise ImproperlyConfigured(f"Workflow {cls.name} has children={cls.children!r}; it is cancel or leave.")
        if cls.mode == "pin" and cls.version is None:
            raise ImproperlyConfigured(
                f"Workflow {cls.name} has mode='pin' and no version=. Name one, and change it with the code."
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body: as a run of its own for a worker, as part of the workflow that calls it, or in memory."""
        request = self.request_stack.top
        hold = request.hold if request is not None else None
        if hold is None and _state.current_run.get() is not None:
            return self.run(*args, **kwargs)
        if hold is None:
            run: Run = MemoryRun(self.app, self)
        else:
            request.hold = None
            run = Run(self.app, self, hold)
        if self.is_coroutine:
            return self._alive(run, args, kwargs)
        return self._live(run, args, kwargs)

    def replayed(self, run: Run, args: Any, kwargs: Any) -> Any:
        """Run the body against a history."""
        return self._alive(run, args, kwargs) if self.is_coroutine else self._live(run, args, kwargs)

    # -- one delivery of a run

    def _live(self, run: Run, args: Any, kwargs: Any) -> Any:
        with _made_current(run):
            try:
                run.drive(run.begin())
                value = super().__call__(*args, **kwargs)
                _stop_if_unwound(run)
                run.drive(run.close())
                return value
            except BaseException as error:
                run.drive(self._ended_by(run, error))
                raise

    async def _alive(self, run: Run, args: Any, kwargs: Any) -> Any:
        run.branches = Branches(run)
        with _made_current(run):
            try:
                await run.branches.carry_out(run.begin())
                run.branches.main = body = asyncio.ensure_future(super().__call__(*args, **kwargs))
                value = await self._watched(run, body)
                await run.branches.carry_out(run.close())
                return value
            except BaseException as error:
                await run.branches.carry_out(self._ended_by(run, error))
                raise

    async def _watched(self, run: Run, body: asyncio.Future[Any]) -> Any:
        """Wait for the body; whatever it is busy with, it is over when the run is left."""
        assert run.branches is not None
        left = asyncio.ensure_future(run.branches.left.wait())
        try:
            await asyncio.wait((body, left), return_when=asyncio.FIRST_COMPLETED)
            if not body.done():
                body.cancel()
                await asyncio.wait((body,))
        finally:
            left.cancel()
            if not body.done():
                body.cancel()
        if run.unwinding is not None and not body.cancelled():
            body.exception()  # looked at: asyncio complains of those that nobody sees
        _stop_if_unwound(run)
        return body.result()

    def _ended_by(self, run: Run, error: BaseException) -> Plan[None]:
        """Handle an exception that left the body; raises the one that the run ends with."""
        if run.unwinding is not None and not isinstance(run.unwinding, RunCancelled):
            if error is not run.unwinding:
                raise run.unwinding
            return
        if run.unwinding is not None or isinstance(error, RunCancelled):
            cancelled = run.unwinding or error
            yield from self._cancel_children(run)
            yield from run.undo()
            raise cancelled
        if isinstance(error, TaskPredicate):
            # The run is retried: so is the step that failed it.
            place = run.culprit(error)
            if place is not None:
                yield workflows.forget_failure(run.hold, place.name, place.ordinal)
        elif isinstance(error, Exception):
            place = run.culprit(error)
            if place is not None:
                yield workflows.blame(run.hold, place.name, place.ordinal)
            yield from run.undo()

    def _cancel_children(self, run: Run) -> Plan[None]:
        if self.children == "cancel" and run.children:
            value = encode(encode_exception(TaskRevokedError("revoked"))).body
            yield tasks.revoke(sorted(run.children), value)


def _stop_if_unwound(run: Run) -> None:
    """Whatever the code has made of the exception that it was to be left by, it is left."""
    if run.unwinding is not None:
        raise run.unwinding


@contextmanager
def _made_current(run: Run) -> Iterator[None]:
    token = _state.current_run.set(run)
    try:
        yield
    finally:
        _state.current_run.reset(token)
