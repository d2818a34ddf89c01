"""Verbs on workflow runs: what they remember, wait for, and are told.

Whatever a run writes while it is claimed names its `Hold`: the fence. The statements, with what they rely on, are in
`workflows.sql`; what a worker asks of a run is here, what people ask is in `pgtasks.store.runs`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from psycopg import errors

from pgtasks.exceptions import WorkflowError
from pgtasks.store.sql import Query, Row, count, load, nothing

_SQL = load("workflows")

#: Names of steps and signals, and keys, are parts of keys of the database, in bytes: one that is longer than an index takes
#: would be refused again and again.
LONGEST_NAME = 1000


def checked_name(what: str, name: Any) -> str:
    """The name of a step or signal; raises `WorkflowError` for one that the database cannot keep."""
    if not isinstance(name, str):
        raise WorkflowError(f"{what} got {name!r} for a name. Pass a text.")
    try:
        size = len(name) if name.isascii() else len(name.encode())
    except UnicodeEncodeError as error:
        raise WorkflowError(f"{what} got {name[:40]!r} for a name, which is no Unicode text: {error}.") from error
    if size > LONGEST_NAME or "\0" in name:
        raise WorkflowError(
            f"{what} got a name of {size} bytes, {name[:40]!r}. Use one of at most {LONGEST_NAME}, without NUL, and put what"
            " is longer into the arguments."
        )
    return name


class Together(NamedTuple):
    """What a run asks in one transaction and one round trip; nothing of it is done when one of them fails."""

    queries: list[Query[Any]]


class Recorder(Protocol):
    """Asks the database for several runs at once."""

    def record(self, asked: Query[Any] | Together) -> Any:
        """Carry out what `may_share`."""


class Hold(NamedTuple):
    """By what a worker holds a run: the claim's key, which every write of the run names."""

    run: UUID
    worker: UUID
    delivery: int
    #: The run shares its event loop with others, which nothing may hold up.
    is_loop_shared: bool = False
    #: The run was revoked while nobody held it: it is replayed only to be undone.
    is_cancelled: bool = False
    #: By what its steps are recorded together with those of other runs; None for each by itself.
    recorder: Recorder | None = None


class Place(NamedTuple):
    """Where in a run a step is: its name, its ordinal among those of that name, and its number among all."""

    name: str
    ordinal: int
    seq: int


class Recorded(NamedTuple):
    """One step as a run remembers it."""

    name: str
    ordinal: int
    seq: int
    kind: str
    state: str
    attempts: int
    due: datetime | None
    is_due: bool | None
    source: str | None
    content_type: str | None
    content_encoding: str | None
    value: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What came of a step, to be recorded. A content type of None means JSON in UTF-8."""

    place: Place
    kind: str
    state: str = "SUCCESS"
    attempts: int = 1
    took_s: float | None = None
    source: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    value: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A wait that a suspended run must remember, for its time is running."""

    name: str
    ordinal: int
    seq: int
    kind: str
    source: str | None = None
    seconds: float | None = None
    due: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a run waits for; `is_set` is for all tasks together instead of the first of them."""

    tasks: tuple[UUID, ...] = ()
    names: tuple[str, ...] = ()
    is_set: bool = False
    pending: tuple[Pending, ...] = ()
    #: When a wait that is remembered already is over.
    until: datetime | None = None
    #: Poll after this many seconds, for tasks whose end is not announced.
    recheck_s: float | None = None


def recall(run: UUID) -> Query[list[Recorded]]:
    """Read everything that a run remembers, in the program's order."""
    return Query(_SQL["recall"], {"run": run}, _recorded)


def _recorded(found: Sequence[Row]) -> list[Recorded]:
    return [Recorded._make(row) for row in found]


def held(hold: Hold) -> Query[bool | None]:
    """Whether the run has been cancelled; None when the worker does not hold it any more."""
    return Query(_SQL["held"], hold._asdict(), _first)


def _first(found: Sequence[Row]) -> Any:
    return found[0][0] if found else None


def remember(hold: Hold, step: Step) -> Query[bool | None]:
    """Record a step; gives whether the run has been cancelled, None when nothing was recorded since the claim is gone.

    A step of this place that is there already makes it fail with a unique violation.
    """
    return Query(_SQL["remember"], _values(hold, step), _first)


def remember_within(hold: Hold, step: Step) -> Query[bool | None]:
    """`remember`, in the transaction that also holds what the step has written."""
    return Query(_SQL["remember_within"], _values(hold, step), _first)


def may_share(asked: Any) -> bool:
    """Whether this is a question that may go in one transaction with those of other runs of the worker.

    Limited tasks are let in under the lock of their flow, which must be the last lock of a transaction.
    """
    if isinstance(asked, Together):
        return not any(query.values.get("limited") for query in asked.queries)
    return isinstance(asked, Query) and asked.statement in _SHARED


def is_plain(query: Query[Any]) -> bool:
    """Whether this is the record of a step that can go in one statement with those of other runs."""
    values = query.values
    return (
        query.statement is _REMEMBER
        and values["state"] == "SUCCESS"
        and values["attempts"] == 1
        and values["content_type"] is values["content_encoding"] is values["source"] is None
    )


def remember_all(records: Sequence[Query[bool | None]]) -> Query[dict[UUID, bool]]:
    """Record steps of several runs of one worker at once; gives, of those that it still holds, whether they were cancelled.

    Fails with a unique violation, and records nothing, when one of them is there already.
    """
    values = [record.values for record in records]
    columns = {plural: [each[name] for each in values] for plural, name in _COLUMNS}
    return Query(_SQL["remember_all"], {**columns, "worker": values[0]["worker"]}, dict)


_REMEMBER = _SQL["remember"]
#: What a run asks often, and each of which is all of its transaction where it goes alone.
_SHARED = frozenset(_SQL[name] for name in ("recall", "remember", "amend", "collect", "receive", "suspend"))
_COLUMNS = (
    ("runs", "run"), ("deliveries", "delivery"), ("ordinals", "ordinal"), ("seqs", "seq"), ("tooks", "took"),
    ("kinds", "kind"), ("names", "name"), ("values", "value"),
)  # fmt: skip


def _values(hold: Hold, step: Step) -> dict[str, Any]:
    name, ordinal, seq = step.place
    return {
        "run": hold.run,
        "worker": hold.worker,
        "delivery": hold.delivery,
        "name": name,
        "ordinal": ordinal,
        "seq": seq,
        "kind": step.kind,
        "state": step.state,
        "attempts": step.attempts,
        "took": step.took_s,
        "source": step.source,
        "content_type": step.content_type,
        "content_encoding": step.content_encoding,
        "value": step.value,
    }


class Amended(NamedTuple):
    """The answer to `amend`."""

    is_cancelled: bool
    is_recorded: bool


def amend(hold: Hold, step: Step, *, again_in_s: float | None = None) -> Query[Amended | None]:
    """Record a step over its PENDING row; with `again_in_s`, as PENDING itself. None when the claim is gone."""
    return Query(_SQL["amend"], {**_values(hold, step), "seconds": again_in_s}, _amended)


def _amended(found: Sequence[Row]) -> Amended | None:
    return Amended._make(found[0]) if found else None


def adopt(hold: Hold, place: Place, value: bytes, source: str | None, tasks: Sequence[UUID]) -> Query[int]:
    """Record that a run makes tasks; run it at once with their `enqueue`. Fails when the claim is gone: `is_lost`."""
    values = {**hold._asdict(), **place._asdict(), "value": value, "source": source, "tasks": list(tasks)}
    return Query(_SQL["adopt"], values, count)


def is_lost(error: BaseException) -> bool:
    """Does an `adopt` say that the claim is gone?"""
    return any(isinstance(each, errors.ObjectNotInPrerequisiteState) for each in (error, error.__cause__))


class Came(NamedTuple):
    """What a wait was answered; `place` names the step of a `collect`."""

    state: str
    source: str | None
    content_type: str | None
    content_encoding: str | None
    value: bytes | None


class Answer(NamedTuple):
    """What there was to take: nothing yet when `came` is empty."""

    is_cancelled: bool
    came: dict[tuple[str, int], Came]


def collect(hold: Hold, places: Sequence[Place], tasks: Sequence[UUID]) -> Query[Answer | None]:
    """Record the results of those tasks that have ended, each as a step; None when the claim is gone."""
    values = {
        **hold._asdict(),
        "names": [place.name for place in places],
        "ordinals": [place.ordinal for place in places],
        "seqs": [place.seq for place in places],
        "tasks": list(tasks),
    }
    return Query(_SQL["collect"], values, _collected)


def _collected(found: Sequence[Row]) -> Answer | None:
    if not found:
        return None
    came = {
        (name, ordinal): Came("SUCCESS" if state == "SUCCESS" else "FAILURE", None, *rest)
        for _, name, ordinal, state, *rest in found
        if name is not None
    }
    return Answer(found[0][0], came)


def receive(hold: Hold, step: Step, names: Sequence[str], tasks: Sequence[UUID]) -> Query[Answer | None]:
    """Take the first of some signals and results that is there, or the end of the wait's time; None as for `collect`."""
    values = {**_values(hold, step), "names": list(names), "tasks": list(tasks)}
    place = step.place.name, step.place.ordinal

    def read(found: Sequence[Row]) -> Answer | None:
        if not found:
            return None
        is_cancelled, state, *rest = found[0]
        return Answer(is_cancelled, {} if state is None else {place: Came(state, *rest)})

    return Query(_SQL["receive"], values, read)


def suspend(hold: Hold, wish: Wish) -> Query[str]:
    """Suspend a run until what it waits for is there: 'suspended', or why not: 'lost', 'cancelled', 'ready'."""
    values = {
        **hold._asdict(),
        "steps": json.dumps([asdict(each) for each in wish.pending]),
        "tasks": sorted(set(wish.tasks)),
        "wanting": 2 if wish.is_set else 1,
        "names": list(wish.names),
        "until": wish.until,
        "recheck": wish.recheck_s,
    }
    return Query(_SQL["suspend"], values, _first)


def postpone(hold: Hold, seconds: float) -> Query[int]:
    """Give a run up for some seconds; 1 if it was held."""
    return Query(_SQL["postpone"], {**hold._asdict(), "seconds": seconds}, count)


def restart(hold: Hold, generation: int) -> Query[int]:
    """Restart a run under its id, for the nth time; 1 if it was held."""
    return Query(_SQL["restart"], {**hold._asdict(), "generation": generation}, count)


def committed(task: UUID, delivery: int) -> Query[bool]:
    """Whether a task has ended in this delivery."""
    return Query(_SQL["committed"], {"run": task, "delivery": delivery}, _first)


def diverge(run: UUID, seq: int, mode: str, found: str, recorded: str) -> Query[None]:
    """Log that a run's code came to something else than what is recorded."""
    values = {"run": run, "seq": seq, "mode": mode, "found": found, "recorded": recorded}
    return Query(_SQL["diverge"], values, nothing)


def forget_failure(hold: Hold, name: str, ordinal: int) -> Query[int]:
    """Forget a failed step, so that it is run again; 1 if there was one."""
    return Query(_SQL["forget_failure"], {**hold._asdict(), "name": name, "ordinal": ordinal}, count)


def blame(hold: Hold, name: str, ordinal: int) -> Query[int]:
    """Note that a failed step is what ends its run; 1 if there was one."""
    return Query(_SQL["blame"], {**hold._asdict(), "name": name, "ordinal": ordinal}, count)


def signal(
    run: str, name: str, value: bytes, content_type: str | None, content_encoding: str | None, key: str | None
) -> Query[bool]:
    """Send a signal; false when it was sent before under this key."""
    values = {
        "run": run,
        "name": name,
        "value": value,
        "content_type": content_type,
        "content_encoding": content_encoding,
        "key": key,
    }
    return Query(_SQL["signal"], values, _first)


class Emitted(NamedTuple):
    """A piece of a stream."""

    ordinal: int
    content_type: str | None
    content_encoding: str | None
    value: bytes | None


def emitted(run: UUID, name: str, after: int, limit: int = 1000) -> Query[tuple[bool, list[Emitted]]]:
    """Whether a run has ended, and what it has emitted from an ordinal on."""
    return Query(_SQL["emitted"], {"run": run, "name": name, "after": after, "limit": limit}, _emitted)


def _emitted(found: Sequence[Row]) -> tuple[bool, list[Emitted]]:
    return found[0][0], [Emitted._make(row[1:]) for row in found if row[1] is not None]


def latest(run: UUID, name: str) -> Query[Row | None]:
    """The newest value a run has set under a name: content type, encoding, value."""
    return Query(_SQL["latest"], {"run": run, "name": name}, _row)


def _row(found: Sequence[Row]) -> Row | None:
    return found[0] if found else None
