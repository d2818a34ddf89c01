"""`BaseRun`: the logic of a run, as generators whose effects `pgtasks.workflow.effects` performs.

    step     known? replay it : run the body -> record its outcome, in one statement
    spawn    known? its result object : record it and enqueue the tasks, in one transaction
    wait     known? replay it : take what is there -> else suspend (see `pgtasks.workflow.waiting`)

Every write names the claim. Whoever loses it, is cancelled, or suspends, leaves the workflow's code by a subclass of
`Unwound`, which `except Exception` does not catch; from then on every further step raises the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.errors import UniqueViolation

from pgtasks import _state
from pgtasks.exceptions import EncodeError, RunCancelled, RunLost, RunSuspended, Unwound, WorkflowError
from pgtasks.message import id_of
from pgtasks.serialization import JSON, decode, decode_exception, encode, encode_exception
from pgtasks.store import workflows
from pgtasks.store.workflows import Hold, Pending, Place, Recorded, Step, Wish
from pgtasks.utils.log import get_logger
from pgtasks.workflow.branches import Branches
from pgtasks.workflow.effects import Body, Pause, Plan
from pgtasks.workflow.history import History

__all__ = ("Attempts", "BaseRun", "is_there", "outside")

logger = get_logger("pgtasks.workflow")

#: Waits up to this long stay in memory; a suspension costs more.
SHORT_S = 0.05
#: A run that no worker here can continue is tried again after this many seconds.
POSTPONED_S = 60.0
#: Values that come back from JSON as they went in.
_PLAIN = (type(None), bool, int, float, str)
#: Those that are the same in every JSON; to ask an encoder takes ten times as long.
_WRITERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"null",
    bool: lambda value: b"true" if value else b"false",
    int: lambda value: str(value).encode(),
    str: lambda value: encode_basestring_ascii(value).encode(),
}


class Attempts(NamedTuple):
    """How often a step is tried, and how long it waits between."""

    retries: int = 0
    delay_s: float = 1.0
    backoff: float = 2.0
    longest_s: float = 3600.0
    on: tuple[type[Exception], ...] = (Exception,)

    def allow(self, error: Exception, attempts: int) -> bool:
        return attempts <= self.retries and isinstance(error, self.on)

    def wait_s(self, attempts: int) -> float:
        try:
            return float(min(self.delay_s * self.backoff ** (attempts - 1), self.longest_s))
        except OverflowError:
            return self.longest_s


class BaseRun:
    """One delivery of a run: its recorded history, and what it does next."""

    #: Is what it does recorded?
    is_durable = True

    def __init__(self, app: Any, task: Any, hold: Hold) -> None:
        self.app = app
        self.task = task
        self.hold = hold
        self._name = str(hold.run)
        self.history = History()
        self.generation = 0
        self.is_cancelled = hold.is_cancelled
        self.is_undoing = False
        self.undos: list[tuple[str, Callable[[], Any]]] = []
        #: Tasks that this run has made, which is whose end it is told.
        self.children: set[UUID] = set()
        self.unwinding: Unwound | None = None
        #: Failures that were raised from steps, by the identity of the exception, which is kept with it.
        self._raised: dict[int, tuple[BaseException, Place]] = {}
        self.is_async: bool = task.is_coroutine
        self.branches: Branches | None = None

    # -- begin

    def begin(self) -> Plan[None]:
        """Read what is remembered; there is nothing to read on a first delivery."""
        if self.hold.delivery > 1:
            self.history.load((yield workflows.recall(self.hold.run)))
            for row in self.history.steps.values():
                if row.kind == "child" and row.state == "SUCCESS":
                    self.note_children(row)
                elif row.kind == "restart":
                    self.generation = row.ordinal
                    self.history.place(row.name, is_once=True)
        if self.task.mode == "pin":
            yield from self._pin()

    def note_children(self, row: Recorded) -> None:
        """Remember whose end this run is told."""
        self.children.update(UUID(each) for each in decode(row.value or b"", None)["tasks"])

    def _pin(self) -> Plan[None]:
        place = self.place("wf.version", is_once=True)
        known = self.history.at(place)
        if known is None:
            yield from self.record(place, "version", value=self.task.version)
        elif (version := self.load(known)) != self.task.version:
            logger.warning(
                "Run %s of %s began with version %r and this worker has %r: it waits for a worker with its own.",
                self.hold.run,
                self.task.name,
                version,
                self.task.version,
            )
            yield from self.postpone()

    # -- where the program is

    def place(self, name: str, *, is_once: bool = False) -> Place:
        """The next place of this name; raises what the run is being left by."""
        if self.unwinding is not None:
            raise self.unwinding
        if self.branches is not None and not is_once:
            name += self.branches.scope()
        return self.history.place(name, is_once=is_once)

    def known(self, place: Place) -> Plan[Recorded | None]:
        """What is remembered of a place, after looking whether code and history still agree."""
        known = self.history.at(place)
        drift = self.history.drift(place, known)
        if drift is not None and not self.is_undoing:
            mode = self.task.mode
            yield workflows.diverge(self.hold.run, drift.seq, mode, drift.found, drift.recorded)
            logger.warning(
                "Run %s of %s: its code came to %s where it remembers %s.",
                self.hold.run,
                self.task.name,
                drift.found,
                drift.recorded,
            )
            if mode == "strict":
                yield from self.postpone()
        if (known is None or known.state == "PENDING") and self.is_cancelled and not self.is_undoing:
            self.leave(RunCancelled(f"Run {self.hold.run} was revoked"))
        return known

    def postpone(self) -> Plan[None]:
        """Leave the run as it is until a worker can go on with it."""
        yield workflows.postpone(self.hold, POSTPONED_S)
        self.leave(RunSuspended("postponed"))

    def leave(self, unwound: Unwound) -> None:
        """Leave the workflow's code."""
        self.unwind(unwound)
        raise unwound

    def unwind(self, unwound: Unwound) -> None:
        """Make every further step raise this."""
        self.unwinding = unwound
        if self.branches is not None:
            self.branches.left.set()

    # -- steps

    def step(
        self,
        place: Place,
        kind: str,
        call: Callable[[], Any],
        attempts: Attempts | None = None,
        *,
        threaded: bool = False,
    ) -> Plan[Any]:
        """Run a step, or replay its recorded outcome."""
        known = yield from self.known(place)
        if known is not None and known.state != "PENDING":
            return self.replay(place, known)
        attempts = attempts or Attempts()
        tries = known.attempts if known is not None else 0
        if known is not None and known.due is not None and not known.is_due:
            yield from self.suspend(Wish(until=known.due))
        key = self.key_of(place)
        if self.app.around_step is not None:
            call = self.app.around_step(self.hold.run, place.name, place.ordinal, kind, call)
        while True:
            began_at = time.monotonic()
            tries += 1
            try:
                value = yield Body(key, call, threaded)
            except Exception as error:
                if attempts.allow(error, tries):
                    yield from self._try_again(place, kind, error, tries, attempts.wait_s(tries))
                    continue
                yield from self.fail(place, kind, error, tries, time.monotonic() - began_at, known is not None)
                raise
            took_s = time.monotonic() - began_at
            return (yield from self.record(place, kind, value=value, attempts=tries, took_s=took_s))

    def _try_again(self, place: Place, kind: str, error: Exception, tries: int, wait_s: float) -> Plan[None]:
        step = self._failure(place, kind, error, tries, None)
        pending = Step(
            place=place, kind=kind, state="PENDING", attempts=tries, content_type=step.content_type,
            content_encoding=step.content_encoding, value=step.value,
        )  # fmt: skip
        answer = yield workflows.amend(self.hold, pending, again_in_s=wait_s)
        self.check(None if answer is None else answer.is_cancelled)
        logger.info("Step %s of run %s failed and is tried again in %g s: %r", place.name, self.hold.run, wait_s, error)
        if wait_s <= SHORT_S:
            yield Pause(wait_s)
        else:
            yield from self.suspend(Wish(pending=(Pending(**place._asdict(), kind=kind),)))

    def fail(
        self, place: Place, kind: str, error: Exception, tries: int, took_s: float, is_pending: bool
    ) -> Plan[None]:
        self._raised[id(error)] = error, place
        step = self._failure(place, kind, error, tries, took_s)
        yield from self._write(step, is_pending=is_pending or tries > 1)

    def _failure(self, place: Place, kind: str, error: BaseException, tries: int, took_s: float | None) -> Step:
        serializer = self.app.backend.serializer
        encoded = self._encode(encode_exception(error, serializer))
        return Step(place=place, kind=kind, state="FAILURE", attempts=tries, took_s=took_s, **encoded)

    def record(
        self, place: Place, kind: str, *, value: Any = None, attempts: int = 1, took_s: float | None = None
    ) -> Plan[Any]:
        """Record a value; gives it as a replay will."""
        try:
            step = self.made(place, kind, value, attempts, took_s)
        except EncodeError as error:
            yield from self.fail(place, kind, error, attempts, took_s or 0.0, attempts > 1)
            raise
        is_pending = attempts > 1 or self.history.at(place) is not None
        adopted = yield from self._write(step, is_pending=is_pending)
        if adopted is not None:
            return self.replay(place, adopted)
        return self.given(value, step)

    def given(self, value: Any, step: Step) -> Any:
        """What a step gives to the code: the value as a replay will give it."""
        return value if type(value) in _PLAIN else self.load(step)

    def made(self, place: Place, kind: str, value: Any, attempts: int = 1, took_s: float | None = None) -> Step:
        """A step that succeeded, as it is recorded; raises EncodeError."""
        try:
            encoded = self._encode(self.app.backend.prepare_value(value))
        except EncodeError as error:
            raise EncodeError(
                f"Step {place.name!r} returned a {type(value).__name__} that cannot be written as"
                f" {self.app.backend.serializer}: {error}. Return plain data from steps, or set result_serializer."
            ) from error
        return Step(place=place, kind=kind, attempts=attempts, took_s=took_s, **encoded)

    def _write(self, step: Step, *, is_pending: bool) -> Plan[Recorded | None]:
        """Record a step; gives what was recorded before it, if anything was, for that stands."""
        if is_pending:
            amended = yield workflows.amend(self.hold, step)
            self.check(None if amended is None else amended.is_cancelled)
            if amended.is_recorded:
                return None
            return (yield from self.adopt(step.place, WorkflowError(f"Step {step.place.name!r} cannot be recorded.")))
        try:
            self.check((yield workflows.remember(self.hold, step)))
        except Exception as error:
            if not is_there(error):
                raise
            return (yield from self.adopt(step.place, error))
        return None

    def adopt(self, place: Place, error: Exception) -> Plan[Recorded]:
        """The first recorded outcome is the outcome: of an earlier holder, or of this one, when an answer was lost.

        Raises `error`, by which it was known that there is one, when there is none.
        """
        rows: list[Recorded] = yield workflows.recall(self.hold.run)
        self.check((yield workflows.held(self.hold)))
        found = next((row for row in rows if (row.name, row.ordinal) == (place.name, place.ordinal)), None)
        if found is None:
            raise error
        self.history.steps[place.name, place.ordinal] = found
        return found

    def check(self, is_cancelled: bool | None) -> None:
        """Continue only while the claim is held and the run is not cancelled."""
        if is_cancelled is None:
            self.leave(RunLost(f"Run {self.hold.run} is not held by this worker any more"))
        if is_cancelled and not self.is_undoing:
            self.is_cancelled = True
            self.leave(RunCancelled(f"Run {self.hold.run} was revoked"))

    def replay(self, place: Place, known: Recorded) -> Any:
        """Replay a recorded step: return its value, or raise its error."""
        if known.state != "FAILURE":
            return self.load(known)
        error = self.error_of(known)
        self._raised[id(error)] = error, place
        raise error

    def error_of(self, known: Any) -> BaseException:
        """The exception that was recorded."""
        stored = self.load(known)
        error = decode_exception(stored)
        return error if error is not None else WorkflowError("A step failed without a reason")

    def load(self, known: Any) -> Any:
        """Decode a recorded value."""
        if known.value is None:
            return None
        return decode(known.value, known.content_type, known.content_encoding, self.app.backend.accept)

    def _encode(self, value: Any) -> dict[str, Any]:
        backend = self.app.backend
        write = _WRITERS.get(type(value))
        if write is not None and backend.serializer == "json" and not backend.compression:
            try:
                return {"value": write(value)}
            except ValueError as error:  # an integer of thousands of digits
                raise EncodeError(str(error)) from error
        content_type, encoding, body = encode(value, backend.serializer, backend.compression)
        return {
            "content_type": None if content_type == JSON else content_type,
            "content_encoding": None if encoding == "utf-8" else encoding,
            "value": body,
        }

    def key_of_run(self) -> str:
        """The idempotency key of this run."""
        return f"{self._name}~{self.generation}" if self.generation else self._name

    def key_of(self, place: Place) -> str:
        """The idempotency key of this step: the same for every try and every replay of it."""
        return f"{self.key_of_run()}:{place.name}:{place.ordinal}"

    # -- suspending

    def suspend(self, wish: Wish) -> Plan[None]:
        """Suspend the run until something that it waits for is there; returns when it is there already."""
        self.note((yield wish))
        if self.unwinding is not None:
            raise self.unwinding

    def note(self, said: str) -> None:
        """Take in the answer to a suspension."""
        if said == "suspended":
            self.unwind(RunSuspended(f"Run {self.hold.run} waits"))
        elif said == "lost":
            self.unwind(RunLost(f"Run {self.hold.run} is not held by this worker any more"))
        elif said == "cancelled":
            self.is_cancelled = True
            self.unwind(RunCancelled(f"Run {self.hold.run} was revoked"))

    # -- children

    def is_own(self, task_id: str) -> bool:
        """Did this run make that task?"""
        return id_of(task_id) in self.children

    # -- the end

    def culprit(self, error: BaseException | None) -> Place | None:
        """The step whose failure an exception is, or comes from."""
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            if id(error) in self._raised:
                return self._raised[id(error)][1]
            error = error.__cause__ or error.__context__
        return None

    def undo(self) -> Plan[None]:
        """Call what was registered for this case, the last first, each as a step; one that fails does not stop the rest."""
        self.is_undoing, self.unwinding = True, None
        while self.undos:
            name, call = self.undos.pop()
            place = self.history.place(f"undo {name}")
            try:
                yield from self.step(place, "undo", call)
            except Exception:
                logger.exception("The undoing of %s in run %s failed.", name, self.hold.run)

    def close(self) -> Plan[None]:
        """Called at the end of the code: log recorded steps that it did not reach."""
        if self.is_cancelled:
            self.leave(RunCancelled(f"Run {self.hold.run} was revoked before that was known"))
        if not self.history.last_seq:
            return
        for row in self.history.unvisited():
            if row.kind != "undo":
                mode = self.task.mode
                yield workflows.diverge(self.hold.run, row.seq, mode, "the end", f"{row.name}#{row.ordinal}")


@contextmanager
def outside() -> Iterator[None]:
    """What is called in this block is called as if there were no run."""
    token = _state.current_run.set(None)
    try:
        yield
    finally:
        _state.current_run.reset(token)


def is_there(error: BaseException) -> bool:
    """Does an error say that a step is recorded already?"""
    return isinstance(error, UniqueViolation) or isinstance(error.__cause__, UniqueViolation)
