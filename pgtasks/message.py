"""The values that travel: a `Message` to run, a `Claim` on it, and its `Outcome`.

A message is written once by a producer and never changes. A claim is a message leased to one worker; its
`delivery` number is the fence that every later write names. An outcome says what the store must do with the claim:

    done   store the result, release what waits for it
    again  run it once more when it is due (a retry)
    back   return it to the queue as it was: never started, rejected with requeue, or its child died
    gone   nothing: the task has settled itself, in a transaction of its own

Ids are UUIDs of version 7 (RFC 9562): time ordered, so that indexes grow at one end, and made by the client, so that
a repeated enqueue changes nothing. Their last ten bits are the slot of the root task, shared by every descendant.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID, SafeUUID, uuid5

SLOT_BITS = 10
SLOT_MASK = (1 << SLOT_BITS) - 1

#: A number of losses that makes the next claimer fail the task: it is at most once and may have run.
NEVER_AGAIN = 32767

#: Namespace of the UUIDs that stand for a user's own, non-UUID task ids.
TASK_ID_NAMESPACE = UUID("0b7cbb9e-3c0f-5f5a-9a55-6f1d0b1f7c11")

_VERSION_7 = 0x7 << 76
_VARIANT = 0x2 << 62
_RAND_A_MASK = 0xFFF
_RAND_B_MASK = (1 << 62) - 1


def uuid_of(data: bytes) -> UUID:
    """`UUID(bytes=data)` in a fraction of the time: it does not look for what cannot be wrong here."""
    return _uuid(int.from_bytes(data, "big"))


def _uuid(number: int) -> UUID:
    made = _new(UUID)
    _set_int(made, number)
    _set_is_safe(made, _UNKNOWN)
    return made


# Looked up once: a member of an enum takes as long to find as the rest of an id to make.
_new, _UNKNOWN = object.__new__, SafeUUID.unknown
_set_int, _set_is_safe = UUID.int.__set__, UUID.is_safe.__set__  # type: ignore[attr-defined, misc]  # slots


def new_id(root: UUID | None = None) -> UUID:
    """Make a time-ordered task id; with `root`, one that shares the root's slot."""
    random = int.from_bytes(os.urandom(10), "big")
    tail = random & _RAND_B_MASK
    if root is not None:
        tail = (tail & ~SLOT_MASK) | slot_of(root)
    milliseconds = time.time_ns() // 1_000_000
    return _uuid((milliseconds << 80) | _VERSION_7 | ((random >> 62 & _RAND_A_MASK) << 64) | _VARIANT | tail)


@dataclass(frozen=True, slots=True)
class Ids:
    """Ids that were made together, in order: they share their first 64 bits, which are `head`."""

    head: int
    tails: tuple[int, ...]

    def __iter__(self) -> Iterator[UUID]:
        high = self.head << 64
        return (UUID(int=high | tail) for tail in self.tails)

    def __len__(self) -> int:
        return len(self.tails)


def new_ids(count: int, root: UUID | None = None) -> Ids:
    """Make many task ids for the price of a few; with `root`, ones that share its slot.

    They are sorted, as ids made one after the other are: an index takes them at one end.
    """
    while True:
        head = ((time.time_ns() // 1_000_000) << 16) | 0x7000 | (int.from_bytes(os.urandom(2), "big") & _RAND_A_MASK)
        random = struct.unpack(f">{count}Q", os.urandom(8 * count))
        if root is None:
            tails = {(tail & _RAND_B_MASK) | _VARIANT for tail in random}
        else:
            keep, slot = _RAND_B_MASK & ~SLOT_MASK, _VARIANT | slot_of(root)
            tails = {(tail & keep) | slot for tail in random}
        if len(tails) == count:  # two that are alike would be one task
            return Ids(head, tuple(sorted(tails)))


def made_at(task_id: UUID) -> float:
    """When a time-ordered id was made, in seconds since 1970; 0 for an id of another kind."""
    return (task_id.int >> 80) / 1000 if task_id.version == 7 else 0.0


def slot_of(task_id: UUID) -> int:
    """The slot, 0 to 1023, that says which shard and bucket hold this task and its whole tree."""
    return task_id.int & SLOT_MASK


def id_of(task_id: str | UUID) -> UUID:
    """Map a task id to its key: a UUID is its own key, any other string has a UUID of version 5."""
    if isinstance(task_id, UUID):
        return task_id
    if not isinstance(task_id, str):
        raise TypeError(f"The task id {task_id!r} is a {type(task_id).__name__}. Give a string.")
    try:
        key = UUID(task_id)
    except ValueError:
        return uuid5(TASK_ID_NAMESPACE, task_id)
    # Only the canonical spelling may share the row of the UUID: ids are compared as strings by their users.
    return key if str(key) == task_id else uuid5(TASK_ID_NAMESPACE, task_id)


def own_spelling(task_id: str, key: UUID) -> str | None:
    """The user's spelling of an id, when the key alone does not give it back."""
    return None if task_id == str(key) else task_id


LONGEST_QUEUE_NAME = 255
HIGHEST_PRIORITY = 32767
#: 300 years, either way.
LONGEST_DELAY_S = 1e10
#: What Python's calendar holds in every time zone.
FIRST_YEAR, LAST_YEAR = 2, 9998

#: How the results of a task's predecessors become its first argument: not at all, one value, or their list.
Inputs = Literal["none", "value", "list"]
#: When a task with predecessors runs, if not once all have succeeded: once all have ended, once one has succeeded.
Trigger = Literal["all_done", "any"]


class Limits(NamedTuple):
    """The limits of a flow, for each key and in total; periods are in seconds."""

    is_keyed: bool
    concurrency: int | None
    rate: int | None
    period: float | None
    total_concurrency: int | None
    total_rate: int | None
    total_period: float | None


class UniqueKey(NamedTuple):
    """What makes calls one task, and for how long: until that has `ended` or `begun`, for a `period`, or while it is `waiting`
    to be debounced.
    """

    key: str
    until: Literal["ended", "begun", "period", "waiting"]
    period_s: float | None = None
    wait_s: float | None = None
    longest_s: float | None = None
    raises: bool = False


@dataclass(slots=True, kw_only=True)
class Message:
    """What to run, where and when. Never changed: `dataclasses.replace` makes another.

    It is not frozen only because every call makes one, and a frozen one of so many fields takes three times as long.

    `payload` is the serialised `[args, kwargs, embed]` of Celery's message protocol 2; a `content_type` of None
    means JSON in UTF-8. `options` is JSON: what Celery carries in message headers and has no column of its own.
    `due` wins over `countdown_s`, which counts from the database's clock at the enqueue. `inputs` is None for a task
    without predecessors.
    """

    id: UUID
    name: str
    payload: bytes
    content_type: str | None = None
    content_encoding: str | None = None
    queue: str = "celery"
    priority: int = 0
    due: datetime | None = None
    countdown_s: float | None = None
    expires: datetime | None = None
    expires_in_s: float | None = None
    root: UUID | None = None
    parent: UUID | None = None
    group_id: str | None = None
    task_id: str | None = None
    options: bytes | None = None
    max_deliveries: int | None = None
    inputs: Inputs | None = None
    trigger: Trigger | None = None
    #: The flow whose limits it waits for, and its key there.
    flow: tuple[str, str] | None = None
    unique: UniqueKey | None = None

    def __post_init__(self) -> None:
        """Refuse what no database can store, where it can still be blamed on the call that asks for it."""
        for text in (self.name, self.queue, self.task_id, self.group_id):
            if text is not None and not (type(text) is str and text.isascii() and text.isprintable()):
                _check_text(text, self)
        if len(self.queue) > LONGEST_QUEUE_NAME:
            raise ValueError(
                f"The queue name {self.queue[:40]!r}... has {len(self.queue)} characters; {LONGEST_QUEUE_NAME} fit."
            )
        if not -HIGHEST_PRIORITY <= self.priority <= HIGHEST_PRIORITY:
            raise ValueError(f"The priority {self.priority} of task {self.name!r} is not within ±{HIGHEST_PRIORITY}.")
        for delay_s in (self.countdown_s, self.expires_in_s):
            if delay_s is not None and not abs(delay_s) <= LONGEST_DELAY_S:
                raise ValueError(
                    f"Task {self.name!r} cannot be due, or expire, in {delay_s} seconds: no more than 300 years."
                )
        for moment in (self.due, self.expires):
            if moment is not None and not FIRST_YEAR <= moment.year <= LAST_YEAR:
                raise ValueError(
                    f"Task {self.name!r} cannot be due, or expire, at {moment}: years are {FIRST_YEAR} to {LAST_YEAR}."
                )

    @property
    def is_plain(self) -> bool:
        """True when the task can go straight to the ready queue."""
        return self.due is None and self.countdown_s is None and self.inputs is None and self.flow is None


def _check_text(text: Any, message: Message) -> None:
    if not isinstance(text, str):
        what = next(name for name in ("name", "queue", "task_id", "group_id") if getattr(message, name) is text)
        raise TypeError(f"The {what} of task {message.name!r} is {text!r}, a {type(text).__name__}. Give a string.")
    if "\0" in text:
        raise ValueError(f"{text!r} contains a NUL character, which no name or id may.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r} is not valid Unicode, as names and ids must be: {error.reason}.") from error


class Claim(NamedTuple):
    """One leased message, in the order of the columns that the `claim` statement returns.

    A named tuple, not a dataclass: it is built straight from the row and crosses a pipe as one.
    """

    id: UUID
    delivery: int
    retries: int
    rank: int
    seq: int
    #: How many of the earlier deliveries ended with the death of a worker or a child.
    losses: int
    #: "live", or why it must not run: "revoked", "expired", "lost" (too many deaths).
    fate: str
    name: str
    queue: str
    content_type: str | None
    content_encoding: str | None
    payload: bytes
    options: bytes | None
    root: UUID | None
    parent: UUID | None
    group_id: str | None
    task_id: str | None
    due: datetime | None
    expires: datetime | None
    #: None for a task without predecessors; else how it takes their results, which follow in the canvas' order.
    inputs: str | None
    trigger: str | None
    has_successors: bool
    input_states: list[str] | None
    input_types: list[str | None] | None
    input_encodings: list[str | None] | None
    input_values: list[bytes | None] | None

    @property
    def public_id(self) -> str:
        """The id as its user knows it."""
        return self.task_id or str(self.id)


#: Messages that are enqueued together, and the edges between them.
Batch = tuple[tuple[Message, ...], tuple[Any, ...]]

OutcomeKind = Literal["done", "again", "back", "gone"]


class Outcome(NamedTuple):
    """The outcome of one claim, ready to be settled.

    `hidden` results count for the canvas and for SQL, but not for `AsyncResult` (Celery's `ignore_result`).
    `fails` are the tasks that can never run because this one failed; they are settled with it.
    A named tuple: one is made twice for every task, and a frozen dataclass of so many fields takes three times as long.
    """

    id: UUID
    delivery: int
    kind: OutcomeKind = "done"
    state: str = "SUCCESS"
    value: bytes | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    traceback: bytes | None = None
    children: bytes | None = None
    hidden: bool = False
    has_successors: bool = False
    delay_s: float | None = None
    due: datetime | None = None
    retries: int = 0
    losses: int = 0
    changes: Message | None = None
    fails: tuple[Casualty, ...] = ()
    #: Enqueued with the outcome, in one transaction: the error handlers that are tasks.
    follow_ups: tuple[Batch, ...] = ()
    #: It has a place in a flow, which is given up with this.
    is_limited: bool = False
    #: It belongs to a group, so the body of a chord may wait for it with others.
    is_member: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Casualty:
    """A task that will never run since one it waits for failed."""

    id: UUID
    state: str
    value: bytes
    traceback: bytes | None = None
    children: bytes | None = None
    hidden: bool = False
