"""Verbs on flow control: limits of flows and queues, fairness between keys, unique and debounced calls.

A limited task's life has two more verbs: (enqueue: held, and let in) -> claim -> `begin`, perhaps `ask` -> settle, which
gives its place up. The statements, with what they rely on, are in `flows.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from pgtasks.message import Limits, Message, UniqueKey
from pgtasks.store.sql import Query, Row, count, load, nothing

_SQL = load("flows")


class FlowRow(NamedTuple):
    """A flow as people see it: its limits, and how far they are used."""

    name: str
    is_keyed: bool
    concurrency: int | None
    rate: int | None
    period_s: float | None
    total_concurrency: int | None
    total_rate: int | None
    total_period_s: float | None
    is_set_by_hand: bool
    let_in: int
    held: int
    oldest_s: float | None


class QueueLimit(NamedTuple):
    """What a queue is limited to, and how many of its tasks workers hold."""

    queue: str
    concurrency: int | None
    per_worker: int | None
    rate: int | None
    period_s: float | None
    claimed: int = 0


class Taken(NamedTuple):
    """Which tasks stand for the keys of some calls; true if they are the calls' own."""

    own: tuple[UUID, ...]
    holders: tuple[UUID, ...]

    def __bool__(self) -> bool:
        return self.own == self.holders


def declare(name: str, limits: Limits, *, by_hand: bool = False) -> Query[bool]:
    """Set the limits of a flow; those that somebody has set by hand are not changed by a program's."""
    return Query(_SQL["declare"], {"name": name, **limits._asdict(), "by_hand": by_hand}, _first)


def undo_by_hand(name: str) -> Query[int]:
    """Go back to the limits that programs declare."""
    return Query(_SQL["undo_by_hand"], {"name": name}, count)


def flows() -> Query[list[FlowRow]]:
    """The flows there are."""
    return Query(_SQL["flows"], {}, _flows)


def _flows(found: Sequence[Row]) -> list[FlowRow]:
    return [FlowRow._make(row) for row in found]


def begin(task: UUID, worker: UUID, delivery: int, flow: str, key: str) -> Query[str]:
    """May a claimed task begin: `go`, `lost`, or `ask`."""
    return Query(_SQL["begin"], _asking(task, worker, delivery, flow, key), _first)


def ask(task: UUID, worker: UUID, delivery: int, flow: str, key: str) -> Query[str]:
    """May a claimed task begin that has no place yet: `go`, `lost`, `unknown` flow, or `held` and not claimed any more."""
    return Query(_SQL["ask"], _asking(task, worker, delivery, flow, key), _first)


def _asking(task: UUID, worker: UUID, delivery: int, flow: str, key: str) -> dict[str, Any]:
    return {"task": task, "worker": worker, "delivery": delivery, "flow": flow, "key": key}


def leave(tasks: Sequence[UUID]) -> Query[None]:
    """Give up the places of tasks that nobody runs any more."""
    return Query(_SQL["leave"], {"tasks": list(tasks)}, nothing)


class Swept(NamedTuple):
    """How many tasks were let in, and the seconds until a rate lets in more."""

    let_in: int
    opens_in_s: float | None


def sweep() -> Query[Swept]:
    """Free the places of tasks that have ended, and let in what waits."""
    return Query(_SQL["sweep"], {}, _swept)


def _swept(found: Sequence[Row]) -> Swept:
    return Swept._make(found[0])


def take_keys(keys: Sequence[tuple[UUID, UniqueKey]]) -> Query[Taken]:
    """Take the keys of unique calls, all or none; run it before the `enqueue`, in one transaction with it."""
    own = tuple(task for task, _ in keys)
    return Query(_SQL["take_keys"], _taking(keys), lambda found: Taken(own, tuple(found[0][0])))


def take_each(keys: Sequence[tuple[UUID, UniqueKey]]) -> Query[dict[str, UUID]]:
    """Take those keys of unique calls that are free; gives by key the task that stands for it. No key is there twice."""
    return Query(_SQL["take_each"], _taking(keys), dict)


def _taking(keys: Sequence[tuple[UUID, UniqueKey]]) -> dict[str, Any]:
    return {
        "keys": [key.key for _, key in keys],
        "tasks": [task for task, _ in keys],
        "untils": [key.until for _, key in keys],
        "periods": [key.period_s for _, key in keys],
    }


def debounce(message: Message, key: UniqueKey) -> Query[Taken]:
    """Have a call become the one that waits under its key; run it before the `enqueue`, in one transaction with it."""
    values = {
        "key": key.key,
        "task": message.id,
        "wait": key.wait_s,
        "longest": key.longest_s,
        "payload": message.payload,
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "options": message.options,
        "queue": message.queue,
        "priority": message.priority,
        "expires": message.expires,
        "expires_in": message.expires_in_s,
    }
    return Query(_SQL["debounce"], values, lambda found: Taken((message.id,), (found[0][0],)))


def sweep_keys() -> Query[None]:
    """Remove expired keys."""
    return Query(_SQL["sweep_keys"], {}, nothing)


def limit_queue(limit: QueueLimit) -> Query[None]:
    """Limit a queue; workers heed it from their next tick on."""
    values = {
        "queue": limit.queue,
        "concurrency": limit.concurrency,
        "per_worker": limit.per_worker,
        "rate": limit.rate,
        "period": limit.period_s,
    }
    return Query(_SQL["limit_queue"], values, nothing)


def unlimit_queue(queue: str) -> Query[int]:
    """Remove a queue's limits."""
    return Query(_SQL["unlimit_queue"], {"queue": queue}, count)


def queue_limits(queues: Sequence[str] | None = None) -> Query[list[QueueLimit]]:
    """The queues that are limited, of all or of some."""
    return Query(_SQL["queue_limits"], {"queues": None if queues is None else list(queues)}, _queue_limits)


def _queue_limits(found: Sequence[Row]) -> list[QueueLimit]:
    return [QueueLimit._make(row) for row in found]


def reserve(queue: str, worker: UUID, wanted: int) -> Query[int]:
    """How many tasks of a limited queue a worker may claim, in the same transaction."""
    return Query(_SQL["reserve"], {"queue": queue, "worker": worker, "wanted": wanted}, count)


def count_claims(queue: str, ids: Sequence[UUID]) -> Query[None]:
    """Count claims against the rate of their queue, in the transaction that made them."""
    return Query(_SQL["count_claims"], {"queue": queue, "ids": list(ids)}, nothing)


def _first(found: Sequence[Row]) -> Any:
    return found[0][0]
