"""A kombu channel: what programs declare, publish and consume through the transport.

    a message that is a task, to a task queue       a row, as if one of our programs had sent it
    a message to a mailbox                          mail, kept for its reader and not for long
    a letter to all workers, an event               to our workers and monitors as well

A queue is a mailbox if whoever declares it says that it need not last: exclusive, deleted with its reader, or
expiring. Those of letters, replies and events are. All others are task queues, which need no declaration.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from amqp.protocol import queue_declare_ok_t
from kombu.transport import base

from pgtasks.app.control import purge
from pgtasks.kombu import letters
from pgtasks.kombu.conversion import Parcel, handed_in, is_task_of_any_protocol, pack
from pgtasks.kombu.ending import app_of
from pgtasks.message import Claim
from pgtasks.store import mail, tasks

if TYPE_CHECKING:
    from pgtasks.kombu.link import Link

__all__ = ("Channel", "Consumption")

#: Seconds for which a mailbox lasts that nobody reads, where its declaration does not say.
MAILBOX_LASTS_S = 60.0

#: Seconds for which it is taken for granted that nobody listens to events, when nobody did.
UNHEARD_S = 1.0

_EXCHANGE_TYPES = ("direct", "topic", "fanout")


class Consumption(NamedTuple):
    """One consumer of one queue."""

    channel: Channel
    queue: str
    tag: str
    no_ack: bool
    callback: Callable[[Any], Any]


class Channel(base.StdChannel):
    """The methods that kombu's producers, consumers and entities call."""

    def __init__(self, link: Link) -> None:
        self.connection: Any = link
        self.no_ack_consumers: Any = set()
        self.prefetch_count = 0
        self.closed = False
        self._unacked: dict[str, Claim | None] = {}
        self._tags = count(1)
        self._database = link.database

    # -- declaring

    def exchange_declare(self, exchange: str, type: str = "direct", **kwargs: Any) -> None:
        """Note the type of an exchange."""
        if type not in _EXCHANGE_TYPES:
            raise NotImplementedError(
                f"The exchange {exchange!r} is of type {type!r}; this transport knows"
                f" {', '.join(_EXCHANGE_TYPES)}."
            )
        if exchange and not kwargs.get("passive"):
            self._database.run(mail.declare_exchange(exchange, type))

    def exchange_delete(self, exchange: str, **kwargs: Any) -> None:
        """Nothing to do: an exchange without bindings sends nowhere."""

    def prepare_queue_arguments(self, arguments: Mapping[str, Any], **kwargs: Any) -> Any:
        return base.to_rabbitmq_queue_arguments(arguments, **kwargs)

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Open a mailbox, if it is one; with `passive`, say how much waits."""
        queue = queue or f"amq.gen-{uuid4()}"
        if passive:
            return queue_declare_ok_t(queue, self.size(queue), 0)
        arguments = arguments or {}
        expires_ms, keeps_ms = arguments.get("x-expires"), arguments.get("x-message-ttl")
        if exclusive or auto_delete or expires_ms:
            lasts_s = expires_ms / 1000 if expires_ms else MAILBOX_LASTS_S
            self.connection.open_mailbox(queue, lasts_s, keeps_ms / 1000 if keeps_ms else None)
        else:
            self._database.run(mail.bind("", queue, queue, "", is_mailbox=False))
        return queue_declare_ok_t(queue, 0, 0)

    def queue_bind(self, queue: str, exchange: str = "", routing_key: str = "", **kwargs: Any) -> None:
        """Have an exchange send to a queue."""
        if not exchange:
            return
        self.connection.bind(queue, exchange, routing_key or "", _pattern(routing_key or ""))

    def queue_unbind(self, queue: str, exchange: str = "", routing_key: str = "", **kwargs: Any) -> None:
        self._database.run(mail.unbind(exchange, queue, routing_key or ""))

    def queue_delete(self, queue: str, **kwargs: Any) -> None:
        """Throw a mailbox away; the tasks of a task queue are not a queue's to throw away."""
        if self.connection.is_mailbox(queue):
            self.connection.close_mailbox(queue)

    after_reply_message_received = queue_delete

    def queue_purge(self, queue: str, **kwargs: Any) -> int:
        """Take out what waits in a queue; tasks end as revoked. Gives how many there were."""
        if self.connection.is_mailbox(queue):
            return self._database.run(mail.empty(queue))
        return purge(app_of(self._database.url), [queue])

    def size(self, queue: str) -> int:
        """How much waits in a queue."""
        if self.connection.is_mailbox(queue):
            return self._database.run(mail.count_mail(queue))
        ((_, ready, scheduled),) = self._database.run(tasks.lengths([queue]))
        return int(ready + scheduled)

    # -- publishing

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> Parcel:
        properties = dict(properties or {})
        if priority is not None:
            properties["priority"] = priority
        raw = body.encode() if isinstance(body, str) else bytes(body or b"")
        return Parcel(raw, content_type, content_encoding, dict(headers or {}), properties)

    def basic_publish(
        self, message: Parcel, exchange: str = "", routing_key: str = "", **kwargs: Any
    ) -> None:
        """Send a message to the queues that it is for."""
        parcel = message._replace(exchange=exchange or "", routing_key=routing_key or "")
        database = self._database
        # Nobody has to declare a queue of tasks for them to be kept: what knows no queue of that name is no reason to lose one.
        if not exchange and not self.connection.is_mailbox(routing_key) and is_task_of_any_protocol(parcel):
            self._hand_in(parcel, routing_key)
            return
        heard = 1
        if letters.carries_events(exchange):
            if time.monotonic() < self.connection.unheard_until:
                return
            heard = letters.forward_events(database, parcel)
        elif letters.carries_letters(exchange):
            if len(parcel.body) > letters.LONGEST_LETTER:
                raise ValueError(
                    f"A letter to workers of {len(parcel.body)} bytes: {letters.LONGEST_LETTER} fit."
                    " Pass large data by tasks."
                )
            letters.forward_letter(database, parcel)
        expires_ms = parcel.properties.get("expiration")
        expires_in_s = float(expires_ms) / 1000 if expires_ms else None
        delivered = database.run(mail.deliver(exchange, routing_key, pack(parcel), parcel.body, expires_in_s))
        for copy, queue in enumerate(delivered.task_queues):
            self._hand_in(parcel, queue, copy)
        if not heard and not delivered.mailboxes:
            self.connection.unheard_until = time.monotonic() + UNHEARD_S

    def _hand_in(self, parcel: Parcel, queue: str, copy: int = 0) -> None:
        query = handed_in(parcel, queue, copy)
        if self._database.run(query) == 0:
            self._database.run(query)

    # -- consuming

    def basic_consume(
        self,
        queue: str,
        no_ack: bool = False,
        callback: Any = None,
        consumer_tag: str | None = None,
        **kwargs: Any,
    ) -> str:
        """Have the messages of a queue given to `callback`."""
        tag = consumer_tag or f"{id(self)}-{next(self._tags)}"
        if no_ack:
            self.no_ack_consumers.add(tag)
        self.connection.consume(Consumption(self, queue, tag, no_ack, callback))
        return tag

    def basic_cancel(self, consumer_tag: str) -> None:
        self.no_ack_consumers.discard(consumer_tag)
        if self.connection is not None:
            self.connection.cancel(consumer_tag)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Take one message, or None."""
        return self.connection.get(self, queue, no_ack)

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Limit the number of unacknowledged messages; 0 is no limit."""
        self.prefetch_count = prefetch_count
        self.connection.look_soon()

    def room(self) -> int:
        """How many more messages this channel takes."""
        return max(0, self.prefetch_count - len(self._unacked)) if self.prefetch_count else 1_000_000

    def message_of(self, parcel: Parcel, claim: Claim | None, *, tag: str = "", no_ack: bool = False) -> Any:
        """The message that a consumer gets."""
        delivery_tag = str(uuid4())
        if not no_ack:
            self._unacked[delivery_tag] = claim
        elif claim is not None:
            self.connection.claimant.ack(claim)
        priority = parcel.properties.get("priority", 0)
        return base.Message(
            body=parcel.body,
            delivery_tag=delivery_tag,
            content_type=parcel.content_type,
            content_encoding=parcel.content_encoding,
            headers=parcel.headers,
            properties=parcel.properties,
            delivery_info={
                "exchange": parcel.exchange,
                "routing_key": parcel.routing_key,
                "redelivered": claim is not None and claim.delivery > claim.retries + 1,
                "consumer_tag": tag,
                "priority": priority,
            },
            channel=self,
            postencode="utf-8",
        )

    message_to_python = staticmethod(lambda raw: raw)

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Note that messages are dealt with; `multiple` means all up to this one."""
        tags = list(self._unacked)
        if multiple and delivery_tag in self._unacked:
            tags = tags[: tags.index(delivery_tag) + 1]
        else:
            tags = [delivery_tag]
        for each in tags:
            was_full = not self.room()
            claim = self._unacked.pop(each, None)
            if claim is not None:
                self.connection.claimant.ack(claim)
            if was_full and self.connection is not None:
                self.connection.look_soon()

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Give a message back, or away."""
        claim = self._unacked.pop(delivery_tag, None)
        if claim is None:
            return
        if requeue:
            self.connection.claimant.bring_back([claim])
        else:
            self.connection.claimant.ack(claim, "REJECTED")
        self.connection.look_soon()

    def basic_recover(self, requeue: bool = False) -> None:
        """Give back what is not acknowledged."""
        claims = [claim for claim in self._unacked.values() if claim is not None]
        self._unacked.clear()
        if claims and self.connection is not None:
            self.connection.claimant.bring_back(claims)

    def flow(self, active: bool = True) -> None:
        raise NotImplementedError("A channel of this transport cannot be paused; cancel its consumers.")

    def close(self) -> None:
        """Cancel its consumers; what is not acknowledged goes back."""
        if self.closed:
            return
        self.closed = True
        self.connection.close_channel(self)
        self.connection = None


def _pattern(routing_key: str) -> str:
    """The regular expression of a topic's routing key: `*` is one word, `#` any number of them."""
    words = [{"*": "[^.]+", "#": ".*"}.get(word, re.escape(word)) for word in routing_key.split(".")]
    pattern = r"\.".join(words)
    # "worker.#" fits "worker" too: the dot belongs to the words that may be missing.
    pattern = pattern.replace(r"\..*", r"(\..*)?").replace(r".*\.", r"(.*\.)?")
    return f"^{pattern}$"
