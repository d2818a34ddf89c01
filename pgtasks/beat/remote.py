"""Remote control of a scheduler: `celery inspect ping` asks whether it is there, for health checks.

    ping -> the mailbox of celerybeat@host -> a thread of the scheduler -> pong, unless the schedule stands still

A scheduler reads letters as workers of Celery on this database do, from a mailbox that is bound to their exchange, so
our commands and Celery's own reach it. It is no worker, and knows no command but `ping`: the key of its binding says so
to our commands, which do not wait for it to answer anything else. It says nothing while the scheduler has not ticked
for too long: an answer that says so would still be an answer, and the exit status of `inspect ping` 0.

The thread has a connection of its own, on which it also listens. When nobody asks, it sends half a statement a second,
and one where a pooler stands between.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from typing import Any
from uuid import uuid4

import psycopg

from pgtasks.app import pidbox
from pgtasks.beat.scheduler import DEFAULT_MAX_INTERVAL
from pgtasks.exceptions import OperationalError
from pgtasks.kombu.conversion import unpack, unpacked
from pgtasks.kombu.letters import is_for, reply_mailbox
from pgtasks.store import mail
from pgtasks.store.database import Database, backoff
from pgtasks.store.listen import SharedDoorbell
from pgtasks.utils.log import get_logger
from pgtasks.utils.nodenames import default_nodename, host_format

__all__ = ("NODENAME_DEFAULT", "BeatPidbox", "beat_nodename")

logger = get_logger("celery.beat")

NODENAME_DEFAULT = "celerybeat"
COMMAND = "ping"

#: How often it looks for letters when no notification comes: with LISTEN, and without.
LOOK_EVERY_S, LOOK_UNHEARING_S = 2.0, 1.0
#: How often it says that its mailbox is read, and after how long without that nobody waits for its answers.
RENEW_EVERY_S, LASTS_S = 5.0, 20.0
#: Letters that are older than this have nobody who waits for the answer.
KEEPS_S = 60.0


def beat_nodename(hostname: str | None = None) -> str:
    """The name of a scheduler's node: `celerybeat@` before a lone host, `%h`, `%n` and `%d` as in `worker -n`."""
    return host_format(default_nodename(hostname, NODENAME_DEFAULT))


class BeatPidbox:
    """The node of one `Service`, which answers from `start` to `stop`."""

    #: Least seconds without a tick that count as standing still, unless a setting says otherwise.
    min_tick_age = 60.0
    #: Seconds for which `stop` waits for the thread.
    join_timeout = 3.0

    def __init__(self, service: Any) -> None:
        self.service = service
        self.app = service.app
        self.hostname = beat_nodename(service.hostname)
        self.thread: threading.Thread | None = None
        self._mailbox = f"{self.hostname}.{pidbox.EXCHANGE}"
        self._reader = uuid4()
        self._renew_at = 0.0
        self._failures = 0
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to answer, in a thread."""
        self._stopping.clear()
        self._rope, self._clapper = socket.socketpair()
        self.thread = threading.Thread(target=self._live, name="BeatPidbox", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Answer no more; waits a moment for the thread to sign off."""
        thread, self.thread = self.thread, None
        if thread is None:
            return
        self._stopping.set()
        self._rope.close()
        thread.join(self.join_timeout)
        if thread.is_alive():
            logger.warning(
                "beat: The database has not answered for %g s, so %s may be asked in vain for %g s more.",
                self.join_timeout, self.hostname, LASTS_S,
            )  # fmt: skip

    # -- is it well?

    @property
    def max_tick_age(self) -> float:
        """Seconds without a tick after which it is silent; 0: never."""
        configured: float | None = self.app.conf.beat_remote_control_max_tick_age
        if configured is not None:
            return configured
        # Not asked of the scheduler: that belongs to the other thread, and may not be there yet.
        longest_s = self.service.effective_max_interval or self.service.max_interval or DEFAULT_MAX_INTERVAL
        return max(2.0 * longest_s, self.min_tick_age)

    def tick_age(self) -> float | None:
        """Seconds since the scheduler has ticked, or since it should have begun to; None before that."""
        ticked_at: float | None = self.service._last_tick
        return None if ticked_at is None else time.monotonic() - ticked_at

    def is_stale(self) -> bool:
        """Has the scheduler not ticked for too long?"""
        most_s, age_s = self.max_tick_age, self.tick_age()
        return bool(most_s) and age_s is not None and age_s > most_s

    # -- a life of connections

    def _live(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._attend()
                except Exception as error:
                    self._endure(error)
        finally:
            self._clapper.close()

    def _endure(self, error: Exception) -> None:
        if self._stopping.is_set():
            return
        if self._failures == 0:
            logger.error(
                "beat: %s cannot be asked at the moment, trying again: %s",
                self.hostname, error, exc_info=not isinstance(error, (OperationalError, psycopg.Error)),
            )  # fmt: skip
        self._stopping.wait(backoff(self._failures))
        self._failures += 1

    def _attend(self) -> None:
        """Answer by one connection, until that is lost or the service ends."""
        # No patience: a statement that is sent again by another connection would leave this one's LISTEN behind.
        database = Database(self.app.database_url, patience_s=0)
        try:
            self._declare(database)
            bell = self._listen(database)
            self._renew_at = 0.0  # the first look says who is to be woken
            logger.debug("beat: Remote control of %s is ready.", self.hostname)
            while not self._stopping.is_set():
                self._look(database)
                self._failures = 0
                self._sleep(bell)
            database.run(mail.close_mailbox(self._mailbox))
        finally:
            database.close()

    def _declare(self, database: Database) -> None:
        database.run(mail.declare_exchange(pidbox.EXCHANGE, "fanout"))
        database.run(mail.declare_mailbox(self._mailbox, LASTS_S, KEEPS_S))
        database.run(mail.bind(pidbox.EXCHANGE, self._mailbox, COMMAND, "", is_mailbox=True))

    def _listen(self, database: Database) -> SharedDoorbell | None:
        # Behind a pooler there is no listening.
        return None if database.is_pooled else SharedDoorbell(database, f"pgtasks_mail_{self._reader}")

    def _look(self, database: Database) -> None:
        now = time.monotonic()
        renew = now >= self._renew_at
        found = database.run(mail.look(self._reader, [self._mailbox], renew=renew))
        if found.missing:
            # It was swept away, as by a machine that slept: the next look makes the new one ours.
            self._declare(database)
            self._renew_at = 0.0
        elif renew:
            self._renew_at = now + RENEW_EVERY_S
        for piece in found.mail:
            self._obey(database, piece)

    def _sleep(self, bell: SharedDoorbell | None) -> None:
        """Sleep until a notification comes, the service ends, or it is time to look."""
        if bell is not None and bell.has_heard:
            bell.heard()
            return
        with selectors.DefaultSelector() as selector:
            selector.register(self._clapper, selectors.EVENT_READ)
            if bell is not None:
                selector.register(bell, selectors.EVENT_READ)
            selector.select(LOOK_UNHEARING_S if bell is None else LOOK_EVERY_S)
        if bell is not None:
            bell.heard()

    # -- letters

    def _obey(self, database: Database, piece: mail.Mail) -> None:
        try:
            parcel = unpack(piece.properties or b"{}", piece.body)
            letter = unpacked(parcel)
            is_asked = letter["method"] == COMMAND and is_for(self.hostname, letter)
        except Exception as error:
            logger.debug("beat: A letter of %d bytes cannot be read: %r", len(piece.body), error)
            return
        if not is_asked:
            return
        if self.is_stale():
            logger.warning(
                "beat: Not answering a ping: the scheduler has not ticked for %.1f s, and %g s is the most it may take"
                " (beat_remote_control_max_tick_age).", self.tick_age(), self.max_tick_age,
            )  # fmt: skip
            return
        clock, mailbox = parcel.headers.get("clock"), reply_mailbox(database, letter)
        self.app.clock.adjust(clock if isinstance(clock, int) else 0)
        if mailbox is not None:
            answer = {self.hostname: {"ok": "pong"}}
            database.run(pidbox.reply(mailbox, letter["ticket"], answer, self.app.clock.forward()))
