"""One connection of a program of Celery: what it consumes, and how it waits for it.

    drain_events -> deliver what is at hand
                 -> look into the mailboxes, claim tasks        when notified, and once a second
                 -> sleep                                       on the sockets of LISTEN, or between looks

Without LISTEN, behind a connection pooler, it looks again and again, the more seldom the longer nothing
comes.
"""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any
from uuid import uuid4

import psycopg

from pgtasks.kombu.channel import Channel, Consumption
from pgtasks.kombu.claiming import Claimant
from pgtasks.kombu.conversion import Parcel, parcel_of, unpack
from pgtasks.kombu.letters import carries_events, hears_tasks
from pgtasks.message import id_of
from pgtasks.store import events, mail
from pgtasks.store.database import Database
from pgtasks.store.listen import Doorbell
from pgtasks.utils.log import get_logger

__all__ = ("Link",)

logger = get_logger("pgtasks.kombu")

#: How often it is looked when no notification comes: with LISTEN, and without, where it begins with the
#: first.
LOOK_EVERY_S, FIRST_LOOK_S, LAST_LOOK_S = 2.0, 0.02, 0.5
#: How often it is said that mailboxes are read.
RENEW_EVERY_S = 4.0
#: Default seconds without a sign of life after which what a program claimed goes to others; how often a task
#: may be lost.
LEASE_S, MAX_DELIVERIES = 20.0, 5
SWEEP_EVERY_S = 60.0

_swept_at = -SWEEP_EVERY_S


@cache
def _database_of(url: str) -> Database:
    """One for all connections of a process."""
    return Database(url)


class Link:
    """What kombu calls the connection."""

    def __init__(self, client: Any, url: str) -> None:
        self.client = client
        self.url = url
        self.database = _database_of(url)
        self.reader = uuid4()
        self.is_closed = False
        #: Called when there may be something to deliver, for a loop that does it.
        self.wish: Callable[[], Any] | None = None
        #: Until when, by the monotonic clock, nobody is taken to listen to events.
        self.unheard_until = 0.0
        self.channels: list[Channel] = []
        self._consumptions: dict[str, Consumption] = {}
        #: How to declare the mailboxes of this connection again if the database loses them.
        self._declared: dict[str, list[Callable[[], Any]]] = {}
        self._ready: deque[Callable[[], Any]] = deque()
        self._bell: Doorbell | None = None
        self._claimant: Claimant | None = None
        self._look_at = self._renew_at = 0.0
        self._pause_s = FIRST_LOOK_S

    def channel(self) -> Channel:
        channel = Channel(self)
        self.channels.append(channel)
        return channel

    def close_channel(self, channel: Channel) -> None:
        for tag in [tag for tag, each in self._consumptions.items() if each.channel is channel]:
            self.cancel(tag)
        if self._claimant is not None:
            channel.basic_recover(requeue=True)
        with suppress(ValueError):
            self.channels.remove(channel)

    def close(self) -> None:
        """Cancel everything; what was claimed and not acknowledged goes back."""
        self.is_closed = True
        for channel in list(self.channels):
            channel.close()
        self._ready.clear()
        if self._claimant is not None:
            self._claimant.close()
            self._claimant = None
        if self._bell is not None:
            self._bell.close()
            self._bell = None

    # -- mailboxes

    def is_mailbox(self, queue: str) -> bool:
        """Was it declared as one on this connection?"""
        return queue in self._declared

    def open_mailbox(self, name: str, lasts_s: float, keeps_s: float | None) -> None:
        declare = partial(self.database.run, mail.declare_mailbox(name, lasts_s, keeps_s))
        declare()
        self._declared[name] = [declare]
        self._sweep()

    def _sweep(self) -> None:
        """Throw away what programs left that were killed: workers of ours do so too, where there are any."""
        global _swept_at
        if time.monotonic() - _swept_at > SWEEP_EVERY_S:
            _swept_at = time.monotonic()
            self.database.run(mail.sweep())
            self.database.run(events.sweep())

    def close_mailbox(self, name: str) -> None:
        self._declared.pop(name, None)
        self.database.run(mail.close_mailbox(name))

    def bind(self, queue: str, exchange: str, routing_key: str, pattern: str) -> None:
        """Have an exchange send to a queue; a mailbox for events of tasks listens to those of our workers."""
        is_mailbox = self.is_mailbox(queue)
        listens = is_mailbox and carries_events(exchange) and hears_tasks(routing_key)
        listener = id_of(queue) if listens else None
        bind = partial(
            self.database.run,
            mail.bind(exchange, queue, routing_key, pattern, is_mailbox=is_mailbox, listener=listener),
        )
        bind()
        if is_mailbox:
            self._declared[queue].append(bind)

    def _declare_anew(self, missing: list[str]) -> None:
        for name in missing:
            for declare in self._declared.get(name, ()):
                declare()

    # -- consuming

    @property
    def claimant(self) -> Claimant:
        """The registration as a worker, which the first task queue makes necessary."""
        if self._claimant is None:
            options = self.client.transport_options or {}
            self._claimant = Claimant(
                self.url,
                self._task_queues(),
                lease_s=float(options.get("lease", LEASE_S)),
                max_deliveries=int(options.get("max_deliveries", MAX_DELIVERIES)),
            )
        return self._claimant

    def _task_queues(self) -> list[str]:
        return sorted({each.queue for each in self._consumptions.values() if not self.is_mailbox(each.queue)})

    def _mailboxes(self) -> list[str]:
        return sorted({each.queue for each in self._consumptions.values() if self.is_mailbox(each.queue)})

    def consume(self, consumption: Consumption) -> None:
        self._consumptions[consumption.tag] = consumption
        if self.is_mailbox(consumption.queue):
            self._listen(consumption.queue)
            self._renew_at = 0.0
        else:
            self.claimant.subscribe(self._task_queues())
        self.look_soon()

    def cancel(self, tag: str) -> None:
        consumption = self._consumptions.pop(tag, None)
        if consumption is not None and self._claimant is not None and not self.is_mailbox(consumption.queue):
            self._claimant.subscribe(self._task_queues())

    def get(self, channel: Channel, queue: str, no_ack: bool) -> Any:
        """Take one message of a queue, or None."""
        if self.is_mailbox(queue):
            found = self.database.run(mail.look(self.reader, [queue], renew=True, limit=1))
            return channel.message_of(_parcel(found.mail[0]), None, no_ack=no_ack) if found.mail else None
        claimant = self.claimant
        subscribed = self._task_queues()
        claimant.subscribe([queue])
        claims = claimant.take(1)
        claimant.subscribe(subscribed)
        return channel.message_of(parcel_of(claims[0]), claims[0], no_ack=no_ack) if claims else None

    def look_soon(self) -> None:
        """Have it looked at once for what may have come."""
        self._look_at = 0.0
        self._pause_s = FIRST_LOOK_S
        if self.wish is not None:
            self.wish()

    # -- draining

    def drain_events(self, timeout: float | None = None, **kwargs: Any) -> None:
        """Give one message to its consumer; raises TimeoutError when none has come in `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.deliver():
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise TimeoutError
            until = self.next_look_at()
            self._sleep((until if deadline is None else min(until, deadline)) - now)

    def deliver(self) -> bool:
        """Give one message to its consumer, if there is any, looking for more when it is time to."""
        if not self._ready and time.monotonic() >= self.next_look_at():
            self._look()
        while self._ready:
            if self._ready.popleft()():
                return True
        return False

    def next_look_at(self) -> float:
        """When to look next, by the monotonic clock."""
        if self._claimant is None:
            return self._look_at
        return min(self._look_at, self._claimant.next_tick_at())

    def _look(self) -> None:
        is_due = time.monotonic() >= self._look_at
        if is_due and (mailboxes := self._mailboxes()):
            self._look_into(mailboxes)
        if self._claimant is not None:
            self._claimant.tick()
            self._claim(self._claimant)
        now = time.monotonic()
        if not is_due and not self._ready:
            return
        if self._ready:
            # Where something was there may be more.
            self._look_at, self._pause_s = 0.0, FIRST_LOOK_S
        elif self.sockets():
            self._look_at = now + LOOK_EVERY_S
        else:
            self._pause_s = min(self._pause_s * 1.5, LAST_LOOK_S)
            self._look_at = now + self._pause_s

    def _look_into(self, mailboxes: list[str]) -> None:
        now = time.monotonic()
        renew = now >= self._renew_at
        found = self.database.run(mail.look(self.reader, mailboxes, renew=renew))
        if found.missing:
            self._declare_anew(found.missing)
            renew = False
        if renew:
            self._renew_at = now + RENEW_EVERY_S
        by_queue = {each.queue: each for each in self._consumptions.values()}
        for piece in found.mail:
            self._ready.append(partial(self._give_mail, by_queue[piece.mailbox], piece))

    def _give_mail(self, consumption: Consumption, piece: mail.Mail) -> bool:
        if consumption.tag not in self._consumptions:
            return False
        message = consumption.channel.message_of(
            _parcel(piece), None, tag=consumption.tag, no_ack=consumption.no_ack
        )
        consumption.callback(message)
        return True

    def _claim(self, claimant: Claimant) -> None:
        takers = {each.queue: each for each in self._consumptions.values() if not self.is_mailbox(each.queue)}
        room = min((each.channel.room() for each in takers.values()), default=0)
        if not room:
            return
        for claim in claimant.take(room):
            taker = takers.get(claim.queue)
            if taker is None:
                claimant.bring_back([claim])
            else:
                self._ready.append(partial(self._give_task, taker, claim))

    def _give_task(self, consumption: Consumption, claim: Any) -> bool:
        claimant = self.claimant
        if consumption.tag not in self._consumptions:
            claimant.bring_back([claim])
            return False
        parcel = parcel_of(claim)
        message = consumption.channel.message_of(
            parcel, claim, tag=consumption.tag, no_ack=consumption.no_ack
        )
        consumption.callback(message)
        return True

    # -- being woken

    def _listen(self, mailbox: str) -> None:
        if self.database.is_pooled:
            return
        try:
            if self._bell is None:
                self._bell = Doorbell(self.url, f"pgtasks_mail_{self.reader}")
            self._bell.listen(f"pgtasks_listener_{id_of(mailbox)}")
        except psycopg.Error as error:
            logger.warning("Cannot listen for notifications, looking again and again instead: %s", error)

    def sockets(self) -> list[int]:
        """The sockets that become readable when there is something to look for."""
        found = [] if self._bell is None else [self._bell.fileno()]
        if self._claimant is not None and (fileno := self._claimant.fileno()) is not None:
            found.append(fileno)
        return found

    def hear(self) -> None:
        """Take in notifications, and look at once."""
        if self._bell is not None:
            try:
                self._bell.heard()
            except psycopg.Error:
                self._bell.close()
                self._bell = None
        if self._claimant is not None:
            self._claimant.hear()
        self.look_soon()

    def _sleep(self, seconds: float) -> None:
        sockets = self.sockets()
        if not sockets:
            time.sleep(max(seconds, 0.0))
            return
        with selectors.DefaultSelector() as selector:
            for fileno in sockets:
                selector.register(fileno, selectors.EVENT_READ)
            if selector.select(max(seconds, 0.0)):
                self.hear()


def _parcel(piece: mail.Mail) -> Parcel:
    if piece.properties is not None:
        return unpack(piece.properties, piece.body)
    # Events of our workers, many at a time, as Celery's monitors take them.
    encoding, _, compression = (piece.content_encoding or "utf-8").partition(";")
    headers = {"compression": compression} if compression else {}
    return Parcel(
        piece.body, piece.content_type or "application/json", encoding, headers, {}, "celeryev", "task.multi"
    )
