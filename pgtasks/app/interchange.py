"""Tasks as messages of Celery's protocol, and back: what its programs send, and what they are sent.

    headers, body  --first_protocol-->  headers and body of protocol 2
    headers, body  --message_of------>  Message, as `publish` makes one of a call of our own
    Message's row  --headers_of------>  headers of protocol 2

The body stays as it is, byte for byte. The transport, to which programs of Celery send, and the bridge, which empties their
brokers, both go through here. Celery's document: "Message Protocol", versions 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any, Protocol
from uuid import UUID

from pgtasks.app.moments import END_OF_TIME
from pgtasks.app.publish import relatives
from pgtasks.message import Message, id_of, own_spelling
from pgtasks.serialization import JSON, Encoded, write_compact
from pgtasks.utils.nodenames import reply_address

__all__ = ("Task", "first_protocol", "headers_of", "message_of", "options_of", "reply_to_of", "write_options")

#: Headers that have a column or are generated, and one that kombu adds to what a worker gave back.
_COLUMNS = frozenset(
    (
        *("lang", "task", "id", "root_id", "parent_id", "group", "eta", "expires", "retries", "compression"),
        *("utc", "redelivered"),
    )
)
#: Headers that are options under their own names, when they say anything.
_KEPT = ("shadow", "origin", "argsrepr", "kwargsrepr", "replaced_task_nesting", "stamped_headers", "stamps")
#: Headers of which each value says something.
_JUDGED = ("group_index", "timelimit", "ignore_result")
#: Properties that belong to a transport, or have a place of their own.
_TRANSPORT = frozenset(
    (
        *(
            "correlation_id",
            "reply_to",
            "delivery_mode",
            "delivery_info",
            "delivery_tag",
            "priority",
            "body_encoding",
        ),
        *("content_type", "content_encoding", "application_headers", "expiration"),
    )
)


# -- a message of Celery becomes a row


def first_protocol(
    headers: Mapping[str, Any], body: Any, timezone: tzinfo = UTC
) -> tuple[dict[str, Any], Any] | None:
    """Convert a message of protocol 1, which has everything in its body, to headers and body of protocol 2.

    Returns None for what is no such message. `timezone` is taken for times without a zone, where the message says that
    they are not in UTC.
    """
    if not isinstance(body, Mapping) or not body.get("task") or not body.get("id"):
        return None
    zone = UTC if body.get("utc", True) else timezone
    named = {
        name: body[name] for name in ("retries", "timelimit", "group_index") if body.get(name) is not None
    }
    found = {
        "task": str(body["task"]),
        "id": str(body["id"]),
        "group": body.get("group") or body.get("taskset"),
        # Absent, it would be kept whatever the task says.
        "ignore_result": None,
        **named,
        **{name: _moment(body.get(name), zone) for name in ("eta", "expires")},
    }
    embed = {name: body.get(name) for name in ("callbacks", "errbacks", "chord")}
    others = {name: value for name, value in headers.items() if name != "compression"}
    return {**others, **found}, [body.get("args") or [], body.get("kwargs") or {}, {**embed, "chain": None}]


def message_of(
    headers: Mapping[str, Any], encoded: Encoded, queue: str, priority: int, options: Mapping[str, Any]
) -> Message:
    """The row of a call; `options` are those of `options_of`. Raises ValueError for what no row can hold."""
    task_id, root_id, parent_id, group_id = (
        _text(headers.get(name)) for name in ("id", "root_id", "parent_id", "group")
    )
    if not task_id:
        raise ValueError(f"A call of {headers.get('task')!r} has no task id.")
    key = id_of(task_id)
    root = id_of(root_id) if root_id and root_id != task_id else None
    parent = id_of(parent_id) if parent_id else None
    content_encoding = encoded.content_encoding.lower()
    return Message(
        id=key,
        task_id=own_spelling(task_id, key),
        name=str(headers["task"]),
        payload=encoded.body,
        content_type=None if encoded.content_type == JSON else encoded.content_type,
        content_encoding=None if content_encoding == "utf-8" else content_encoding,
        queue=queue,
        priority=priority,
        due=_moment(headers.get("eta")),
        expires=_moment(headers.get("expires")),
        root=root,
        parent=parent,
        group_id=group_id,
        options=write_options({**options, **relatives(root_id, root, parent_id, parent)}),
    )


def options_of(
    headers: Mapping[str, Any], properties: Mapping[str, Any], queue: str, exchange: str, routing_key: str
) -> dict[str, Any]:
    """What the options of a message keep: headers without a column, the caller's own, properties, and how it was routed."""
    options = {name: headers[name] for name in _KEPT if headers.get(name) not in (None, "", [], {}, 0)}
    if headers.get("group_index") is not None:
        options["group_index"] = headers["group_index"]
    limits = headers.get("timelimit") or (None, None)
    if any(limit is not None for limit in limits):
        options["timelimit"] = list(limits)
    if headers.get("ignore_result") is not False:
        options["ignore_result"] = headers.get("ignore_result")
    known = {*_COLUMNS, *_KEPT, *_JUDGED}
    if custom := {name: value for name, value in headers.items() if name not in known}:
        options["headers"] = custom
    reply_to = properties.get("reply_to")
    if reply_to and reply_to != reply_address(options.get("origin")):
        options["reply_to"] = reply_to
    if exchange or routing_key != queue:
        options["exchange"], options["routing_key"] = exchange, routing_key
    if others := {
        name: value for name, value in properties.items() if name not in _TRANSPORT and value is not None
    }:
        options["properties"] = others
    return options


def write_options(options: Mapping[str, Any]) -> bytes:
    """Options as a message has them."""
    return write_compact(options).encode("utf-8", "surrogatepass")


def _moment(value: Any, zone: tzinfo = UTC) -> datetime | None:
    """The moment that a header names; one without a zone is UTC, as Celery sends it."""
    if not value:
        return None
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return min(moment if moment.tzinfo else moment.replace(tzinfo=zone), END_OF_TIME)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


# -- a row becomes a message of Celery


class Task(Protocol):
    """What a row says, wherever it was read from."""

    @property
    def name(self) -> str: ...
    @property
    def public_id(self) -> str: ...
    @property
    def due(self) -> datetime | None: ...
    @property
    def expires(self) -> datetime | None: ...
    @property
    def retries(self) -> int: ...
    @property
    def root(self) -> UUID | None: ...
    @property
    def parent(self) -> UUID | None: ...
    @property
    def group_id(self) -> str | None: ...


def headers_of(task: Task, options: Mapping[str, Any]) -> dict[str, Any]:
    """The headers of protocol 2 of a task with these options."""
    task_id = task.public_id
    return {
        **(options.get("headers") or {}),
        "lang": "py",
        "task": task.name,
        "id": task_id,
        "shadow": options.get("shadow"),
        "eta": task.due and task.due.isoformat(),
        "expires": task.expires and task.expires.isoformat(),
        "group": task.group_id,
        "group_index": options.get("group_index"),
        "retries": task.retries + options.get("retries", 0),
        "timelimit": options.get("timelimit") or [None, None],
        "root_id": options.get("root_id") or (str(task.root) if task.root else task_id),
        "parent_id": options.get("parent_id") or (str(task.parent) if task.parent else None),
        "argsrepr": options.get("argsrepr"),
        "kwargsrepr": options.get("kwargsrepr"),
        "origin": options.get("origin"),
        "ignore_result": options.get("ignore_result", False),
        "replaced_task_nesting": options.get("replaced_task_nesting", 0),
        "stamped_headers": options.get("stamped_headers"),
        "stamps": options.get("stamps") or {},
    }


def reply_to_of(options: Mapping[str, Any]) -> str | None:
    """The property `reply_to` of a task with these options."""
    found: str | None = options.get("reply_to") or reply_address(options.get("origin"))
    return found
