"""Tasks and messages of Celery's protocol, each made of the other.

    Parcel, a kombu message   -> handed_in ->   a row of the store
    a Claim on a row          -> parcel_of ->   Parcel

The body of a message is the payload of the row, byte for byte; its headers become the columns and options
that `publish` writes for calls of our own, and back. A message that is no task becomes one all the same,
which fails with a word on why where our workers claim it, and is what it was where a program of Celery gets
it: so nothing is lost, and nobody crashes. Celery's documents: "Message Protocol", versions 1 and 2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from kombu.utils.json import JSONEncoder

from pgtasks.canvas.nodes import Edge, shaped
from pgtasks.message import HIGHEST_PRIORITY, Claim, Message, id_of, new_id, own_spelling
from pgtasks.serialization import decode, encode
from pgtasks.store import mail, tasks
from pgtasks.store.sql import Query
from pgtasks.utils.nodenames import reply_address

__all__ = (
    "HEADER_OF_CHORD", "RESULTS_OF_HEADER", "Parcel", "handed_in", "is_task", "pack", "parcel_of", "unpack",
    "unpacked",
)  # fmt: skip

#: In the headers of a chord's body: the ids of the tasks that it waits for, in order. In the place of what
#: they return, as its first argument, unless it takes none:
HEADER_OF_CHORD, RESULTS_OF_HEADER = "pgtasks_header", "pgtasks: the results of the header"
#: The name of what is no task.
UNKNOWN = "celery.unknown_message"

#: Headers that have a column or are made anew, and those that are options under their own names.
_COLUMNS = {
    *("task", "id", "root_id", "parent_id", "group", "eta", "expires", "retries", "lang", "compression"),
}
_OPTIONS = {
    *("shadow", "group_index", "argsrepr", "kwargsrepr", "origin", "ignore_result", "timelimit"),
    *("replaced_task_nesting", "stamped_headers", "stamps"),
}
#: Properties that say nothing which is not said elsewhere.
_PLAIN_PROPERTIES = {
    *("correlation_id", "reply_to", "priority", "delivery_mode", "delivery_info", "delivery_tag"),
}
_NAMESPACE = UUID("8e1b3f55-6a8e-4d0a-9c6e-0c1d5cf3a6a5")

_write_json = JSONEncoder(separators=(",", ":")).encode


class Parcel(NamedTuple):
    """A message as kombu has it."""

    body: bytes
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]
    properties: dict[str, Any]
    exchange: str = ""
    routing_key: str = ""


def is_task(parcel: Parcel) -> bool:
    """True for a message of protocol 2."""
    return isinstance(parcel.headers.get("task"), str) and isinstance(parcel.headers.get("id"), str)


def is_task_of_any_protocol(parcel: Parcel) -> bool:
    """True for a message of protocol 2, or of protocol 1, whose body has to be read to tell."""
    return is_task(parcel) or _of_protocol_1(parcel) is not None


# -- a message becomes a row


def handed_in(parcel: Parcel, queue: str, copy: int = 0) -> Query[Any]:
    """The statement that adds a message to a task queue; `copy` counts the queues that got the same one
    before.

    One that gives 0 may have met an acknowledgement, and is to be run once more; done twice, it counts once.
    """
    if not is_task(parcel):
        parcel = _of_protocol_1(parcel) or parcel
    message = _message(parcel, queue)
    if copy:
        message = _copied(message, copy)
    headers = parcel.headers
    embed = _embedded(parcel)
    waits_for = headers.get(HEADER_OF_CHORD)
    if waits_for:
        return _waiting(message, parcel, waits_for, is_waited_for=bool(embed.get("chord")))
    retries = headers.get("retries") or 0
    follows = bool(retries or headers.get("replaced_task_nesting"))
    return mail.hand_in(
        message, has_successors=bool(embed.get("chord")), follows=follows, retries=int(retries)
    )


def _message(parcel: Parcel, queue: str) -> Message:
    headers = parcel.headers
    task_id = headers["id"] if is_task(parcel) else None
    key = id_of(task_id) if task_id else new_id()
    root, parent = headers.get("root_id"), headers.get("parent_id")
    root = None if root == task_id else root
    encoding = parcel.content_encoding or "utf-8"
    if compression := headers.get("compression"):
        encoding = f"{encoding};{compression}"
    return Message(
        id=key,
        name=headers["task"] if task_id else UNKNOWN,
        payload=parcel.body,
        content_type=None
        if parcel.content_type == "application/json"
        else parcel.content_type or "application/data",
        content_encoding=None if encoding == "utf-8" else encoding,
        queue=queue,
        priority=_priority(parcel.properties),
        due=_moment(headers.get("eta")) if task_id else None,
        expires=_moment(headers.get("expires")) if task_id else None,
        root=id_of(root) if task_id and isinstance(root, str) else None,
        parent=id_of(parent) if task_id and isinstance(parent, str) else None,
        group_id=headers.get("group") if task_id else None,
        task_id=own_spelling(task_id, key) if task_id else None,
        options=_write_json(_options(parcel, queue)).encode("utf-8", "surrogatepass"),
    )


def _options(parcel: Parcel, queue: str) -> dict[str, Any]:
    headers, properties = parcel.headers, parcel.properties
    if not is_task(parcel):
        return {"headers": headers, "exchange": parcel.exchange, "routing_key": parcel.routing_key}
    options = {
        key: headers[key] for key in _OPTIONS if headers.get(key) not in (None, "", [], {}, [None, None], 0)
    }
    # Absent, it would be kept whatever the task says.
    if headers.get("ignore_result") is not False:
        options["ignore_result"] = headers.get("ignore_result")
    custom = {key: value for key, value in headers.items() if key not in _COLUMNS and key not in _OPTIONS}
    custom.pop(HEADER_OF_CHORD, None)
    if custom:
        options["headers"] = custom
    for option, key in (("root_id", "root_id"), ("parent_id", "parent_id")):
        given = headers.get(key)
        if isinstance(given, str) and given != headers["id"] and own_spelling(given, id_of(given)):
            options[option] = given
    reply_to = properties.get("reply_to")
    if reply_to and reply_to != reply_address(options.get("origin")):
        options["reply_to"] = reply_to
    if parcel.exchange or parcel.routing_key != queue:
        options["exchange"], options["routing_key"] = parcel.exchange, parcel.routing_key
    if others := {key: value for key, value in properties.items() if key not in _PLAIN_PROPERTIES}:
        options["properties"] = others
    return options


def _copied(message: Message, copy: int) -> Message:
    """The same message in one more queue is another task: an id stands for one."""
    values = {field: getattr(message, field) for field in Message.__dataclass_fields__}
    return Message(**{**values, "id": uuid5(_NAMESPACE, f"{message.id} {copy}"), "task_id": None})


def _waiting(
    message: Message, parcel: Parcel, waits_for: Sequence[str], *, is_waited_for: bool
) -> Query[Any]:
    """The body of a chord whose header is sent next: it waits for those tasks, and gets their results."""
    args, kwargs, embed = unpacked(parcel)
    takes_results = bool(args) and args[0] == RESULTS_OF_HEADER
    values = {field: getattr(message, field) for field in Message.__dataclass_fields__}
    body = Message(
        **{
            **values,
            "payload": encode([args[takes_results:], kwargs, embed]).body,
            "content_type": None,
            "content_encoding": None,
            "inputs": "list" if takes_results else "none",
            "options": _write_json({**json.loads(message.options or b"{}"), "role": "body"}).encode(),
        }
    )
    header = [id_of(task_id) for task_id in waits_for]
    edges = [Edge(pred, body.id, position) for position, pred in enumerate(header)]
    if is_waited_for:
        # Written by whoever sends what waits for it; here it only says that somebody does.
        edges.append(Edge(body.id, uuid5(_NAMESPACE, str(body.id)), 0))
    return tasks.enqueue([body], edges, running=header)


def _priority(properties: Mapping[str, Any]) -> int:
    priority = properties.get("priority") or 0
    return (
        max(-HIGHEST_PRIORITY, min(int(priority), HIGHEST_PRIORITY))
        if isinstance(priority, int | float)
        else 0
    )


def _moment(text: Any) -> datetime | None:
    """The moment that a header names; a time without a zone is UTC, as Celery sends it."""
    if not isinstance(text, str):
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _embedded(parcel: Parcel) -> Mapping[str, Any]:
    """What a body says beside the arguments; asked only where it may name a chord."""
    if b"chord" not in parcel.body and "compression" not in parcel.headers:
        return {}
    try:
        _, _, embed = unpacked(parcel)
    except Exception:
        return {}
    return embed if isinstance(embed, dict) else {}


def unpacked(parcel: Parcel) -> Any:
    """Decode a body, which must be of a kind that runs no code."""
    encoding = parcel.content_encoding or "utf-8"
    if compression := parcel.headers.get("compression"):
        encoding = f"{encoding};{compression}"
    return decode(parcel.body, parcel.content_type, encoding, _HARMLESS)


_HARMLESS = frozenset({"application/json", "application/x-yaml", "application/x-msgpack"})


def _of_protocol_1(parcel: Parcel) -> Parcel | None:
    """A message of the old protocol, whose body is a mapping with everything in it, as one of the new."""
    if parcel.content_type not in _HARMLESS:
        return None
    try:
        old = unpacked(parcel)
    except Exception:
        return None
    if (
        not isinstance(old, dict)
        or not isinstance(old.get("task"), str)
        or not isinstance(old.get("id"), str)
    ):
        return None
    embed = {key: old.get(key) for key in ("callbacks", "errbacks", "chain", "chord")}
    encoded = encode([old.get("args") or [], old.get("kwargs") or {}, embed])
    headers = {
        **{key: value for key, value in parcel.headers.items() if key != "compression"},
        **{key: old.get(key) for key in ("task", "id", "eta", "expires", "retries", "timelimit")},
        "group": old.get("taskset"),
        "lang": "py",
        "ignore_result": None,
    }
    return parcel._replace(
        body=encoded.body,
        content_type=encoded.content_type,
        content_encoding=encoded.content_encoding,
        headers=headers,
    )


# -- a row becomes a message


def parcel_of(claim: Claim) -> Parcel:
    """The message that a claimed task is to a program of Celery."""
    options = json.loads(claim.options) if claim.options else {}
    encoding, _, compression = (claim.content_encoding or "utf-8").partition(";")
    parcel = Parcel(
        _with_inputs(claim, options),
        claim.content_type or "application/json",
        encoding,
        {"compression": compression} if compression and claim.inputs is None else {},
        {
            "correlation_id": claim.public_id,
            "priority": -claim.rank,
            "delivery_mode": 2,
            **options.get("properties", {}),
        },
        options.get("exchange", ""),
        options.get("routing_key", claim.queue),
    )
    if claim.name == UNKNOWN:
        return parcel._replace(headers={**parcel.headers, **(options.get("headers") or {})})
    origin = options.get("origin")
    if reply_to := options.get("reply_to") or reply_address(origin):
        parcel.properties["reply_to"] = reply_to
    return parcel._replace(headers={**parcel.headers, **_headers(claim, options)})


def _headers(claim: Claim, options: Mapping[str, Any]) -> dict[str, Any]:
    task_id = claim.public_id
    headers = {
        **(options.get("headers") or {}),
        "lang": "py",
        "task": claim.name,
        "id": task_id,
        "shadow": options.get("shadow"),
        "eta": claim.due and claim.due.isoformat(),
        "expires": claim.expires and claim.expires.isoformat(),
        "group": claim.group_id,
        "group_index": options.get("group_index"),
        "retries": claim.retries + options.get("retries", 0),
        "timelimit": options.get("timelimit") or [None, None],
        "root_id": options.get("root_id") or (str(claim.root) if claim.root else task_id),
        "parent_id": options.get("parent_id") or (str(claim.parent) if claim.parent else None),
        "argsrepr": options.get("argsrepr"),
        "kwargsrepr": options.get("kwargsrepr"),
        "origin": options.get("origin"),
        "ignore_result": options.get("ignore_result", False),
        "replaced_task_nesting": options.get("replaced_task_nesting", 0),
        "stamped_headers": options.get("stamped_headers"),
        "stamps": options.get("stamps") or {},
    }
    if claim.has_successors:
        # What others wait for is kept for them.
        headers["ignore_result"] = False
    return headers


def _with_inputs(claim: Claim, options: Mapping[str, Any]) -> bytes:
    """The body, with what the predecessors returned before the arguments, as their worker would put it."""
    if claim.inputs not in ("value", "list") or claim.input_values is None:
        return claim.payload
    args, kwargs, embed = decode(claim.payload, claim.content_type, claim.content_encoding, _HARMLESS)
    values = [
        None if value is None else decode(value, content_type, encoding, _HARMLESS)
        for value, content_type, encoding in zip(
            claim.input_values, claim.input_types or (), claim.input_encodings or (), strict=True
        )
    ]
    if claim.trigger == "any":
        states = claim.input_states or ()
        first: Any = [value for value, state in zip(values, states, strict=True) if state == "SUCCESS"]
    else:
        first = values[0] if claim.inputs == "value" else shaped(values, options.get("shape"))
    serializers = {"application/x-yaml": "yaml", "application/x-msgpack": "msgpack"}
    return encode([[first, *args], kwargs, embed], serializers.get(claim.content_type or "", "json")).body


# -- mail


def pack(parcel: Parcel) -> bytes:
    """Everything but the body of a message, for a mailbox."""
    properties = parcel._asdict()
    del properties["body"]
    return _write_json(properties).encode("utf-8", "surrogatepass")


def unpack(properties: bytes, body: bytes) -> Parcel:
    """A message from a mailbox."""
    return Parcel(body, **json.loads(properties.decode("utf-8", "surrogatepass")))
