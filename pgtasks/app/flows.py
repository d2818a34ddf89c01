"""Flow control of a call: which flow and key it waits under, and whether an existing task stands for it.

    compose -> controlled (flow, key, unique or debounced) -> enqueue, held
                                                           -> take the key -> enqueue, or the task that is there

Calls of tasks that say nothing of this, without such options, do not come here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from pgtasks.app.collecting import collects_unique, is_collecting
from pgtasks.exceptions import AlreadyEnqueued, ImproperlyConfigured
from pgtasks.flow import Debounce, Flow, Unique, check_names, key_text
from pgtasks.message import Message, UniqueKey
from pgtasks.store import flows, tasks
from pgtasks.store.flows import Taken
from pgtasks.store.sql import Query

__all__ = (
    "FLOW_OPTIONS", "Controlled", "asend_unique", "asend_unique_canvas", "asend_uniques", "controlled", "declared_flows",
    "go_alone", "is_repeatable", "place_of", "read_declaration", "send_unique", "send_unique_canvas",
    "send_uniques", "take_places", "with_flow_key",
)  # fmt: skip

#: Options of a call that are about flow control.
FLOW_OPTIONS = frozenset({"flow_key", "unique", "debounce"})


# -- what a task says


class Controlled:
    """What a task may say about flow control; a base of `Task`."""

    #: The limits that it shares with others, over all workers: a `Flow`.
    flow: Any = None
    #: Whether a call stands for an earlier one that is still there: True, a key, or `Unique(...)`.
    unique: Any = None
    #: Whether a call replaces one that still waits: seconds, or `Debounce(...)`.
    debounce: Any = None
    #: Whether any of these three is set.
    is_controlled = False


def read_declaration(cls: Any) -> None:
    """Check what a task's class says about flow control, and complete it; raises `ImproperlyConfigured`."""
    if cls.flow is not None and not isinstance(cls.flow, Flow):
        raise ImproperlyConfigured(f"Task {cls.name!r} has flow={cls.flow!r}: use Flow(...), of pgtasks.")
    if cls.flow is not None and cls.flow.name is None:
        cls.flow = replace(cls.flow, name=cls.name)
    cls.unique, cls.debounce = _unique(cls.unique, cls.name), _debounce(cls.debounce, cls.name)
    if cls.unique is not None and cls.debounce is not None:
        raise ImproperlyConfigured(f"Task {cls.name!r} is unique and debounced: it can be only one of them.")
    for what, said in (("flow", cls.flow), ("unique", cls.unique), ("debounce", cls.debounce)):
        if said is not None:
            check_names(said.key, cls, what)
    cls.is_controlled = any(said is not None for said in (cls.flow, cls.unique, cls.debounce))


def _unique(said: Any, name: str) -> Unique | None:
    if said is None or said is False:
        return None
    if said is True:
        return Unique()
    if isinstance(said, Unique):
        return said
    if isinstance(said, (str, list, tuple)) or callable(said):
        return Unique(said)
    raise ImproperlyConfigured(f"Task {name!r} has unique={said!r}: use True, Unique(...), or its key.")


def _debounce(said: Any, name: str) -> Debounce | None:
    if said is None or said is False:
        return None
    if isinstance(said, Debounce):
        return said
    if isinstance(said, (int, float, timedelta)) and said is not True:
        return Debounce(said)
    raise ImproperlyConfigured(f"Task {name!r} has debounce={said!r}: use seconds, or Debounce(...).")


def declared_flows(app: Any) -> dict[str, Flow]:
    """The flows of an app's tasks by name; one that two tasks say different things of is refused."""
    found: dict[str, tuple[Flow, str]] = {}
    for task in app.tasks.values():
        flow = task.flow
        if flow is None:
            continue
        other, by = found.setdefault(flow.name, (flow, task.name))
        if other.limits() != flow.limits():
            raise ImproperlyConfigured(
                f"Flow {flow.name!r} has {other.limits()} for task {by!r} and {flow.limits()} for {task.name!r}."
                " Tasks that share a flow must have the same limits: share the Flow object."
            )
    return {name: flow for name, (flow, _) in found.items()}


# -- what a call says


def with_flow_key(options: dict[str, Any]) -> dict[str, Any]:
    """Let a key of the call's own travel as a header, so that the worker and a retry know it."""
    key = options.get("flow_key")
    if key is None:
        return options
    return {**options, "headers": {**(options.get("headers") or {}), "flow_key": key_text(key, "flow_key")}}


def controlled(call: Any, task: Any, message: Message) -> Message:
    """Add to the message of a call the flow that it waits for, and the key by which it may be the same task as others."""
    options = call.options
    if call.retries:
        # It is unique or debounced already; only its flow limits apply, where it runs.
        return message
    if task is None:
        raise ImproperlyConfigured(
            f"Task {call.name!r} is not registered here, so {', '.join(sorted(FLOW_OPTIONS & options.keys()))} cannot be"
            " used: which arguments it has is not known."
        )
    args, kwargs = call.args or (), call.kwargs or {}
    if task.flow is None and options.get("flow_key") is not None:
        raise ImproperlyConfigured(
            f"Task {task.name!r} has no flow, so flow_key={options['flow_key']!r} means nothing."
            " Declare the task with flow=Flow(...), or leave the option out."
        )
    if task.flow is not None and call.inputs is None:
        message = replace(message, flow=place_of(task, args, kwargs, (options.get("headers") or {}).get("flow_key")))
    unique = _unique(options.get("unique", task.unique), task.name)
    debounce = _debounce(options.get("debounce", task.debounce), task.name)
    if debounce is not None and options.get("unique") is None:
        return _debounced(message, debounce.of(task, args, kwargs))
    return message if unique is None else replace(message, unique=unique.of(task, args, kwargs))


def _debounced(message: Message, key: UniqueKey) -> Message:
    if message.due is not None or message.countdown_s is not None:
        raise ValueError(f"{message.name!r} is debounced, so due when its wait ends: leave out countdown and eta.")
    return replace(message, unique=key, countdown_s=key.wait_s)


def place_of(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], own_key: str | None) -> tuple[str, str]:
    """The flow of a call, and its key there."""
    flow: Flow = task.flow
    return str(flow.name), flow.key_of(task, args, kwargs) if own_key is None else own_key


# -- sending unique and debounced calls


def go_alone(task: Any, options: Mapping[str, Any]) -> bool:
    """Are many calls with these options sent one by one? Each debounced one may change a task that waits."""
    said = {name: options.get(name, getattr(task, name)) not in (None, False) for name in ("unique", "debounce")}
    return said["debounce"] or (said["unique"] and is_collecting())


def is_repeatable(messages: Iterable[Message]) -> bool:
    """Is any of these one that another task may stand for?"""
    return any(message.unique is not None for message in messages)


def send_unique(app: Any, message: Message, conn: Any) -> UUID:
    """Enqueue a unique call unless a task holds its key; returns the id of the task that holds it now."""
    if collects_unique([message]):
        return message.id
    take, enqueue = _queries(message, conn)
    if conn is None:
        taken, *_ = app.database.run_together(take, enqueue)
    else:
        taken = app.database.run(take, conn)
        if taken:
            app.database.run(enqueue, conn)
    return _holder(message, taken)


async def asend_unique(app: Any, message: Message, conn: Any) -> UUID:
    """`send_unique` for coroutines."""
    if conn is None:
        return await asyncio.to_thread(send_unique, app, message, None)
    take, enqueue = _queries(message, conn)
    taken = await app.adatabase.run(take, conn)
    if taken:
        await app.adatabase.run(enqueue, conn)
    return _holder(message, taken)


def send_uniques(app: Any, messages: Sequence[Message], conn: Any) -> list[UUID]:
    """Enqueue many calls of a task, each unless an existing one stands for it; gives the tasks that do, in their order.

    They are one transaction. Where an error is wanted instead of another's result, all are sent or none.
    """
    work = partial(_send_uniques, messages, conn is None)
    return app.database.transact(work) if conn is None else work(partial(app.database.run, conn=conn))


async def asend_uniques(app: Any, messages: Sequence[Message], conn: Any) -> list[UUID]:
    """`send_uniques` for coroutines."""
    if conn is None:
        return await asyncio.to_thread(send_uniques, app, messages, None)
    take, read = _taking_of(messages)
    own, holders = read(await app.adatabase.run(take, conn))
    if own:
        await app.adatabase.run(tasks.enqueue(own, lets_in=False), conn)
    return holders


def _send_uniques(messages: Sequence[Message], lets_in: bool, ask: Callable[[Query[Any]], Any]) -> list[UUID]:
    take, read = _taking_of(messages)
    own, holders = read(ask(take))
    if own:
        ask(tasks.enqueue(own, lets_in=lets_in))
    return holders


def _taking_of(messages: Sequence[Message]) -> tuple[Query[Any], Callable[[Any], tuple[list[Message], list[UUID]]]]:
    """A query that takes the keys of calls, and a function that reads its answer.

    That function gives the messages that have to be sent, and for every call the id of the task that stands for it.
    """
    keyed = [(message, message.unique) for message in messages if message.unique is not None]
    if any(key.raises for _, key in keyed):
        take, names = _take_all(messages)

        def checked(taken: Taken) -> tuple[list[Message], list[UUID]]:
            _check_all(taken, names)
            return list(messages), list(taken.holders)

        return take, checked
    # Of those with one key the first stands for all.
    first = {key.key: (message, key) for message, key in reversed(keyed)}

    def read(holders: dict[str, UUID]) -> tuple[list[Message], list[UUID]]:
        own = [message for message, key in keyed if holders[key.key] == message.id]
        return own, [holders[key.key] for _, key in keyed]

    return flows.take_each([(message.id, key) for message, key in first.values()]), read


def _queries(message: Message, conn: Any) -> tuple[Any, Any]:
    key = message.unique
    assert key is not None
    take = flows.debounce(message, key) if key.until == "waiting" else flows.take_keys([(message.id, key)])
    return take, tasks.enqueue([message], lets_in=conn is None)


def _holder(message: Message, taken: Taken) -> UUID:
    if not taken and message.unique is not None and message.unique.raises:
        raise AlreadyEnqueued(message.name, str(taken.holders[0]))
    return taken.holders[0]


def take_places(run: Callable[[Query[Any]], Any], messages: Sequence[Message], edges: Iterable[Any]) -> UUID | None:
    """Take the unique keys of calls that were collected, then enqueue them, by queries of the caller's transaction.

    Where an earlier task stands for a single call nothing is sent, and the id of that task is returned. For a canvas
    `AlreadyEnqueued` is raised. Returns None when what was collected has been sent.
    """
    if len(messages) == 1 and messages[0].unique is not None:
        take, _ = _queries(messages[0], None)
        taken = run(take)
        holder = _holder(messages[0], taken)
        if not taken:
            return holder
    elif is_repeatable(messages):
        take, names = _take_all(messages)
        _check_all(run(take), names)
    run(tasks.enqueue(messages, edges))
    return None


def send_unique_canvas(app: Any, messages: Sequence[Message], edges: Iterable[Any], conn: Any) -> None:
    """Enqueue a canvas with unique tasks: all of it, or `AlreadyEnqueued`, since nobody can stand for a part of it."""
    take, names = _take_all(messages)
    if collects_unique(messages, edges):
        return
    if conn is None:
        taken, *_ = app.database.run_together(take, tasks.enqueue(messages, edges))
    else:
        taken = app.database.run(take, conn)
        if taken:
            app.database.run(tasks.enqueue(messages, edges, lets_in=False), conn)
    _check_all(taken, names)


async def asend_unique_canvas(app: Any, messages: Sequence[Message], edges: Iterable[Any], conn: Any) -> None:
    """`send_unique_canvas` for coroutines."""
    if conn is None:
        await asyncio.to_thread(send_unique_canvas, app, messages, edges, None)
        return
    take, names = _take_all(messages)
    taken = await app.adatabase.run(take, conn)
    if taken:
        await app.adatabase.run(tasks.enqueue(messages, edges, lets_in=False), conn)
    _check_all(taken, names)


def _take_all(messages: Sequence[Message]) -> tuple[Query[Taken], list[str]]:
    keys, names = [], []
    for message in messages:
        if message.unique is None:
            continue
        if message.unique.until == "waiting":
            raise ValueError(
                f"{message.name!r} is debounced, and a call that may become another's cannot be part of a canvas."
                " Send it by itself, or with debounce=False."
            )
        keys.append((message.id, message.unique))
        names.append(message.name)
    return flows.take_keys(keys), names


def _check_all(taken: Taken, names: Sequence[str]) -> None:
    for name, own, holder in zip(names, taken.own, taken.holders, strict=True):
        if holder != own:
            raise AlreadyEnqueued(name, str(holder))
