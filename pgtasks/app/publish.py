"""From a call to rows: what `.delay()`, `send_task` and a canvas become.

    apply_async / send_task -> publish -> Call -> compose -> Message -> enqueue -> one statement, one commit
    chain, group, chord, link -> enqueue_plan -> a Call per node -> the same, with the edges between them

Routing, inheritance from the running task and defaults are decided here; the message is complete when it leaves. The
payload is the body of Celery's message protocol 2 and the options are what its headers carry, less what has a column
(https://docs.celeryq.dev/en/stable/internals/protocol.html).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any
from uuid import UUID

from pgtasks import signals
from pgtasks._state import get_current_worker_task
from pgtasks.app import flows
from pgtasks.app.canvases import aenqueue_canvas, enqueue_again, enqueue_canvas
from pgtasks.app.collecting import collected, collecting
from pgtasks.app.moments import due_of, expiry_of
from pgtasks.app.pipeline import entered
from pgtasks.app.protocol import (
    HEADERS,
    PLAIN_PUBLISH,
    Producer,
    announce,
    let_publishers_see,
    show_to_watchers,
)
from pgtasks.canvas.calls import Passed, catching, under_way
from pgtasks.canvas.ids import fresh_id
from pgtasks.canvas.plan import asend, send
from pgtasks.canvas.steps import callbacks_of, errbacks_of
from pgtasks.exceptions import EncodeError
from pgtasks.message import Message, id_of, new_id, own_spelling
from pgtasks.serialization import JSON, Encoded, encode, write_compact
from pgtasks.store import tasks
from pgtasks.utils.nodenames import anon_nodename, reply_address

__all__ = (
    "Call",
    "acarrier",
    "apublish",
    "aput",
    "carrier",
    "collecting",
    "complete",
    "compose",
    "publish",
    "put",
    "relatives"
)  # fmt: skip

def _dump(headers: Mapping[str, Any]) -> bytes:
    return write_compact(headers).encode("utf-8", "surrogatepass")


@cache
def _own_origin(origin: str) -> bytes:
    """The options of a call that says nothing but that it comes from this process, as most do."""
    return _dump({"origin": origin})


#: Options that say how a call is sent and leave no trace in its message.
_TRANSPORT_OPTIONS = frozenset(
    {"producer", "connection", "publisher", "router", "result_cls", "retry", "retry_policy", "add_to_parent", "timeout"}
    | {"confirm_timeout", "route_name", "task_type", "conn", "using", "declare", "chain", "chord", "backend"}
    | flows.FLOW_OPTIONS
    | {"mandatory", "immediate", "delivery_mode", "exchange_type", "retries", "parent_id", "root_id", "task_id"}
)


@dataclass(slots=True)
class Call:
    """One call of a task, with its options as `apply_async` knows them, on its way to a message."""

    id: UUID
    task_id: str
    name: str
    args: Any
    kwargs: Any
    options: dict[str, Any]
    embed: dict[str, Any] = field(default_factory=dict)
    root: UUID | None = None
    parent: UUID | None = None
    group_id: str | None = None
    inputs: Any = None
    extra: dict[str, Any] = field(default_factory=dict)
    #: For a retry, which one: a message that is sent again has no such header, its row counts.
    retries: int = 0
    #: Where the receivers of the two signals run, for a call that is published together with others: a span that the
    #: first begins, and the second ends, must not become the parent of the next call's.
    context: Context | None = None

    def signal(self, send: Callable[..., Any], **arguments: Any) -> None:
        if self.context is None:
            send(sender=self.name, **arguments)
        else:
            self.context.run(send, sender=self.name, **arguments)


def publish(
    app: Any,
    task: Any,
    name: str,
    args: Any = None,
    kwargs: Any = None,
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
) -> Any:
    """Enqueue one call and return its result object, as `apply_async` and `send_task` do.

    `conn=`, or `using=` for a Django alias, enqueues in the transaction of the caller's own connection: the task
    appears when that commits, and never if it rolls back. Within Django's `atomic()` that goes by itself, and
    `using=False` enqueues at once.
    """
    if Producer.publish is not PLAIN_PUBLISH:
        task_id = task_id or fresh_id(root_id)
        show_to_watchers(app, task, name, args, kwargs, {**options, "task_id": task_id})
    if under_way.get() is not None and (take := catching(name)) is not None:
        place = {"task_id": task_id, "group_id": group_id, "root_id": root_id, "parent_id": parent_id}
        take(Passed(args, kwargs, {**options, **place, "link": link, "link_error": link_error}))
        return (result_cls or app.AsyncResult)(task_id)
    call = complete(app, name, args, kwargs, task_id, link_error, group_id, root_id, parent_id, options)
    if link:
        return _publish_linked(app, call, link, options, conn if conn is not None else using, add_to_parent)
    message = compose(app, call, task)
    conn = conn if conn is not None else using
    if message.unique is None:
        put(app, (message,), (), conn)
    elif flows.is_anothers(call, flows.send_unique(app, message, carrier(app, conn))):
        return _result(app, call, result_cls, add_to_parent)
    if signals.after_task_publish.receivers:
        announce(app, call, message)
    return _result(app, call, result_cls, add_to_parent)


async def apublish(
    app: Any,
    task: Any,
    name: str,
    args: Any = None,
    kwargs: Any = None,
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
) -> Any:
    """`publish` for coroutines."""
    conn = using if conn is None else conn
    call = complete(app, name, args, kwargs, task_id, link_error, group_id, root_id, parent_id, options)
    if link:
        signature = _linked(app, call, link, options)
        return await asend(signature, None, None, {"conn": conn, "as_called": True}, add_to_parent=add_to_parent)
    message = compose(app, call, task)
    if message.unique is None:
        await aput(app, (message,), (), conn, is_repeated=False)
    elif flows.is_anothers(call, await flows.asend_unique(app, message, await acarrier(app, conn))):
        return _result(app, call, result_cls, add_to_parent)
    if signals.after_task_publish.receivers:
        announce(app, call, message)
    return _result(app, call, result_cls, add_to_parent)


def put(
    app: Any, messages: Sequence[Message], edges: Iterable[Any], conn: Any, *, is_repeated: bool = False
) -> None:
    """Enqueue messages with the edges between them, or collect them where that is asked for.

    `is_repeated` says that they were sent before: if all of them have ended, they run once more.
    """
    batches = collected.get()
    if batches is not None:
        batches.append((tuple(messages), tuple(edges)))
        return
    conn = carrier(app, conn)
    if conn is None and is_repeated:
        enqueue_again(app, messages, edges)
    elif conn is not None:
        app.database.run(tasks.enqueue(messages, edges, lets_in=False), conn)
    elif (pipeline := entered.get()) is not None and pipeline.gathers_for(app):
        pipeline.put(messages, edges, partial(_enqueue_alone, app, messages, edges))
    else:
        _enqueue_alone(app, messages, edges)


def _enqueue_alone(app: Any, messages: Sequence[Message], edges: Iterable[Any]) -> None:
    if edges:
        enqueue_canvas(app, messages, edges)
    else:
        app.outbox.put(messages)


async def aput(app: Any, messages: Sequence[Message], edges: Iterable[Any], conn: Any, *, is_repeated: bool) -> None:
    """`put` for coroutines."""
    conn = await acarrier(app, conn)
    if conn is not None:
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
    call = Call(key, task_id or str(key), name, args, kwargs, options, embed, root, parent, group_id)
    if root is not None or parent is not None:
        call.extra = relatives(root_id, root, parent_id, parent)
    return call


def relatives(root_id: str | None, root: UUID | None, parent_id: str | None, parent: UUID | None) -> dict[str, Any]:
    """The ids of a call's root and parent as their users spell them, where the keys do not give them back."""
    names = (("root_id", root_id, root), ("parent_id", parent_id, parent))
    return {option: name for option, name, key in names if name and key is not None and own_spelling(name, key)}


def _publish_linked(
    app: Any, call: Call, link: Any, options: dict[str, Any], conn: Any, add_to_parent: bool | None
) -> Any:
    signature = _linked(app, call, link, options)
    # Whoever overrides apply_async has seen this call already.
    return send(signature, None, None, {"conn": conn, "as_called": True}, add_to_parent=add_to_parent)


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


def _result(app: Any, call: Call, result_cls: Any, add_to_parent: bool | None) -> Any:
    result = (result_cls or app.AsyncResult)(call.task_id)
    # A call that keeps no result is over, for its caller, as soon as it is made.
    result.ignored = bool(call.options.get("ignore_result"))
    caller = get_current_worker_task()
    if caller is not None and add_to_parent:
        caller.add_trail(result)
    return result


# -- one message


def compose(app: Any, call: Call, task: Any) -> Message:
    """Make the message of a call: route it, encode it, and let `before_task_publish` have its say."""
    options, destination = app.amqp.route(call.options, call.name, call.args, call.kwargs, task)
    # A route may say more than where to: priority, serializer, compression.
    is_controlled = not flows.FLOW_OPTIONS.isdisjoint(options) or (task is not None and task.is_controlled)
    call.options = options = flows.with_flow_key(options) if is_controlled else options
    args, kwargs = _arguments(call)
    countdown_s, due = due_of(app, options)
    expires_in_s, expires = expiry_of(app, options)
    conf = app.conf
    headers = _headers(app, call, task, destination)
    if signals.before_task_publish.receivers:
        headers, args, kwargs = let_publishers_see(app, call, destination, headers, args, kwargs)
    encoded = _encode(app, call, (args, kwargs, call.embed), options.get("serializer") or conf.task_serializer)
    priority = options.get("priority")
    if priority is None:
        priority = conf.task_default_priority or 0
    message = Message(
        id=call.id,
        task_id=own_spelling(call.task_id, call.id),
        name=call.name,
        payload=encoded.body,
        content_type=None if encoded.content_type == JSON else encoded.content_type,
        content_encoding=None if encoded.content_encoding == "utf-8" else encoded.content_encoding,
        queue=destination.queues[0],
        priority=priority if type(priority) is int else _number(priority),
        due=due,
        countdown_s=countdown_s,
        expires=expires,
        expires_in_s=expires_in_s,
        root=call.root,
        parent=call.parent,
        group_id=call.group_id,
        options=_dump(headers) if len(headers) > 1 or options.get("origin") else _own_origin(headers["origin"]),
        max_deliveries=options.get("max_deliveries"),
        inputs=call.inputs,
        trigger=_trigger(call),
    )
    return flows.controlled(call, task, message) if is_controlled else message


def _number(priority: Any) -> int:
    try:
        return int(priority)
    except (TypeError, ValueError):
        raise TypeError(f"The priority is {priority!r}. Give a whole number; the highest is the most urgent.") from None


def _trigger(call: Call) -> Any:
    trigger = call.options.get("trigger")
    if trigger not in (None, "all_success", "all_done", "any"):
        raise ValueError(f"trigger={trigger!r} is not known; it is one of all_success (the default), all_done and any.")
    return None if trigger == "all_success" or call.inputs is None else trigger


def _arguments(call: Call) -> tuple[Any, Any]:
    args, kwargs = call.args, call.kwargs
    args = () if args is None else args
    kwargs = {} if kwargs is None else kwargs
    if not isinstance(args, list | tuple):
        raise TypeError("task args must be a list or tuple")
    if not isinstance(kwargs, Mapping):
        raise TypeError("task keyword arguments must be a mapping")
    return args, kwargs


def _headers(app: Any, call: Call, task: Any, destination: Any) -> dict[str, Any]:
    """What Celery puts in a message's headers and has no column here; defaults are left out."""
    options = call.options
    headers: dict[str, Any] = {"origin": options.get("origin") or anon_nodename()}
    soft, hard = options.get("soft_time_limit"), options.get("time_limit")
    if soft is not None or hard is not None:
        headers["timelimit"] = [hard, soft]
    # Absent, the result is kept; null, nobody has said, and the task that runs decides.
    if options.get("ignore_result") is not False:
        headers["ignore_result"] = options.get("ignore_result")
    for key, value in options.items():
        if key in HEADERS and value not in (None, "", []):
            headers[key] = value
    if "reply_to" in headers and headers["reply_to"] == reply_address(headers["origin"]):
        del headers["reply_to"]
    if options.get("stamped_headers"):
        headers["stamps"] = {key: options[key] for key in options["stamped_headers"] if key in options}
    if options.get("headers"):
        headers["headers"] = dict(options["headers"])
    if destination.exchange:
        headers["exchange"], headers["routing_key"] = destination.exchange, destination.routing_key
    if options.get("retries"):
        headers["retries"] = options["retries"]
    properties = _properties(options, headers.get("stamps") or ())
    if properties:
        headers["properties"] = properties
    headers.update(call.extra)
    return headers


_NOT_A_PROPERTY = _TRANSPORT_OPTIONS.union(
    HEADERS,
    ("countdown", "eta", "expires", "priority", "queue", "exchange", "routing_key", "serializer", "compression"),
    (
        "headers",
        "ignore_result",
        "soft_time_limit",
        "time_limit",
        "origin",
        "stamps",
        "max_deliveries",
        "group_id",
        "trigger",
    ),
    ("link", "link_error"),
)


def _properties(options: Mapping[str, Any], stamps: Iterable[str]) -> dict[str, Any]:
    """Options that nobody knows are properties of the message, found again in `request.properties`."""
    return {
        key: value
        for key, value in options.items()
        if key not in _NOT_A_PROPERTY and key not in stamps and value is not None
    }


def _encode(app: Any, call: Call, body: Any, serializer: str) -> Encoded:
    try:
        return encode(body, serializer, call.options.get("compression") or app.conf.task_compression)
    except EncodeError as error:
        raise EncodeError(
            f"The arguments of {call.name!r} cannot be written as {serializer}: {error}."
            " Pass plain data, or choose another serializer."
        ) from error
