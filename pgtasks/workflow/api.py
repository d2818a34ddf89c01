"""`wf`: what the code of a workflow says to its run.

In a workflow that is a coroutine function, everything here that records or waits is awaited; in a plain one it is just
called. Code between steps must do the same whenever it is run again: time, chance and the outside world belong in steps, or
come from here.
"""

from __future__ import annotations

import random as chance
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from math import isfinite
from typing import Any, NamedTuple
from uuid import UUID
from uuid import uuid4 as fresh_uuid

from pgtasks import _state
from pgtasks.app.task import Task
from pgtasks.exceptions import RunSuspended, TimeoutError, WorkflowError
from pgtasks.store import workflows
from pgtasks.utils.functional import noop
from pgtasks.workflow import gathering, waiting
from pgtasks.workflow.course import Attempts
from pgtasks.workflow.need import Plan, current_step
from pgtasks.workflow.run import Run
from pgtasks.workflow.waiting import Sought

__all__ = (
    "Approval",
    "Arrival",
    "approval",
    "emit",
    "gather",
    "idempotency_key",
    "now",
    "on_undo",
    "patched",
    "random",
    "restart",
    "run_id",
    "set",
    "sleep",
    "sleep_until",
    "step",
    "uuid4",
    "wait",
    "wait_any",
)

_UNSET: Any = object()


class Arrival(NamedTuple):
    """What `wait_any` was answered: which of the things it waited for came first, and with what value."""

    source: Any
    value: Any


class Approval(NamedTuple):
    """What was decided; false as well when nobody decided in time."""

    approved: bool
    by: str | None = None
    comment: str | None = None

    def __bool__(self) -> bool:
        return self.approved


def _here(what: str) -> Run:
    run: Run | None = _state.current_run.get()
    if run is not None:
        return run
    step = current_step.get()
    if step is not None:
        raise WorkflowError(
            f"{what} was called inside the step {step!r}. A step is one piece: call {what} in the workflow's own code, or make"
            " the step's function a workflow and call that."
        )
    raise WorkflowError(
        f"{what} was called outside a workflow. Only the code of a function that is decorated with @app.workflow can use it,"
        " in its own thread or coroutine."
    )


# -- steps


def step(
    fn: Callable[..., Any],
    /,
    *args: Any,
    name: str | None = None,
    retries: int = 0,
    delay: float = 1.0,
    backoff: float = 2.0,
    max_delay: float = 3600.0,
    on: type[Exception] | tuple[type[Exception], ...] = Exception,
    transactional: Any = None,
    **kwargs: Any,
) -> Any:
    """Call `fn(*args, **kwargs)` and remember what came of it: a replay gives that value, or raises that error, again.

    After a failure with one of `on` it is tried again up to `retries` times, after `delay` seconds, `backoff` times more each
    time, up to `max_delay`; the count and the waiting survive crashes. `name` is what the step is found by; by default it is
    the function's. A step whose worker dies before it is recorded is run again: see `idempotency_key`. With `transactional`
    (True, a Django alias, a SQLAlchemy engine or sessionmaker) `fn` gets a connection as its first argument, and the step is
    recorded in that connection's transaction: exactly once.
    """
    run = _here("wf.step")
    if transactional is not None:
        return run.perform_within(name or name_of(fn), fn, args, kwargs, transactional)
    kinds = on if isinstance(on, tuple) else (on,)
    attempts = Attempts(retries, delay, backoff, max_delay, kinds)
    return run.perform_step(name or name_of(fn), "step", fn, args, kwargs, attempts)


def name_of(fn: Any) -> str:
    """The name of a step that was given none."""
    while isinstance(fn, partial):
        fn = fn.func
    name = fn.name if isinstance(fn, Task) else getattr(fn, "__qualname__", None)
    return str(name or type(fn).__name__).rpartition("<locals>.")[2]


def gather(*things: Any) -> Any:
    """Run some steps at the same time, and give what they return in their order.

    A thing is a signature, whose task is called as a step; a function without arguments, as for `step`; or a result, whose task
    is waited for. In a workflow that is a coroutine function, awaitables as well. When some fail, the first of them in this
    order raises, after all have ended.
    """
    return gathering.gather(_here("wf.gather"), things, name_of)


def idempotency_key() -> str:
    """A key for calls to the outside world: the same whenever this step is run again, and for no other step.

    Used in the workflow's own code it is the run's.
    """
    key = current_step.get()
    return key if key is not None else _here("wf.idempotency_key").key_of_run()


def run_id() -> str:
    """The id of the run, which is that of its task."""
    return str(_here("wf.run_id").hold.run)


def now() -> Any:
    """The time, in UTC; the same in every replay."""
    return _here("wf.now").perform_value("wf.now", "now", lambda: datetime.now(UTC))


def random() -> Any:
    """A number from 0 to 1; the same in every replay."""
    return _here("wf.random").perform_value("wf.random", "random", chance.random)


def uuid4() -> Any:
    """A random UUID; the same in every replay."""
    run = _here("wf.uuid4")
    return run.perform_value("wf.uuid4", "uuid4", lambda: str(fresh_uuid()), UUID)


def patched(change: str) -> Any:
    """Whether this run came here, first, with code that knows this change: so that older runs go on as they began.

    `if wf.patched("two-step-payment"): new() else: old()`.
    """
    return _here("wf.patched").perform_patched(change)


# -- waiting


def sleep(seconds: float | timedelta) -> Any:
    """Go on after some time: seconds, or a year. Meanwhile the run is a row, and nothing else."""
    run = _here("wf.sleep")
    span = _seconds("wf.sleep", seconds)
    return run.perform(waiting.sleep(run, run.place("wf.sleep"), span or 0.0))


def sleep_until(moment: datetime) -> Any:
    """Go on at a moment; without a time zone it is taken for UTC."""
    run = _here("wf.sleep_until")
    if not isinstance(moment, datetime):
        raise WorkflowError(f"wf.sleep_until got {moment!r}. Pass a datetime; for a span of time there is wf.sleep.")
    return run.perform(waiting.sleep_until(run, run.place("wf.sleep"), moment))


def wait(name: str, timeout: float | timedelta | None = None, default: Any = _UNSET) -> Any:
    """Wait for a signal of this name and give its value; each is used once, in the order in which they were sent.

    After `timeout` seconds give `default`, or raise `pgtasks.exceptions.TimeoutError` without one; that verdict stands, and a
    signal that comes later is left for the next wait.
    """
    run = _here("wf.wait")
    sought = Sought(names=(name,), timeout_s=_seconds("wf.wait", timeout))
    return run.perform(_wait(run, run.place(f"wait {name}"), sought, default))


def _wait(run: Run, place: Any, sought: Sought, default: Any) -> Plan[Any]:
    came = yield from waiting.wait(run, place, "wait", sought)
    if came.state != "TIMEOUT":
        return run.load(came)
    if default is not _UNSET:
        return default
    raise TimeoutError(f"No signal {sought} came within {sought.timeout_s:g} s.")


def wait_any(*things: Any, timeout: float | timedelta | None = None) -> Any:
    """Wait for the first of some signals, by name, and tasks, by their results; gives an `Arrival`, or None after `timeout`.

    A task that failed raises its error.
    """
    run = _here("wf.wait_any")
    names = tuple(each for each in things if isinstance(each, str))
    results = {str(each.id): each for each in things if not isinstance(each, str)}
    sought = Sought(names, tuple(results), _seconds("wf.wait_any", timeout))
    return run.perform(_wait_any(run, run.place("wf.wait_any"), sought, results))


def _wait_any(run: Run, place: Any, sought: Sought, results: Mapping[str, Any]) -> Plan[Arrival | None]:
    came = yield from waiting.wait(run, place, "wait_any", sought)
    if came.state == "TIMEOUT":
        return None
    if came.state == "FAILURE":
        raise run.error_of(came)
    keys = dict(zip(map(str, sought.keys), results.values(), strict=True))
    return Arrival(keys.get(came.source or "", came.source), run.load(came))


def approval(name: str, timeout: float | timedelta | None = None) -> Any:
    """Wait until somebody approves or rejects: `AsyncResult(id).approve(name, by=...)`; gives an `Approval`."""
    run = _here("wf.approval")
    sought = Sought(names=(f"approval:{name}",), timeout_s=_seconds("wf.approval", timeout))
    return run.perform(_approval(run, run.place(f"approval {name}"), sought))


def _approval(run: Run, place: Any, sought: Sought) -> Plan[Approval]:
    came = yield from waiting.wait(run, place, "approval", sought)
    if came.state == "TIMEOUT":
        return Approval(False)
    said = run.load(came)
    if not isinstance(said, Mapping):
        return Approval(bool(said))
    return Approval(bool(said.get("approved")), said.get("by"), said.get("comment"))


def _seconds(what: str, span: float | timedelta | None) -> float | None:
    """A span of time in seconds, for `what` to wait."""
    if isinstance(span, timedelta):
        return span.total_seconds()
    if span is None or (isinstance(span, int | float) and isfinite(span)):
        return span
    raise WorkflowError(f"{what} got {span!r} for a time. Pass seconds, as a number, or a timedelta.")


# -- telling others


def set(name: str, value: Any) -> Any:
    """Let others see a value: `AsyncResult(id).value(name)` gives the newest."""
    return _here("wf.set").perform_value(f"set {name}", "set", lambda: value, noop)


def emit(value: Any, stream: str = "out") -> Any:
    """Add a value to a stream of this run, which `AsyncResult(id).stream()` follows; each is there exactly once."""
    return _here("wf.emit").perform_value(f"emit {stream}", "emit", lambda: value, noop)


# -- the course of the run


def on_undo(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
    """Have `fn(*args, **kwargs)` called should this run fail or be cancelled: the last registered first, each as a step."""
    run = _here("wf.on_undo")
    run.undos.append((name_of(fn), run.body_of(fn, args, kwargs)))


def restart() -> Any:
    """Begin this run anew under its id, with an empty history; signals that were not used stay."""
    run = _here("wf.restart")
    return run.perform(_restart(run))


def _restart(run: Run) -> Plan[None]:
    held = yield workflows.restart(run.hold, run.generation + 1)
    if not held:
        run.check(None)
    run.leave(RunSuspended(f"Run {run.hold.run} begins anew"))
