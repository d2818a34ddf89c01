"""Verbs on tasks: each returns a `Query` for the executors of `pgtasks.store.database` to run.

A task's life in verbs: `enqueue` -> `claim` -> (`ack`, `charge`, `mark`) -> `finish` or `settle`. Beside it: `revoke`,
`purge`, `expire`. The statements, with what they rely on, are in `tasks.sql`. What became of a task, `store.results` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack
from uuid import UUID

from pgtasks.message import Claim, Ids, Message, Outcome
from pgtasks.store.arrays import ByteaArray, UuidArray
from pgtasks.store.sql import Query, Row, column, count, id_set, load, nothing, rows

_SQL = load("tasks")

_FIRST_RANK, _LAST_RANK = -32768, 32767


class Lane(NamedTuple):
    """Where a claim looks: one queue, from a cursor on, up to a rank."""

    queue: str
    rank: int = _FIRST_RANK
    seq: int = 0
    last_rank: int = _LAST_RANK


class Edge(Protocol):
    """`succ` waits for `pred`, and finds its result at `position` of its inputs."""

    @property
    def succ(self) -> UUID: ...
    @property
    def pred(self) -> UUID: ...
    @property
    def position(self) -> int: ...


def enqueue(
    messages: Sequence[Message], edges: Iterable[Edge] = (), *, running: Iterable[UUID] = (), lets_in: bool = True
) -> Query[None]:
    """Add tasks, all or nothing; an id that is there already is left as it is.

    Predecessors from outside of this call are taken to have ended, but for those that are `running`; these may also wait for
    tasks of this call, by edges that are written elsewhere, and then those must be new. Limited tasks are held,
    and let in at once where there is room; not so in a transaction that may last, which must not lock a flow: `lets_in`.
    """
    edges = tuple(edges)
    if len(messages) == 1 and not edges and messages[0].is_plain:
        return Query(_SQL["enqueue_one"], _one(messages[0]), nothing)
    running = list(running)
    if edges and not running and _are_line(messages, edges):
        return Query(_SQL["enqueue_line"], _columns(messages, _SQL["enqueue_line"].names), nothing)
    values = _columns(messages, _COLUMNS)
    values["running"] = running
    values["succs"] = [edge.succ for edge in edges]
    values["preds"] = [edge.pred for edge in edges]
    values["positions"] = [edge.position for edge in edges]
    limited = [message for message in messages if message.flow is not None]
    values["limited"] = [message.id for message in limited]
    values["flows"] = [message.flow[0] for message in limited if message.flow]
    values["flow_keys"] = [message.flow[1] for message in limited if message.flow]
    values["lets_in"] = lets_in
    return Query(_SQL["enqueue"], values, nothing)


def enqueue_many(alike: Message, ids: Ids, payloads: Sequence[bytes], options: Sequence[bytes] = ()) -> Query[None]:
    """Add calls that are plain and alike but for their payloads, and for their `options` when there are any.

    `alike` says the rest; its id and its payload do not count.
    """
    values = {
        **_one(alike),
        "ids": UuidArray.of(ids),
        "payloads": ByteaArray.of(payloads),
        "each_options": ByteaArray.of(options),
    }
    return Query(_SQL["enqueue_many"], values, nothing)


def _are_line(messages: Sequence[Message], edges: Sequence[Edge]) -> bool:
    """True for a chain in which nothing is out of the ordinary: what `enqueue_line` can add."""
    first, *others = messages
    if len(edges) != len(others) or not first.is_plain or len({message.id for message in messages}) != len(messages):
        return False
    for pred, message, edge in zip(messages, others, edges, strict=False):
        if (
            edge.succ != message.id or edge.pred != pred.id or edge.position
            or message.inputs not in ("value", "none")
            or message.due is not None or message.countdown_s is not None
            or message.flow is not None or message.trigger is not None
        ):  # fmt: skip
            return False
    return True


def _columns(messages: Sequence[Message], names: Iterable[str]) -> dict[str, Any]:
    return {name: [_COLUMNS[name](message) for message in messages] for name in names}


def _one(message: Message) -> Mapping[str, Any]:
    return {
        "id": message.id, "name": message.name, "queue": message.queue, "priority": message.priority,
        "root": message.root, "parent": message.parent, "group_id": message.group_id, "task_id": message.task_id,
        "expires": message.expires, "expires_in": message.expires_in_s, "max_deliveries": message.max_deliveries,
        "payload": message.payload, "options": message.options,
        "content_type": message.content_type, "content_encoding": message.content_encoding,
    }  # fmt: skip


_COLUMNS: Mapping[str, Callable[[Message], Any]] = {
    "ids": lambda m: m.id,
    "names": lambda m: m.name,
    "queues": lambda m: m.queue,
    "priorities": lambda m: m.priority,
    "payloads": lambda m: m.payload,
    "content_types": lambda m: m.content_type,
    "content_encodings": lambda m: m.content_encoding,
    "options": lambda m: m.options,
    "dues": lambda m: m.due,
    "countdowns": lambda m: m.countdown_s,
    "expires": lambda m: m.expires,
    "expires_in": lambda m: m.expires_in_s,
    "roots": lambda m: m.root,
    "parents": lambda m: m.parent,
    "group_ids": lambda m: m.group_id,
    "task_ids": lambda m: m.task_id,
    "max_deliveries": lambda m: m.max_deliveries,
    "inputs": lambda m: m.inputs,
    "triggers": lambda m: m.trigger,
}


def claim(
    worker: UUID, lanes: Sequence[Lane], limit: int, *, max_deliveries: int, may_lag: bool = True
) -> Query[list[Claim]]:
    """Lease up to `limit` ready tasks, lane by lane.

    With `may_lag` the commit may be one that a crash of the server undoes; the worker must `disown` after it lost a connection.
    """
    return Query(
        _SQL["claim"],
        {
            "worker": worker,
            "limit": limit,
            "max_deliveries": max_deliveries,
            "queues": [lane.queue for lane in lanes],
            "los": [lane.rank for lane in lanes],
            "seqs": [lane.seq for lane in lanes],
            "his": [lane.last_rank for lane in lanes],
            "may_lag": may_lag,
        },
        _claims,
    )


def _claims(found: Sequence[Row]) -> list[Claim]:
    return [Claim._make(row[:-1]) for row in found]


def finish(worker: UUID, hostname: str, outcomes: Sequence[Outcome]) -> Query[int]:
    """Settle plain successes (`is_plain_success`); gives how many were really settled."""
    return Query(
        _SQL["finish"],
        {
            "worker": worker,
            "hostname": hostname,
            "ids": [o.id for o in outcomes],
            "deliveries": [o.delivery for o in outcomes],
            "values": [o.value for o in outcomes],
            "hidden": [o.hidden for o in outcomes],
        },
        count,
    )


def is_plain_success(outcome: Outcome) -> bool:
    """True for an outcome that `finish` can settle; all others take `settle`."""
    return (
        outcome.state == "SUCCESS"
        and outcome.kind == "done"
        and not outcome.has_successors
        and outcome.content_type is None
        and outcome.children is None
        and not outcome.follow_ups
        and not outcome.is_limited
    )


class Settled(NamedTuple):
    """The answer to a `settle`: which outcomes were really settled, and the released tasks that the worker took.

    `later_s`: seconds until the first is due of those it released that have a countdown; 0 when there is none.
    """

    ended: list[UUID]
    claims: list[Claim]
    later_s: float

    def __bool__(self) -> bool:
        return bool(self.ended)


def settle(
    worker: UUID, hostname: str, outcomes: Sequence[Outcome], *, queues: Sequence[str] = (), room: int = 0
) -> Query[Settled]:
    """Settle outcomes of any kind with all that follows, and take up to `room` of the tasks that this releases."""
    dead = [(casualty, o.id) for o in outcomes for casualty in o.fails]
    changes = [o.changes for o in outcomes if o.changes is not None]
    return Query(
        _SQL["settle"],
        {
            "worker": worker,
            "hostname": hostname,
            **{name: [getattr(o, field) for o in outcomes] for name, field in _OUTCOME_COLUMNS.items()},
            "preds": [o.id for o in outcomes if o.has_successors],
            "new_ids": [m.id for m in changes],
            "new_payloads": [m.payload for m in changes],
            "new_content_types": [m.content_type for m in changes],
            "new_content_encodings": [m.content_encoding for m in changes],
            "new_options": [m.options for m in changes],
            "new_queues": [m.queue for m in changes],
            "new_priorities": [m.priority for m in changes],
            "new_expires": [m.expires for m in changes],
            "new_expires_in": [m.expires_in_s for m in changes],
            "dead_ids": [casualty.id for casualty, _ in dead],
            "dead_preds": [pred for _, pred in dead],
            "dead_states": [casualty.state for casualty, _ in dead],
            "dead_hidden": [casualty.hidden for casualty, _ in dead],
            "dead_values": [casualty.value for casualty, _ in dead],
            "dead_tracebacks": [casualty.traceback for casualty, _ in dead],
            "dead_children": [casualty.children for casualty, _ in dead],
            "queues": list(queues),
            "room": room,
            # What goes back as it was keeps its place.
            "limited": [o.id for o in outcomes if o.is_limited and o.kind != "back"],
        },
        _settled,
    )


def is_release(outcome: Outcome) -> bool:
    """True for a success that others wait for, with nothing else to store: what `release` can settle."""
    return (
        outcome.has_successors
        and outcome.state == "SUCCESS"
        and outcome.kind == "done"
        and not outcome.follow_ups
        and not outcome.is_limited
    )


def release(
    worker: UUID, hostname: str, outcomes: Sequence[Outcome], *, queues: Sequence[str], room: int, may_lag: bool
) -> Query[Settled]:
    """Settle successes that others wait for (`is_release`), and take up to `room` of the tasks that this releases.

    With `may_lag` the commit may be one that a crash of the server undoes; the worker must `disown` after it lost a
    connection. Raises when one of the tasks has ended otherwise: then `settle` them.
    """
    columns = ("ids", "deliveries", "values", "content_types", "content_encodings", "children", "hidden")
    return Query(
        _SQL["release"],
        {
            "worker": worker,
            "hostname": hostname,
            **{name: [getattr(o, _OUTCOME_COLUMNS[name]) for o in outcomes] for name in columns},
            "queues": list(queues),
            "room": room,
            "may_lag": may_lag,
        },
        _settled,
    )


def is_link(outcome: Outcome) -> bool:
    """True for what is likely the link of a chain, which `pass_on` settles: for members of groups more is to be done."""
    return not outcome.is_member


def pass_on(
    worker: UUID, hostname: str, outcome: Outcome, *, queues: Sequence[str], may_lag: bool
) -> Query[Settled | None]:
    """Settle the link of a chain and take the next one, as `release` does; None if it is no such link, and nothing was done.

    Raises when the task has ended otherwise: then `settle` it.
    """
    return Query(
        _SQL["pass_on"],
        {
            "worker": worker,
            "hostname": hostname,
            "id": outcome.id,
            "delivery": outcome.delivery,
            "value": outcome.value,
            "content_type": outcome.content_type,
            "content_encoding": outcome.content_encoding,
            "children": outcome.children,
            "hidden": outcome.hidden,
            "queues": queues,
            "may_lag": may_lag,
        },
        _passed_on,
    )


def _passed_on(found: Sequence[Row]) -> Settled | None:
    return _settled(found) if found else None


def _settled(found: Sequence[Row]) -> Settled:
    later_s, ended = found[0][-2:]
    claims = [Claim._make(row[:-3]) for row in found if row[0] is not None]
    return Settled(ended, claims, later_s)


_OUTCOME_COLUMNS = {
    "ids": "id",
    "deliveries": "delivery",
    "kinds": "kind",
    "states": "state",
    "values": "value",
    "content_types": "content_type",
    "content_encodings": "content_encoding",
    "tracebacks": "traceback",
    "children": "children",
    "hidden": "hidden",
    "dues": "due",
    "delays": "delay_s",
    "retries": "retries",
    "losses": "losses",
}


def replace(
    worker: UUID, delivery: int, message: Message, preds: Sequence[UUID], *, has_successors: bool = False
) -> Query[int]:
    """Let a claimed task go on as another call; run it together with the `enqueue` of the tasks it waits for."""
    values = {
        **_one(message),
        "worker": worker,
        "delivery": delivery,
        "inputs": message.inputs,
        "trigger": message.trigger,
        "due": message.due,
        "countdown": message.countdown_s,
        "preds": list(preds),
        "has_successors": has_successors,
    }
    return Query(_SQL["replace"], values, count)


def join_chord(worker: UUID, delivery: int, task_id: UUID, member: UUID) -> Query[int]:
    """Have what waits for a claimed task wait for one more; run it together with the `enqueue` of that one."""
    values = {"worker": worker, "delivery": delivery, "id": task_id, "member": member}
    return Query(_SQL["join_chord"], values, count)


def ack(worker: UUID, claims: Sequence[Claim]) -> Query[set[UUID]]:
    """Note that at-most-once tasks are about to begin; gives the ids that may."""
    values = {"worker": worker, "ids": [c.id for c in claims], "deliveries": [c.delivery for c in claims]}
    return Query(_SQL["ack"], values, id_set)


def charge(worker: UUID, claims: Sequence[Claim]) -> Query[set[UUID]]:
    """Count the loss of the worker in advance for tasks that are about to begin; gives the ids that may."""
    values = {
        "worker": worker,
        "ids": [c.id for c in claims],
        "deliveries": [c.delivery for c in claims],
        "losses": [c.losses + 1 for c in claims],
    }
    return Query(_SQL["charge"], values, id_set)


class StateRow(TypedDict, total=False):
    """How a state is written down: its value and what belongs to it. A content type of None means JSON in UTF-8."""

    value: bytes | None
    content_type: str | None
    content_encoding: str | None
    traceback: bytes | None
    children: bytes | None
    hostname: str | None


def _row(task_id: UUID, state: str, row: StateRow) -> dict[str, Any]:
    return {"id": task_id, "state": state, **dict.fromkeys(StateRow.__annotations__), **row}


def mark(
    task_id: UUID, state: str, *, worker: UUID | None = None, delivery: int | None = None, **row: Unpack[StateRow]
) -> Query[int]:
    """Record the state of a task that has not ended; with `worker`, only while that worker holds it."""
    return Query(_SQL["mark"], {**_row(task_id, state, row), "worker": worker, "delivery": delivery}, count)


def store(task_id: UUID, state: str, **row: Unpack[StateRow]) -> Query[int]:
    """Store the end of a task from outside a worker; the first end wins and later ones count 0."""
    return Query(_SQL["store"], _row(task_id, state, row), count)


def describe(message: Message) -> Query[None]:
    """Write down how a task was called that was never sent; what was sent is left as it is."""
    values = _one(message)
    return Query(_SQL["describe"], {name: values[name] for name in _DESCRIBED}, nothing)


_DESCRIBED = (
    *("id", "root", "parent", "name", "queue", "task_id", "group_id"),
    *("content_type", "content_encoding", "options", "payload"),
)


def hold(ids: Iterable[UUID]) -> Query[int]:
    """Lock what some tasks have left, for `clear` or `graphs.redrive` to come next in the transaction."""
    return Query(_SQL["hold"], {"ids": list(ids)}, count)


def clear(ids: Iterable[UUID]) -> Query[int]:
    """Delete all rows of those of some tasks that have ended, and that nothing still waits for; run it after `hold`."""
    return Query(_SQL["clear"], {"ids": list(ids)}, count)


def revoke(ids: Iterable[UUID], value: bytes, signal: str = "") -> Query[list[UUID]]:
    """Revoke tasks; with the name of a signal, running ones are killed by it. Gives the workers to nudge."""
    return Query(_SQL["revoke"], {"ids": list(ids), "value": value, "signal": signal}, column)


def revoke_at_commit(ids: Iterable[UUID], signal: str = "") -> Query[None]:
    """`revoke` for the caller's own transaction: done when that commits, workers and waiters told with it."""
    return Query(_SQL["revoke_at_commit"], {"ids": list(ids), "signal": signal}, nothing)


def fell(pred: UUID, ids: Iterable[UUID]) -> Query[list[UUID]]:
    """Note that `pred` has failed; gives those tasks of which no other predecessor failed before it."""
    return Query(_SQL["fell"], {"pred": pred, "ids": list(ids)}, column)


def sweep_revoked() -> Query[None]:
    """Forget revocations of tasks that were never sent."""
    return Query(_SQL["sweep_revoked"], {}, nothing)


def purge(queues: Sequence[str], value: bytes, limit: int = 10_000) -> Query[int]:
    """Take up to `limit` waiting tasks out of some queues; repeat until it gives 0."""
    return Query(_SQL["purge"], {"queues": list(queues), "value": value, "limit": limit}, count)


def lengths(queues: Sequence[str]) -> Query[Sequence[Row]]:
    """How many tasks wait in each queue: (queue, ready, scheduled)."""
    return Query(_SQL["lengths"], {"queues": list(queues)}, rows)


def expire(age_s: float, limit: int = 1000) -> Query[int]:
    """Remove up to `limit` tasks that ended more than `age_s` seconds ago; gives how many."""
    return Query(_SQL["expire"], {"age": age_s, "limit": limit}, count)
