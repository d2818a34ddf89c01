"""A call of a task, and the message that it becomes.

    Call -> route, read times, headers, let `before_task_publish` see it, encode -> Message

The payload is the body of Celery's message protocol 2 and the options are what its headers carry, less what has a column
(https://docs.celeryq.dev/en/stable/internals/protocol.html). Nothing is sent here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from uuid import UUID

from pgtasks import signals
from pgtasks.app import flows
from pgtasks.app.moments import due_of, expiry_of
from pgtasks.app.protocol import HEADERS, let_publishers_see
from pgtasks.exceptions import EncodeError
from pgtasks.message import Message, own_spelling
from pgtasks.serialization import JSON, Encoded, encode, write_compact
from pgtasks.utils.nodenames import anon_nodename, reply_address

__all__ = ("Call", "compose")

#: Options that say how a call is sent and leave no trace in its message.
_ABOUT_SENDING = flows.FLOW_OPTIONS | {
    *("producer", "connection", "publisher", "router", "result_cls", "retry", "retry_policy", "add_to_parent"),
    *("timeout", "confirm_timeout", "route_name", "task_type", "conn", "using", "declare", "chain", "chord", "backend"),
    *("mandatory", "immediate", "delivery_mode", "exchange_type", "retries", "parent_id", "root_id", "task_id"),
}
#: Options that have a column or a header of their own, or are part of the body.
_PLACED = HEADERS | {
    *("countdown", "eta", "expires", "priority", "queue", "exchange", "routing_key", "serializer", "compression"),
    *("headers", "ignore_result", "soft_time_limit", "time_limit", "origin", "stamps", "max_deliveries", "group_id"),
    *("trigger", "link", "link_error"),
}
_NOT_PROPERTIES = _ABOUT_SENDING | _PLACED


@dataclass(slots=True)
class Call:
    """One call of a task, with its options as `apply_async` knows them, on its way to a message."""

    id: UUID
    #: The id as its user knows it; None where that is `id`, written out.
    public_id: str | None
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

    @property
    def task_id(self) -> str:
        return self.public_id or str(self.id)

    def signal(self, send: Callable[..., Any], **arguments: Any) -> None:
        if self.context is None:
            send(sender=self.name, **arguments)
        else:
            self.context.run(send, sender=self.name, **arguments)


def _dump(headers: Mapping[str, Any]) -> bytes:
    return write_compact(headers).encode("utf-8", "surrogatepass")


@cache
def _origin_of(pid: int) -> tuple[str, bytes]:
    """What this process is called as the origin of its calls, and the options of a call that says nothing else, as most do."""
    origin = anon_nodename()
    return origin, _dump({"origin": origin})


def compose(app: Any, call: Call, task: Any) -> Message:
    """Make the message of a call: route it, encode it, and let `before_task_publish` have its say."""
    options, destination = app.amqp.route(call.options, call.name, call.args, call.kwargs, task)
    # A route may say more than where to: priority, serializer, compression.
    is_controlled = not flows.FLOW_OPTIONS.isdisjoint(options) or (task is not None and task.is_controlled)
    call.options = options = flows.with_flow_key(options) if is_controlled else options
    args, kwargs = _arguments(call)
    countdown_s, due = due_of(app, options)
    expires_in_s, expires = expiry_of(app, options)
    headers = _headers(app, call, task, destination)
    if signals.before_task_publish.receivers:
        headers, args, kwargs = let_publishers_see(app, call, destination, headers, args, kwargs)
    encoded = _encode(app, call, (args, kwargs, call.embed), options.get("serializer") or app.conf.task_serializer)
    message = Message(
        id=call.id,
        task_id=own_spelling(call.public_id, call.id) if call.public_id else None,
        name=call.name,
        payload=encoded.body,
        content_type=None if encoded.content_type == JSON else encoded.content_type,
        content_encoding=None if encoded.content_encoding == "utf-8" else encoded.content_encoding,
        queue=destination.queues[0],
        priority=_priority(app, options),
        due=due,
        countdown_s=countdown_s,
        expires=expires,
        expires_in_s=expires_in_s,
        root=call.root,
        parent=call.parent,
        group_id=call.group_id,
        options=_dump(headers) if len(headers) > 1 or options.get("origin") else _origin_of(os.getpid())[1],
        max_deliveries=options.get("max_deliveries"),
        inputs=call.inputs,
        trigger=_trigger(call),
    )
    return flows.controlled(call, task, message) if is_controlled else message


def _priority(app: Any, options: Mapping[str, Any]) -> int:
    priority = options.get("priority")
    if priority is None:
        priority = app.conf.task_default_priority or 0
    if type(priority) is int:
        return priority
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
    headers: dict[str, Any] = {"origin": options.get("origin") or _origin_of(os.getpid())[0]}
    soft, hard = options.get("soft_time_limit"), options.get("time_limit")
    if soft is not None or hard is not None:
        headers["timelimit"] = [hard, soft]
    # Absent, the result is kept; null, nobody has said, and the task that runs decides.
    if options.get("ignore_result") is not False:
        headers["ignore_result"] = options.get("ignore_result")
    for key in HEADERS.intersection(options):
        if options[key] not in (None, "", []):
            headers[key] = options[key]
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


def _properties(options: Mapping[str, Any], stamps: Iterable[str]) -> dict[str, Any]:
    """Options that nobody knows are properties of the message, found again in `request.properties`."""
    if _NOT_PROPERTIES.issuperset(options):  # as a rule
        return {}
    return {
        key: value
        for key, value in options.items()
        if key not in _NOT_PROPERTIES and key not in stamps and value is not None
    }


def _encode(app: Any, call: Call, body: Any, serializer: str) -> Encoded:
    try:
        return encode(body, serializer, call.options.get("compression") or app.conf.task_compression)
    except EncodeError as error:
        raise EncodeError(
            f"The arguments of {call.name!r} cannot be written as {serializer}: {error}."
            " Pass plain data, or choose another serializer."
        ) from error
