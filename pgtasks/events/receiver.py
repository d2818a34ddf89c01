"""Receives events: says that it listens, and gives what comes to handlers.

with app.connection() as connection:
    app.events.Receiver(connection, handlers={"*": show}).capture()
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Self
from uuid import UUID, uuid4

import psycopg

from pgtasks._state import get_current_app
from pgtasks.events.event import get_exchange
from pgtasks.message import id_of
from pgtasks.serialization import accepted, decode
from pgtasks.store import events
from pgtasks.store.listen import Doorbell
from pgtasks.utils.log import get_logger
from pgtasks.utils.saferepr import saferepr
from pgtasks.utils.time import adjust_timestamp

__all__ = ("EventReceiver", "forgiving")

logger = get_logger("celery.events")

#: A sender's clock must have been behind by one when it sent, if ours is not to be.
CLIENT_CLOCK_SKEW = -1
#: How often it is looked for events when no notification comes, and how often it is said that somebody listens.
LOOK_EVERY_S, LISTEN_EVERY_S = 0.5, 3.0

Handler = Callable[[dict[str, Any]], Any]


class EventQueue:
    """Where events are kept for a receiver. Bind and declare it as kombu's queues to have them kept before it captures."""

    def __init__(self, app: Any, listener: UUID, name: str, exchange: Any, routing_key: str) -> None:
        self.app = app
        self.name, self.exchange, self.routing_key = name, exchange, routing_key
        self._listener = listener

    def __call__(self, channel: Any = None) -> Self:
        return self

    bind = __call__

    def declare(self, *args: Any, **kwargs: Any) -> str:
        """Keep the events that are sent from now on, for some seconds if the receiver does not come."""
        self.app.database.run(events.listen(self._listener))
        return self.name

    def delete(self, *args: Any, **kwargs: Any) -> None:
        """Keep none any more, and throw away those that were kept."""
        self.app.database.run(events.unlisten(self._listener))

    def __repr__(self) -> str:
        return f"<EventQueue: {self.name}>"


class EventReceiver:
    """Captures events. `handlers` map types to functions; that of "*" gets what has no other.

    `channel` is accepted and not needed; `routing_key` may be a type, or end in `#`: "task.#".
    """

    app: Any = None
    #: Set it to have `capture` end.
    should_stop = False

    def __init__(
        self,
        channel: Any = None,
        handlers: Mapping[str, Handler] | None = None,
        routing_key: str = "#",
        node_id: str | None = None,
        app: Any = None,
        queue_prefix: str | None = None,
        accept: Any = None,
        **kwargs: Any,
    ) -> None:
        self.app = app or self.app or get_current_app()
        self.channel = channel
        self.handlers = {} if handlers is None else handlers
        self.routing_key = routing_key
        self.node_id = node_id or str(uuid4())
        self.clock = self.app.clock
        self.adjust_clock, self.forward_clock = self.clock.adjust, self.clock.forward
        self.accept = accept or {self.app.conf.event_serializer, "json"}
        self._listener = id_of(self.node_id)
        self.queue_prefix = queue_prefix or self.app.conf.event_queue_prefix
        self.exchange = get_exchange(channel, self.app.conf.event_exchange)
        self.queue = EventQueue(
            self.app, self._listener, f"{self.queue_prefix}.{self.node_id}", self.exchange, routing_key
        )

    @property
    def connection(self) -> Any:
        return self.channel

    # -- capturing

    def capture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> None:
        """Give events to the handlers, until `limit` of them came, or none did for `timeout` seconds.

        Raises TimeoutError in that case. `wakeup` asks workers to show themselves.
        """
        for _ in self.itercapture(limit=limit, timeout=timeout, wakeup=wakeup):
            pass

    def itercapture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> Iterator[Any]:
        """As `capture`, yielding after every look."""
        database, bell = self.app.database, self._bell()
        database.run(events.listen(self._listener))
        listened_at = heard_at = time.monotonic()
        if wakeup:
            self.wakeup_workers()
        seen = 0
        try:
            while not self.should_stop and (limit is None or seen < limit):
                batches = database.run(events.hear(self._listener))
                for event in self._events(batches):
                    seen += 1
                    self._receive(event)
                    if limit is not None and seen >= limit:
                        break
                now = time.monotonic()
                heard_at = now if batches else heard_at
                if now - listened_at > LISTEN_EVERY_S:
                    database.run(events.listen(self._listener))
                    listened_at = now
                yield None
                if timeout is not None and now - heard_at > timeout:
                    raise TimeoutError(f"no event for {timeout} s")
                if not batches:
                    _wait(bell, LOOK_EVERY_S if timeout is None else min(LOOK_EVERY_S, timeout))
        finally:
            if bell is not None:
                bell.close()
            with suppress(Exception):  # it will be forgotten in any case
                database.run(events.unlisten(self._listener))

    def _bell(self) -> Doorbell | None:
        with suppress(psycopg.Error):
            return Doorbell(self.app.database.url, f"pgtasks_listener_{self._listener}")
        return None

    def _events(self, batches: list[events.Batch]) -> Iterator[dict[str, Any]]:
        accept = accepted(self.accept)
        for batch in batches:
            try:
                found = decode(batch.body, batch.content_type, batch.content_encoding, accept)
            except Exception as error:
                logger.warning("Events that cannot be read were thrown away: %s", error)
                continue
            for event in found if isinstance(found, list) else [found]:
                if isinstance(event, dict) and isinstance(event.get("type"), str):
                    yield event
                else:
                    logger.warning("What is no event was thrown away: %s", saferepr(event, 200))

    def _receive(self, body: dict[str, Any]) -> None:
        if self.routing_key != "#" and not _fits(body["type"], self.routing_key):
            return
        try:
            received = self.event_from_message(body)
        except (TypeError, ValueError, OverflowError) as error:
            logger.warning("An event was thrown away: %r: %s", error, saferepr(body, 500))
            return
        self.process(*received)

    def process(self, type: str, event: dict[str, Any]) -> None:
        """Give an event to its handler."""
        handler = self.handlers.get(type) or self.handlers.get("*")
        if handler is not None:
            handler(event)

    def event_from_message(
        self, body: dict[str, Any], localize: bool = True, now: Callable[[], float] = time.time, **kwargs: Any
    ) -> tuple[str, dict[str, Any]]:
        """The type of an event and the event, with the moment it came, its own made local, and our clock moved on."""
        type_ = body["type"]
        if type_ == "task-sent":
            # Callers have no clock: what they sent comes before what is received of it.
            body["clock"] = (self.clock.value or 1) + CLIENT_CLOCK_SKEW
        else:
            try:
                self.adjust_clock(body["clock"])
            except (KeyError, TypeError):
                body["clock"] = self.forward_clock()
        if localize and body.get("utcoffset") is not None and "timestamp" in body:
            body["timestamp"] = adjust_timestamp(body["timestamp"], body["utcoffset"])
        body["local_received"] = now()
        return type_, body

    def wakeup_workers(self, channel: Any = None) -> None:
        """Have workers send a heartbeat now."""
        self.app.control.broadcast("heartbeat")


def forgiving(handler: Handler) -> Handler:
    """A handler that logs an event that it cannot use, and goes on: whoever writes to the database may send any."""

    def handle(event: dict[str, Any]) -> None:
        try:
            handler(event)
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError, OSError) as error:
            logger.warning("An event was thrown away: %r: %s", error, saferepr(event, 500))

    return handle


def _fits(type_: str, routing_key: str) -> bool:
    if routing_key.endswith("#"):
        return type_.replace("-", ".").startswith(routing_key.rstrip("#"))
    return type_.replace("-", ".") == routing_key


def _wait(bell: Doorbell | None, timeout_s: float) -> None:
    if bell is None:
        time.sleep(timeout_s)
    elif bell.rings(timeout_s):
        with suppress(psycopg.Error):
            bell.heard()
