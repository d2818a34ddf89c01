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
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from pgtasks.app.interchange import first_protocol, headers_of, message_of, options_of, reply_to_of, write_options
from pgtasks.canvas.nodes import Edge, shaped
from pgtasks.message import HIGHEST_PRIORITY, Claim, Message, id_of, new_id
from pgtasks.serialization import JSON, Encoded, decode, encode
from pgtasks.store import mail, tasks
from pgtasks.store.sql import Query

__all__ = (
    "HEADER_OF_CHORD", "RESULTS_OF_HEADER", "Parcel", "handed_in", "is_task", "pack", "parcel_of", "unpack",
    "unpacked",
)  # fmt: skip

#: In the headers of a chord's body: the ids of the tasks that it waits for, in order. In the place of what
#: they return, as its first argument, unless it takes none:
HEADER_OF_CHORD, RESULTS_OF_HEADER = "pgtasks_header", "pgtasks: the results of the header"
#: The name of what is no task.
UNKNOWN = "celery.unknown_message"

_NAMESPACE = UUID("8e1b3f55-6a8e-4d0a-9c6e-0c1d5cf3a6a5")


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
    """The statement that adds a message to a task queue; `copy` counts the queues that got the same one before.

    When it returns 0 it may have run at the same time as an acknowledgement: run it once more. To run it twice is harmless.
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
    content_type, priority = parcel.content_type or "application/data", _priority(parcel.properties)
    if not is_task(parcel):
        options = {"headers": parcel.headers, "exchange": parcel.exchange, "routing_key": parcel.routing_key}
        return Message(
            id=new_id(), name=UNKNOWN, payload=parcel.body, queue=queue, priority=priority,
            content_type=None if content_type == JSON else content_type,
            content_encoding=None if _encoding(parcel) == "utf-8" else _encoding(parcel), options=write_options(options),
        )  # fmt: skip
    headers = {name: value for name, value in parcel.headers.items() if name != HEADER_OF_CHORD}
    options = options_of(headers, parcel.properties, queue, parcel.exchange, parcel.routing_key)
    encoded = Encoded(content_type, _encoding(parcel), parcel.body)
    return message_of(headers, encoded, queue, priority, options)


def _encoding(parcel: Parcel) -> str:
    encoding = parcel.content_encoding or "utf-8"
    compression = parcel.headers.get("compression")
    return f"{encoding};{compression}" if compression else encoding


def _copied(message: Message, copy: int) -> Message:
    """The message for one more queue. There it is a task of its own, under an id that follows from the first one's."""
    return replace(message, id=uuid5(_NAMESPACE, f"{message.id} {copy}"), task_id=None)


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
            "options": write_options({**json.loads(message.options or b"{}"), "role": "body"}),
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
    return decode(parcel.body, parcel.content_type, _encoding(parcel), _HARMLESS)


_HARMLESS = frozenset({"application/json", "application/x-yaml", "application/x-msgpack"})


def _of_protocol_1(parcel: Parcel) -> Parcel | None:
    """A message of the old protocol, whose body is a mapping with everything in it, as one of the new."""
    if parcel.content_type not in _HARMLESS:
        return None
    try:
        read = first_protocol(parcel.headers, unpacked(parcel))
    except Exception:
        return None
    if read is None:
        return None
    headers, body = read
    content_type, content_encoding, written = encode(body)
    return parcel._replace(
        body=written, content_type=content_type, content_encoding=content_encoding, headers=headers
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
    if reply_to := reply_to_of(options):
        parcel.properties["reply_to"] = reply_to
    headers = headers_of(claim, options)
    if claim.has_successors:
        # What others wait for is kept for them.
        headers["ignore_result"] = False
    return parcel._replace(headers={**parcel.headers, **headers})


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
    return write_options(properties)


def unpack(properties: bytes, body: bytes) -> Parcel:
    """A message from a mailbox."""
    return Parcel(body, **json.loads(properties.decode("utf-8", "surrogatepass")))
