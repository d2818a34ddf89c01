"""`Run`: steps, waits and child tasks, as the workflow's code calls them.

Each call is assigned its place in the history when it is made, and then performed: at once in a plain workflow, as a
coroutine in one that is a coroutine function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any, TypeVar

from pgtasks.app.task import Task
from pgtasks.exceptions import Unwound, WorkflowError
from pgtasks.store import workflows
from pgtasks.store.workflows import Place, Wish
from pgtasks.utils.coroutines import run_coroutine
from pgtasks.utils.plans import carry_out
from pgtasks.workflow import spawning, waiting
from pgtasks.workflow.base import Attempts, BaseRun
from pgtasks.workflow.effects import Plan, perform
from pgtasks.workflow.transacting import step_within

__all__ = ("Run",)

T = TypeVar("T")


class Run(BaseRun):
    """One delivery of a run, carried out by a worker."""

    def drive(self, plan: Plan[T]) -> T:
        """Carry out a plan, here and now."""
        return carry_out(plan, self.do)

    def do(self, effect: Any) -> Any:
        """Perform an effect of a plan."""
        try:
            if isinstance(effect, Wish):
                effect = workflows.suspend(self.hold, effect)
            return perform(self.app.database, effect, self.hold.recorder)
        except Unwound as unwound:
            self.unwind(unwound)
            raise

    def perform(self, plan: Plan[Any]) -> Any:
        """Carry out a plan; in a workflow that is a coroutine function, give the coroutine that does."""
        if self.branches is not None:
            return self.branches.carry_out(plan)
        return self.drive(plan)

    def perform_step(
        self, name: str, kind: str, fn: Any, args: Any, kwargs: Any, attempts: Attempts | None = None
    ) -> Any:
        return self.prepared_step(name, kind, fn, args, kwargs, attempts)()

    def prepared_step(
        self, name: str, kind: str, fn: Any, args: Any, kwargs: Any, attempts: Attempts | None = None
    ) -> Callable[[], Any]:
        """A step that has its place, and is yet to be performed."""
        place = self.place(name)
        source = fn.transactional if isinstance(fn, Task) else None
        if source is not None:
            plan = step_within(self, place, kind, lambda _: fn(*args, **kwargs), source, awaits=_awaits(fn))
        else:
            plan = self.step(
                place, kind, self.body_of(fn, args, kwargs), attempts, threaded=self.is_async and not _awaits(fn)
            )
        return partial(self.perform, plan)

    def perform_within(self, name: str, fn: Any, args: Any, kwargs: Any, source: Any) -> Any:
        """A transactional step whose function gets the connection first."""
        plan = step_within(
            self, self.place(name), "step", lambda own: fn(own, *args, **kwargs), source, awaits=_awaits(fn)
        )
        return self.perform(plan)

    def body_of(self, fn: Any, args: Any, kwargs: Any) -> Callable[[], Any]:
        """The call of a step; in a plain workflow a coroutine function is run to its end."""
        if not self.is_async and _awaits(fn):
            return partial(_run_to_end, fn, args, kwargs)
        return partial(fn, *args, **kwargs)

    def perform_value(
        self, name: str, kind: str, make: Callable[[], Any], shape: Callable[[Any], Any] | None = None
    ) -> Any:
        """Record a value that is made here."""
        place = self.place(name)

        def plan() -> Plan[Any]:
            known = yield from self.known(place)
            if known is not None:
                value = self.replay(place, known)
            else:
                value = yield from self.record(place, kind, value=make())
            return shape(value) if shape is not None else value

        return self.perform(plan())

    def perform_patched(self, change: str) -> Any:
        """Record that the run came here with code that knows a change; not in the replay of one that came here before."""
        name = f"patched {change}"
        is_known = (name, 0) in self.history.steps
        if not is_known and self.history.is_replaying:
            return self.perform(_nothing(False))
        place = self.place(name, is_once=True)
        return self.perform(self._patch(place, is_known))

    def _patch(self, place: Place, is_known: bool) -> Plan[bool]:
        known = yield from self.known(place)
        if known is None:
            yield from self.record(place, "patch", value=True)
        return True

    def call(self, task: Any, args: Any, kwargs: Any) -> Any:
        """A task that is called as a function: an inline step. Gives a coroutine where the task's function does."""
        prepared = self.prepared_step(task.name, "task", task, args, kwargs)
        if self.branches is not None and not task.is_coroutine:
            plan = prepared.args[0]  # type: ignore[attr-defined]
            return self.drive(plan)
        return prepared()

    def spawn(self, place: Place, send: Callable[[], Any]) -> Plan[Any]:
        """Make tasks, exactly once."""
        return spawning.spawn(self, place, send)

    def publish(self, name: str, send: Callable[[], Any]) -> Any:
        """Make tasks: what `.delay()`, `.apply_async()` and a canvas do in a workflow."""
        return self.drive(self.spawn(self.place(f"delay {name}"), send))

    def get_result(self, result: Any, timeout: float | None, propagate: bool) -> Any:
        """Wait for a task: what `.get()` does in a workflow."""
        self._refuse_to_block(result)
        return self.drive(self._got(result, timeout, propagate))

    def aget_result(self, result: Any, timeout: float | None, propagate: bool) -> Any:
        """What awaiting a result does in a workflow; gives a coroutine."""
        return self._aperform(self._got(result, timeout, propagate))

    def _got(self, result: Any, timeout: float | None, propagate: bool) -> Plan[Any]:
        if result.ignored:
            return _nothing(None)
        if timeout is None:
            place = self.place(f"get {result.id}", is_once=True)
            return self._got_all([place], [result], propagate, lambda values: values[0])
        return self._got_in_time(self.place(f"get {result.id} in time"), result, timeout, propagate)

    def get_results(self, results: Any, propagate: bool) -> Any:
        """Wait for many tasks: what `.get()` of a group does in a workflow."""
        self._refuse_to_block(results)
        return self.drive(self._got_many(results, propagate))

    def aget_results(self, results: Any, propagate: bool) -> Any:
        """What awaiting a group does in a workflow; gives a coroutine."""
        return self._aperform(self._got_many(results, propagate))

    def telling(self, result: Any, name: str, value: Any, key: str | None) -> Plan[Any]:
        """Send a signal to another run, once: the key of the step stands for it."""
        place = self.place(f"signal {name}")
        call = partial(result._tell, name, value, key or self.key_of(place))
        return self.step(place, "signal", call, threaded=self.is_async)

    def _refuse_to_block(self, result: Any) -> None:
        if self.branches is not None:
            raise WorkflowError(
                f"{result!r} was asked by .get() in the asynchronous workflow {self.task.name!r}, whose other branches that"
                " would hold up. Await the result instead."
            )

    async def _aperform(self, plan: Plan[Any]) -> Any:
        return await self.branches.carry_out(plan) if self.branches is not None else self.drive(plan)

    def _got_many(self, results: Any, propagate: bool) -> Plan[Any]:
        leaves = {leaf.id: leaf for leaf in results.leaves() if not getattr(leaf, "ignored", False)}
        places = [self.place(f"get {each}", is_once=True) for each in leaves]

        def shaped(values: list[Any]) -> list[Any]:
            by_id = dict(zip(leaves, values, strict=True))
            return [member.shape(by_id) for member in results]

        return self._got_all(places, list(leaves.values()), propagate, shaped)

    def _got_all(
        self, places: list[Place], results: list[Any], propagate: bool, shaped: Callable[[list[Any]], Any]
    ) -> Plan[Any]:
        came = yield from waiting.get_all(self, places, [each.id for each in results])
        return shaped([self._value_of(place, each, propagate) for place, each in zip(places, came, strict=True)])

    def _got_in_time(self, place: Place, result: Any, timeout: float, propagate: bool) -> Plan[Any]:
        came = yield from waiting.get(self, place, result.id, timeout)
        return self._value_of(place, came, propagate)

    def _value_of(self, place: Place, came: Any, propagate: bool) -> Any:
        if came.state != "FAILURE":
            return self.load(came)
        error = self.error_of(came)
        self._raised[id(error)] = error, place
        if propagate:
            raise error
        return error


def _awaits(fn: Any) -> bool:
    if type(fn) is FunctionType:
        return bool(fn.__code__.co_flags & inspect.CO_COROUTINE)
    return fn.is_coroutine if isinstance(fn, Task) else inspect.iscoroutinefunction(fn)


def _run_to_end(fn: Any, args: Any, kwargs: Any) -> Any:
    return run_coroutine(fn(*args, **kwargs))


def _nothing(value: Any) -> Plan[Any]:
    return value
    yield
