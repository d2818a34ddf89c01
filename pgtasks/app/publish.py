"""From a call to rows: what `.delay()`, `send_task` and a canvas become.

    apply_async / send_task -> prepare -> Ready -> put -> one statement, one commit -> the result object
    a call with callbacks   -> prepare -> Linked -> a canvas: app.planned

`prepare` decides everything and touches no database. `publish` and `apublish` differ in nothing but how they write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from pgtasks import signals
from pgtasks._state import get_current_worker_task
from pgtasks.app import flows
from pgtasks.app.call import Call, compose
from pgtasks.app.canvases import aenqueue_canvas, enqueue_again, enqueue_canvas
from pgtasks.app.collecting import collected
from pgtasks.app.pipeline import entered
from pgtasks.app.protocol import PLAIN_PUBLISH, Producer, announce, show_to_watchers
from pgtasks.canvas.calls import Passed, catching, under_way
from pgtasks.canvas.ids import fresh_id
from pgtasks.canvas.plan import asend, send
from pgtasks.canvas.steps import callbacks_of, errbacks_of
from pgtasks.message import Message, id_of, new_id, own_spelling
from pgtasks.store import tasks

__all__ = ("acarrier", "apublish", "aput", "carrier", "complete", "publish", "put", "relatives")


class Ready(NamedTuple):
    """A call that is decided but not sent: what to write, in whose transaction, and what its caller gets for it."""

    call: Call
    message: Message
    conn: Any
    result_cls: Any
    add_to_parent: bool | None


class Linked(NamedTuple):
    """A call with callbacks, which is sent as a small canvas."""

    signature: Any
    options: dict[str, Any]
    add_to_parent: bool | None


class Taken(NamedTuple):
    """A call that is not sent, since somebody who plans a canvas has taken it (`pgtasks.canvas.calls`)."""

    result: Any


def publish(app: Any, task: Any, name: str, args: Any, kwargs: Any, options: Mapping[str, Any]) -> Any:
    """Enqueue one call and return its result object, as `apply_async` and `send_task` do; `prepare` has the options."""
    ready = prepare(app, task, name, args, kwargs, **options)
    if isinstance(ready, Taken):
        return ready.result
    if isinstance(ready, Linked):
        return send(ready.signature, None, None, ready.options, add_to_parent=ready.add_to_parent)
    message = ready.message
    if message.unique is None:
        put(app, (message,), (), ready.conn)
        return _sent(app, ready, message.id)
    return _sent(app, ready, flows.send_unique(app, message, carrier(app, ready.conn)))


async def apublish(app: Any, task: Any, name: str, args: Any, kwargs: Any, options: Mapping[str, Any]) -> Any:
    """`publish` for coroutines."""
    ready = prepare(app, task, name, args, kwargs, **options)
    if isinstance(ready, Taken):
        return ready.result
    if isinstance(ready, Linked):
        return await asend(ready.signature, None, None, ready.options, add_to_parent=ready.add_to_parent)
    message = ready.message
    if message.unique is None:
        await aput(app, (message,), (), ready.conn)
        return _sent(app, ready, message.id)
    return _sent(app, ready, await flows.asend_unique(app, message, await acarrier(app, ready.conn)))


def prepare(
    app: Any,
    task: Any,
    name: str,
    args: Any,
    kwargs: Any,
    /,
    *,
    task_id: str | None = None,
    link: Any = None,
    link_error: Any = None,
    group_id: str | None = None,
    root_id: str | None = None,
    parent_id: str | None = None,
    result_cls: Any = None,
    add_to_parent: bool | None = True,
    conn: Any = None,
    using: Any = None,
    **options: Any,
) -> Ready | Linked | Taken:
    """Decide everything about one call, and write nothing.

    `conn=`, or `using=` for a Django alias, enqueues in the transaction of the caller's own connection: the task
    appears when that commits, and never if it rolls back. Within Django's `atomic()` that goes by itself, and
    `using=False` enqueues at once. `options` are the other options of `apply_async`.
    """
    if Producer.publish is not PLAIN_PUBLISH:
        task_id = task_id or fresh_id(root_id)
        show_to_watchers(app, task, name, args, kwargs, {**options, "task_id": task_id})
    if under_way.get() is not None and (take := catching(name)) is not None:
        place = {"task_id": task_id, "group_id": group_id, "root_id": root_id, "parent_id": parent_id}
        take(Passed(args, kwargs, {**options, **place, "link": link, "link_error": link_error}))
        return Taken((result_cls or app.AsyncResult)(task_id))
    call = complete(app, name, args, kwargs, task_id, link_error, group_id, root_id, parent_id, options)
    conn = using if conn is None else conn
    if link:
        # Whoever overrides apply_async has seen this call already.
        return Linked(_linked(app, call, link, options), {"conn": conn, "as_called": True}, add_to_parent)
    return Ready(call, compose(app, call, task), conn, result_cls, add_to_parent)


def put(app: Any, messages: Sequence[Message], edges: Iterable[Any], conn: Any, *, is_repeated: bool = False) -> None:
    """Enqueue messages with the edges between them, or collect them where that is asked for.

    `is_repeated` says that they were sent before: if all of them have ended, they run once more.
    """
    if (batches := collected.get()) is not None:
        batches.append((tuple(messages), tuple(edges)))
    elif (conn := carrier(app, conn)) is not None:
        app.database.run(tasks.enqueue(messages, edges, lets_in=False), conn)
    elif is_repeated:
        enqueue_again(app, messages, edges)
    elif (pipeline := entered.get()) is not None and pipeline.gathers_for(app):
        pipeline.put(messages, edges, partial(_enqueue_alone, app, messages, edges))
    else:
        _enqueue_alone(app, messages, edges)


def _enqueue_alone(app: Any, messages: Sequence[Message], edges: Iterable[Any]) -> None:
    if edges:
        enqueue_canvas(app, messages, edges)
    else:
        app.outbox.put(messages)


async def aput(
    app: Any, messages: Sequence[Message], edges: Iterable[Any], conn: Any, *, is_repeated: bool = False
) -> None:
    """`put` for coroutines."""
    if (batches := collected.get()) is not None:
        batches.append((tuple(messages), tuple(edges)))
    elif (conn := await acarrier(app, conn)) is not None:
        await app.adatabase.run(tasks.enqueue(messages, edges, lets_in=False), conn)
    elif is_repeated:
        await asyncio.to_thread(enqueue_again, app, messages, edges)
    elif (pipeline := entered.get()) is not None and pipeline.gathers_for(app):
        await pipeline.aput(messages, edges, partial(_enqueue_alone, app, messages, edges))
    elif edges:
        await aenqueue_canvas(app, messages, edges)
    else:
        await app.aoutbox.put(messages)


def carrier(app: Any, conn: Any) -> Any:
    """The connection a call goes by: the one it names, or else that of the transaction it is made in; None: our own."""
    if conn is None:
        return None if app.transaction_of_caller is None else app.transaction_of_caller()
    return None if conn is False else conn


async def acarrier(app: Any, conn: Any) -> Any:
    """`carrier` for coroutines."""
    if conn is None:
        return None if app.atransaction_of_caller is None else await app.atransaction_of_caller()
    return None if conn is False else conn


def complete(
    app: Any,
    name: str,
    args: Any,
    kwargs: Any,
    task_id: str | None,
    link_error: Any,
    group_id: str | None,
    root_id: str | None,
    parent_id: str | None,
    options: dict[str, Any],
) -> Call:
    """Complete a call by what it inherits from the task that makes it."""
    caller = get_current_worker_task()
    if caller is not None:
        request = caller.request
        root_id = root_id or request.root_id or request.id
        parent_id = parent_id or request.id
        if app.conf.task_inherit_parent_priority and options.get("priority") is None:
            options["priority"] = (request.delivery_info or {}).get("priority")
    root, parent = (id_of(root_id) if root_id else None), (id_of(parent_id) if parent_id else None)
    key = id_of(task_id) if task_id else new_id(root)
    embed = {"errbacks": errbacks_of(name, link_error, app)} if link_error else {}
    call = Call(key, task_id or None, name, args, kwargs, options, embed, root, parent, group_id)
    if root is not None or parent is not None:
        call.extra = relatives(root_id, root, parent_id, parent)
    return call


def relatives(root_id: str | None, root: UUID | None, parent_id: str | None, parent: UUID | None) -> dict[str, Any]:
    """The ids of a call's root and parent as their users spell them, where the keys do not give them back."""
    names = (("root_id", root_id, root), ("parent_id", parent_id, parent))
    return {option: name for option, name, key in names if name and key is not None and own_spelling(name, key)}


def _linked(app: Any, call: Call, link: Any, options: dict[str, Any]) -> Any:
    """A call with callbacks is a small canvas."""
    place = {"task_id": call.task_id, "group_id": call.group_id}
    for option, key in (("root_id", call.root), ("parent_id", call.parent)):
        place[option] = call.extra.get(option) or (str(key) if key else None)
    signature = app.signature(call.name, call.args, call.kwargs, options={**options, **place})
    for callback in callbacks_of(call.name, link, app):
        signature.link(callback)
    for errback in call.embed.get("errbacks", ()):
        signature.link_error(errback)
    return signature


def _sent(app: Any, ready: Ready, holder: UUID) -> Any:
    """The result of a call that was sent; `holder` is the task that stands for it, its own or an earlier one."""
    call, message = ready.call, ready.message
    if holder != call.id:
        call.id, call.public_id = holder, None
    elif signals.after_task_publish.receivers:
        announce(app, call, message)
    result = (ready.result_cls or app.AsyncResult)(call.task_id)
    # A call that keeps no result is over, for its caller, as soon as it is made.
    result.ignored = bool(call.options.get("ignore_result"))
    caller = get_current_worker_task()
    if caller is not None and ready.add_to_parent:
        caller.add_trail(result)
    return result
