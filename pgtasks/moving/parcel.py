"""`Parcel`: a message as a broker holds it, independent of the broker.

The envelope is kombu's own JSON form of a message, which it keeps in Redis. Messages of AMQP get one when they must be set
aside, so that all that was set aside can be read again in one way.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID, uuid5

from kombu.compression import decompress
from kombu.exceptions import SerializationError
from kombu.utils.json import dumps, loads

from pgtasks.message import TASK_ID_NAMESPACE

__all__ = ("CONNECT_S", "Parcel", "Source", "Standing", "envelope", "is_brokers", "opened")


#: How long a broker may take to let the bridge in, in seconds. Kombu's 5 are few for one that is busy, and a bridge that is
#: not let in at its start gives up.
CONNECT_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """One message of a broker.

    `priority` is as pgtasks has it: higher first. `trouble` says why the envelope cannot be opened. `raw` is the envelope,
    where the broker has one. `handle` is how its source finds it again.
    """

    queue: str
    raw: bytes = b""
    priority: int = 0
    body: bytes = b""
    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    trouble: str = ""
    handle: Any = None

    @property
    def whole(self) -> bytes:
        """All of it, as it is set aside."""
        return self.raw or envelope(
            self.body, self.content_type, self.content_encoding, self.headers, self.properties
        )

    @property
    def key(self) -> UUID:
        """The id under which it is set aside: the same for each delivery of it."""
        return uuid5(TASK_ID_NAMESPACE, self.whole.hex())


@dataclass(frozen=True, slots=True)
class Standing:
    """What a source still has: messages that wait, those that are in the hands of workers, and how many consume.

    `held` and `consumers` are None where the broker does not tell.
    """

    waiting: Mapping[str, int]
    held: int | None = None
    consumers: int | None = None

    @property
    def is_drained(self) -> bool:
        """Is nothing waiting, and can nothing come back from a worker?"""
        return not (sum(self.waiting.values()) or self.held or self.consumers)


class Source(Protocol):
    """Where messages are taken from."""

    @property
    def name(self) -> str:
        """Its URL, without passwords."""
        ...

    def take(self, limit: int, patience_s: float) -> list[Parcel]:
        """Give some messages, the oldest of each queue first, or none after `patience_s`. They stay the broker's."""
        ...

    def peek(self, limit: int) -> Iterator[Parcel]:
        """Read the next messages of each queue; they are where they were when all were read."""
        ...

    def settle(self, parcels: list[Parcel]) -> None:
        """Take messages off the broker: they are in Postgres. Those that `take` gave before them are settled too."""
        ...

    def leave(self, parcels: list[Parcel], queue: str) -> None:
        """Move messages to another queue of the same broker, for its own workers."""
        ...

    def standing(self) -> Standing: ...

    def close(self) -> None: ...


def opened(raw: bytes, queue: str, priority: int, handle: Any = None) -> Parcel:
    """Open an envelope; one that is none becomes a parcel that says so."""
    try:
        envelope = loads(raw)
        headers, properties = envelope["headers"] or {}, envelope["properties"] or {}
        body = envelope["body"]
        body = body.encode() if isinstance(body, str) else bytes(body)
        if properties.get("body_encoding") == "base64":
            body = base64.b64decode(body)
        if headers.get("compression"):
            body = decompress(body, headers["compression"])
    except Exception as error:
        trouble = f"its envelope cannot be read: {type(error).__name__}: {error}"
        return Parcel(queue=queue, raw=raw, priority=priority, trouble=trouble, handle=handle)
    return Parcel(
        queue=queue,
        raw=raw,
        priority=priority,
        body=bytes(body),
        content_type=envelope.get("content-type"),
        content_encoding=envelope.get("content-encoding"),
        headers=headers,
        properties=properties,
        handle=handle,
    )


def envelope(
    body: bytes,
    content_type: str | None,
    content_encoding: str | None,
    headers: Mapping[str, Any],
    properties: Mapping[str, Any],
) -> bytes:
    """Put a message into kombu's JSON form."""
    text: str = dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-type": content_type,
            "content-encoding": content_encoding,
            "headers": dict(headers),
            "properties": {**properties, "body_encoding": "base64"},
        },
        default=repr,
    )
    return text.encode("utf-8", "surrogatepass")


def is_brokers(error: BaseException) -> bool:
    """Did a client library raise this, since its broker has gone or refuses?"""
    module = type(error).__module__.partition(".")[0]
    return module in ("redis", "amqp", "kombu") and not isinstance(error, SerializationError)
