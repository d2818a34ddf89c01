"""`wf`: the functions that the code of a workflow calls.

In a workflow that is a coroutine function, every function here that records or waits is awaited; in a plain one it is
just called. The code between steps must be deterministic, since it is run again when the workflow resumes: the time,
random values and the outside world belong in steps, or come from functions of this module.
"""

from __future__ import annotations

import random as chance
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from inspect import isawaitable, iscoroutine
from math import inf, isfinite
from typing import Any, NamedTuple
from uuid import UUID
from uuid import uuid4 as fresh_uuid

from pgtasks import _state
from pgtasks.app.task import Task
from pgtasks.exceptions import RunSuspended, TimeoutError, WorkflowError
from pgtasks.store import workflows
from pgtasks.utils.functional import noop
from pgtasks.workflow import gathering, waiting
from pgtasks.workflow.base import Attempts
from pgtasks.workflow.effects import Plan, current_step
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
#: 300 years: what is longer has no date in Python.
LONGEST_S = 1e10
#: A run that waits for no time is due in this year.
END_OF_TIME = 9999
#: What a column for counts takes.
MOST_RETRIES = 32_000


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
    delay: float | timedelta = 1.0,
    backoff: float = 2.0,
    max_delay: float | timedelta = 3600.0,
    on: type[Exception] | tuple[type[Exception], ...] = Exception,
    transactional: Any = None,
    **kwargs: Any,
) -> Any:
    """Call `fn(*args, **kwargs)` and record its outcome: a replay returns that value, or raises that error, again.

    After a failure with one of `on` it is tried again up to `retries` times, after `delay` seconds, `backoff` times more each
    time, up to `max_delay`; the count and the waiting survive crashes. `name` is what the step is found by; by default it is
    the function's. A step whose worker dies before it is recorded is run again: see `idempotency_key`. With `transactional`
    (True, a Django alias, a SQLAlchemy engine or sessionmaker) `fn` gets a connection as its first argument, and the step is
    recorded in that connection's transaction: exactly once.
    """
    run = _here("wf.step")
    if not callable(fn):
        raise _not_callable("wf.step", fn)
    if name is not None:
        workflows.checked_name("wf.step", name)
    if transactional is not None:
        if retries:
            raise WorkflowError(
                f"wf.step got transactional={transactional!r} and retries={retries!r}: what fails there is rolled back, and tried"
                " again as a whole. Leave retries out, and have the workflow tried again: autoretry_for=."
            )
        return run.perform_within(name or name_of(fn), fn, args, kwargs, transactional)
    attempts = None if retries == 0 else _attempts(retries, delay, backoff, max_delay, on)
    return run.perform_step(name or name_of(fn), "step", fn, args, kwargs, attempts)


def _attempts(
    retries: int, delay: float | timedelta, backoff: float, max_delay: float | timedelta, on: Any
) -> Attempts:
    """What `wf.step` was told of its retries."""
    if not isinstance(retries, int) or not 0 <= retries <= MOST_RETRIES:
        raise WorkflowError(f"wf.step got retries={retries!r}. Pass a whole number, from 0 to {MOST_RETRIES}.")
    spans = [_seconds(f"wf.step, as {name},", span) or 0.0 for name, span in (("delay", delay), ("max_delay", max_delay))]
    if min(spans) < 0 or not isinstance(backoff, int | float) or not 0 <= backoff < inf:
        raise WorkflowError(
            f"wf.step got delay={delay!r}, backoff={backoff!r} and max_delay={max_delay!r}. Pass numbers that are not negative."
        )
    kinds = on if isinstance(on, tuple) else (on,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise WorkflowError(f"wf.step got on={on!r}. Pass a class of exceptions, or a tuple of some.")
    return Attempts(retries, spans[0], float(backoff), spans[1], kinds)


def _not_callable(what: str, thing: Any) -> WorkflowError:
    if isawaitable(thing):
        if iscoroutine(thing):
            thing.close()  # or Python complains that nobody has awaited it
        return WorkflowError(
            f"{what} got what a coroutine function has given. Pass the function itself, and its arguments behind it:"
            f" `{what}(fetch, url)`, not `{what}(fetch(url))`."
        )
    return WorkflowError(
        f"{what} got {thing!r}, which cannot be called. Pass the function itself, and its arguments behind it:"
        f" `{what}(charge, 7)`, not `{what}(charge(7))`."
    )


def name_of(fn: Any) -> str:
    """The name of a step that was given none."""
    while isinstance(fn, partial):
        fn = fn.func
    name = fn.name if isinstance(fn, Task) else getattr(fn, "__qualname__", None)
    return str(name or type(fn).__name__).rpartition("<locals>.")[2]


def gather(*things: Any) -> Any:
    """Run steps concurrently and return their values in order.

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
    return _here("wf.patched").perform_patched(workflows.checked_name("wf.patched", change))


# -- waiting


def sleep(seconds: float | timedelta) -> Any:
    """Suspend the run for some time: seconds, or a year. Meanwhile it is only a row."""
    run = _here("wf.sleep")
    span = _seconds("wf.sleep", seconds)
    if span is None:
        raise _no_time("wf.sleep", seconds)
    return run.perform(waiting.sleep(run, run.place("wf.sleep"), span))


def sleep_until(moment: datetime) -> Any:
    """Suspend the run until a moment; without a time zone it is taken as UTC."""
    run = _here("wf.sleep_until")
    if not isinstance(moment, datetime):
        raise WorkflowError(f"wf.sleep_until got {moment!r}. Pass a datetime; for a span of time there is wf.sleep.")
    if moment.year >= END_OF_TIME:
        raise WorkflowError(f"wf.sleep_until got {moment!r}, and the calendar of the database ends in {END_OF_TIME}.")
    return run.perform(waiting.sleep_until(run, run.place("wf.sleep"), moment))


def wait(name: str, timeout: float | timedelta | None = None, default: Any = _UNSET) -> Any:
    """Wait for a signal of this name and give its value; each is used once, in the order in which they were sent.

    After `timeout` seconds give `default`, or raise `pgtasks.exceptions.TimeoutError` without one; that verdict stands, and a
    signal that comes later is left for the next wait.
    """
    run = _here("wf.wait")
    workflows.checked_name("wf.wait", name)
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
    names = tuple(workflows.checked_name("wf.wait_any", each) for each in things if isinstance(each, str))
    tasks = [each for each in things if not isinstance(each, str)]
    if not things or not all(getattr(each, "is_single", False) for each in tasks):
        raise WorkflowError(f"wf.wait_any got {things!r}. Pass names of signals, and results of single tasks, one or more.")
    results = {str(each.id): each for each in tasks}
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
    workflows.checked_name("wf.approval", name)
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
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if seconds is None or (isinstance(seconds, int | float) and seconds <= LONGEST_S and isfinite(seconds)):
        return seconds
    raise _no_time(what, span)


def _no_time(what: str, span: Any) -> WorkflowError:
    return WorkflowError(
        f"{what} got {span!r} for a time. Pass seconds, as a number, or a timedelta: 300 years at most."
    )


# -- telling others


def set(name: str, value: Any) -> Any:
    """Publish a value: `AsyncResult(id).value(name)` gives the newest."""
    run = _here("wf.set")
    return run.perform_value(f"set {workflows.checked_name('wf.set', name)}", "set", lambda: value, noop)


def emit(value: Any, stream: str = "out") -> Any:
    """Add a value to a stream of this run, which `AsyncResult(id).stream()` follows; each is there exactly once."""
    run = _here("wf.emit")
    return run.perform_value(f"emit {workflows.checked_name('wf.emit', stream)}", "emit", lambda: value, noop)


# -- the course of the run


def on_undo(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
    """Have `fn(*args, **kwargs)` called should this run fail or be cancelled: the last registered first, each as a step."""
    run = _here("wf.on_undo")
    if not callable(fn):
        raise _not_callable("wf.on_undo", fn)
    run.undos.append((name_of(fn), run.body_of(fn, args, kwargs)))


def restart() -> Any:
    """Restart this run under its id with an empty history; signals that were not used stay."""
    run = _here("wf.restart")
    return run.perform(_restart(run))


def _restart(run: Run) -> Plan[None]:
    held = yield workflows.restart(run.hold, run.generation + 1)
    if not held:
        run.check(None)
    run.leave(RunSuspended(f"Run {run.hold.run} restarts"))
