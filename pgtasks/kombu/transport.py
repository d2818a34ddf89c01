"""The kombu transport: `broker_url = "pgtasks+postgresql://user@host/db"` in programs of Celery itself.

    producers -> channel -> tasks of ours       inspect, control, status, Flower -> channel -> letters
    workers of Celery <- link <- claims         replies, events <- link <- mailboxes

Options, by `broker_transport_options`: `lease`, the seconds without a sign of life after which what a worker
of Celery has claimed goes to others, and `max_deliveries`, how often a task may be lost with its worker
before it fails.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from kombu.exceptions import OperationalError as KombuError
from kombu.transport import base

from pgtasks.exceptions import OperationalError
from pgtasks.kombu.channel import Channel
from pgtasks.kombu.link import Link
from pgtasks.store import mail

__all__ = ("Transport",)

#: Most messages that are given to a worker between two turns of its loop.
MOST_PER_TURN = 100
SHORTEST_NAP_S = 0.005


class Transport(base.Transport):
    """What kombu asks of a transport."""

    can_parse_url = True
    driver_type = "pgtasks"
    driver_name = "psycopg"
    default_port: Any = 5432
    connection_errors: Any = (*base.Transport.connection_errors, OSError, OperationalError, KombuError)
    recoverable_connection_errors = connection_errors
    implements = base.Transport.implements.extend(
        asynchronous=True, exchange_type=frozenset(["direct", "topic", "fanout"]), heartbeats=False
    )

    def driver_version(self) -> str:
        return version("psycopg")

    # -- connections

    def establish_connection(self) -> Link:
        client: Any = self.client
        link = Link(client, client.hostname)
        link.database.ping()
        return link

    def close_connection(self, connection: Link) -> None:
        connection.close()

    def create_channel(self, connection: Link) -> Channel:
        return connection.channel()

    def close_channel(self, channel: Channel) -> None:
        channel.close()

    def drain_events(self, connection: Link, timeout: float | None = None, **kwargs: Any) -> None:
        connection.drain_events(timeout)

    # -- managing

    @property
    def manager(self) -> Transport:
        """What `celery list bindings` asks: the transport itself."""
        return self

    def get_bindings(self) -> list[dict[str, str]]:
        """What exchanges send to, as programs have declared it."""
        client: Any = self.client
        found = client.connection.database.run(mail.bindings())
        return [{"destination": queue, "source": exchange, "routing_key": key} for queue, exchange, key in found]

    # -- in the loop of a worker

    def register_with_event_loop(self, connection: Link, loop: Any) -> None:
        """Have messages delivered by the loop of a worker of Celery."""
        _Attendant(connection, loop)


class _Attendant:
    """Delivers messages in a loop: when a socket says that something has come, and when it is time to look.

    It does so as a timer of the loop and not before each of its polls (`on_tick`): there Celery's pool looks
    for what it has to send to its children, and tasks that are delivered after that would lie there until the
    next poll is over.
    """

    def __init__(self, link: Link, loop: Any) -> None:
        self._link = link
        self._loop = loop
        self._watched: set[int] = set()
        self._due_at = math.inf
        link.wish = self.soon
        self.soon()

    def soon(self) -> None:
        self._wake_at(time.monotonic())

    def _wake_at(self, due_at: float) -> None:
        if due_at < self._due_at:
            self._due_at = due_at
            self._loop.call_later(max(due_at - time.monotonic(), 0.0), self.turn)

    def turn(self) -> None:
        """Deliver waiting messages, and schedule the next look."""
        now = time.monotonic()
        if self._due_at <= now:
            self._due_at = math.inf
        if self._link.is_closed:
            self._watch(())
            return
        for _ in range(MOST_PER_TURN):
            if not self._link.deliver():
                break
        self._watch(self._link.sockets())
        self._wake_at(max(self._link.next_look_at(), now + SHORTEST_NAP_S))

    def _watch(self, sockets: Iterable[int]) -> None:
        now = set(sockets)
        for fileno in self._watched - now:
            self._loop.remove_reader(fileno)
        for fileno in now - self._watched:
            self._loop.add_reader(fileno, self._link.hear)
        self._watched = now
