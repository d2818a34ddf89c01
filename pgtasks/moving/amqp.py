"""RabbitMQ, and whatever else speaks AMQP: messages are consumed, and acknowledged once they are in Postgres.

A bridge that dies loses its connection, and with it what it had not acknowledged goes back to its queues, in order. The
broker tells how many messages wait and how many workers consume, not how many messages those hold; they give them back when
they stop. Priorities mean the same as in pgtasks.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.exceptions import OperationalError
from kombu.messaging import Consumer, Producer

from pgtasks.moving.parcel import CONNECT_S, Parcel, Standing
from pgtasks.utils.log import get_logger
from pgtasks.utils.text import mask_url

__all__ = ("AmqpSource",)

logger = get_logger("celery.bridge")

_HEARTBEAT_S = 60
#: How long to wait for one more message of a batch that has begun.
_GATHER_S = 0.02
#: How often queues are looked for that were not there.
_LOOK_S = 10.0


class AmqpSource:
    """Consumes some queues."""

    def __init__(self, url: str, queues: Sequence[str], options: Mapping[str, Any] | None = None) -> None:
        self.name = mask_url(url)
        options = {"confirm_publish": True, **(options or {})}
        self._connection = Connection(url, transport_options=options, heartbeat=_HEARTBEAT_S, connect_timeout=CONNECT_S)
        self._connection.ensure_connection(max_retries=1)
        self.queues = list(queues)
        self._buffer: deque[Parcel] = deque()
        self._channel: Any = None
        self._consumed: set[str] = set()
        self._look_at = 0.0
        self._missing: set[str] = set()

    # -- taking

    def take(self, limit: int, patience_s: float) -> list[Parcel]:
        self._consume(limit)
        while len(self._buffer) < limit:
            try:
                self._connection.drain_events(timeout=_GATHER_S if self._buffer else patience_s)
            except TimeoutError:
                break
            self._beat()
        return [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]

    def _consume(self, limit: int) -> None:
        """Consume what is there and not consumed yet; a queue may be declared later, by a worker that starts."""
        if len(self._consumed) == len(self.queues) or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_S
        there = self.standing().waiting
        if self._channel is None:
            self._channel = self._connection.channel()
        for queue in there.keys() - self._consumed:
            self._consumed.add(queue)
            consumer = Consumer(
                self._channel,
                [Queue(queue, no_declare=True)],
                on_message=self._receiver(queue),
                auto_declare=False,
                prefetch_count=2 * limit,
            )
            consumer.consume()

    def _receiver(self, queue: str) -> Any:
        def receive(message: Any) -> None:
            self._buffer.append(_parcel(queue, message))

        return receive

    def _beat(self) -> None:
        with suppress(socket.timeout):
            self._connection.heartbeat_check()

    def peek(self, limit: int) -> Iterator[Parcel]:
        """Get messages and acknowledge none: when their channel closes, RabbitMQ puts them back where they were, as redelivered.

        Workers do not get them meanwhile.
        """
        there = self.standing().waiting
        with self._connection.channel() as channel:
            for queue in there:
                for _ in range(limit):
                    if (message := channel.basic_get(queue)) is None:
                        break
                    yield _parcel(queue, channel.message_to_python(message))

    # -- when they are in Postgres

    def settle(self, parcels: list[Parcel]) -> None:
        for parcel in parcels:
            self._channel.basic_ack(parcel.handle)

    def leave(self, parcels: list[Parcel], queue: str) -> None:
        """Publish them again with confirmation, then acknowledge them here."""
        with self._connection.channel() as channel:
            target = Queue(queue, Exchange(queue), routing_key=queue)
            target(channel).declare()
            producer = Producer(channel)
            for parcel in parcels:
                producer.publish(
                    parcel.body,
                    exchange="",
                    routing_key=queue,
                    content_type=parcel.content_type,
                    content_encoding=parcel.content_encoding,
                    headers={name: value for name, value in parcel.headers.items() if name != "compression"},
                    priority=parcel.priority,
                    correlation_id=parcel.properties.get("correlation_id"),
                    reply_to=parcel.properties.get("reply_to"),
                )
        self.settle(parcels)

    # -- looking

    def standing(self) -> Standing:
        waiting, consumers = {}, 0
        for queue in self.queues:
            # A queue that is not there closes the channel that asks for it.
            with self._connection.channel() as channel:
                try:
                    answer = channel.queue_declare(queue, passive=True)
                except self._connection.channel_errors as error:
                    if queue not in self._missing:
                        logger.warning("The queue %r cannot be read: %s", queue, error)
                    self._missing.add(queue)
                    continue
            waiting[queue] = answer.message_count
            consumers += max(0, answer.consumer_count - (queue in self._consumed))
        if not waiting:
            raise OperationalError(f"None of the queues {', '.join(self.queues)} is there. Name others with --queues.")
        return Standing(waiting, consumers=consumers)

    def close(self) -> None:
        self._connection.release()


def _parcel(queue: str, message: Any) -> Parcel:
    body = message.body.encode() if isinstance(message.body, str) else bytes(message.body or b"")
    info = {name: message.delivery_info.get(name) for name in ("exchange", "routing_key")}
    properties = {**message.properties, "delivery_info": info}
    trouble = f"it cannot be unpacked: {message.errors[0][1]}" if message.errors else ""
    headers = {name: value for name, value in message.headers.items() if name != "compression" or trouble}
    return Parcel(
        queue=queue,
        priority=int(message.properties.get("priority") or 0),
        body=body,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        headers=headers,
        properties=properties,
        trouble=trouble,
        handle=message.delivery_tag,
    )
