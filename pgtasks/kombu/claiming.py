"""Claims of a program of Celery: tasks that it has taken from task queues and not yet acknowledged.

The program is a worker like ours as far as the database knows, of the kind "kombu": its claims hold for as
long as its heartbeat is seen, are taken over when it is not, and go back when it signs off. A thread renews
the lease, since Celery's loop may be in a task (`-P solo`) or in a long call.

    take     claim up to so many, give those that are to run
    ack      the program has ended a task, or, as by default, begins it
    bring_back, reject
    tick     about once a second: move what is due, take over from the dead, look whether we are still known
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator
from uuid import UUID

from pgtasks import __version__
from pgtasks.concurrency.solo import LeaseKeeper
from pgtasks.exceptions import OperationalError, TaskRevokedError, WorkerLostError
from pgtasks.kombu.conversion import UNKNOWN
from pgtasks.kombu.ending import end
from pgtasks.message import Claim, Outcome
from pgtasks.store import fleet, mail
from pgtasks.store.database import Database
from pgtasks.store.sql import Query
from pgtasks.utils.log import get_logger
from pgtasks.worker.consumer import Consumer

__all__ = ("Claimant",)

logger = get_logger("pgtasks.kombu")

#: Most tasks that one look takes, for a program that has not said how many it wants.
MOST = 100


class Claimant:
    """One program's registration as a worker, and what it has claimed."""

    def __init__(self, url: str, queues: list[str], *, lease_s: float, max_deliveries: int) -> None:
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._held: dict[UUID, Claim] = {}
        machine = platform.node()
        self._consumer = Consumer(
            Database(url),
            {
                "hostname": f"kombu{os.getpid()}@{machine}",
                "machine": machine,
                "pool": mail.POOL,
                "concurrency": 0,
                "queues": queues,
                "version": __version__,
            },
            lease_s=lease_s,
            max_deliveries=max_deliveries,
        )
        # Acknowledgements come from other threads.
        self._consumer.listens_apart = True
        self._consumer.enlist()
        self._has_more = True
        renewing = Database(url)
        self._keeper = LeaseKeeper(lambda: renewing.run(self._renewal()), lease_s / 4)
        self._keeper.start()

    def _renewal(self) -> Query[fleet.Tick]:
        return fleet.tick(self._consumer.worker, (), renew=True, limit=0)

    @property
    def worker(self) -> UUID:
        return self._consumer.worker

    @property
    def hostname(self) -> str:
        return self._consumer.hostname

    def fileno(self) -> int | None:
        """The socket that becomes readable when there is work; None where there is no listening."""
        bell = self._consumer.bell
        return None if bell is None else bell.fileno()

    def hear(self) -> None:
        """Take in notifications."""
        with self._lock:
            words = self._consumer.hear()
            self._has_more = True
            if set(words) != {"ready"}:
                # It may have been about a task that is due soon.
                self._consumer.tick_soon()

    def subscribe(self, queues: list[str]) -> None:
        """Consume these queues from now on."""
        with self._lock:
            self._consumer.subscribe(queues)
            self._has_more = True

    # -- claims

    def take(self, room: int) -> list[Claim]:
        """Claim up to `room` tasks; gives those that are to run."""
        with self._lock:
            if not self._has_more or not self._consumer.queues:
                return []
            room = min(room, MOST)
            claims = self._consumer.step((), room, self._held.values())
            for key in self._consumer.take_lost():
                self._held.pop(key, None)
            if len(claims) < room:
                # Somebody may have enqueued just before we were known to be idle.
                self._has_more = self._consumer.rest()
            self._held.update({claim.id: claim for claim in claims})
            return list(self._fit(claims))

    def _fit(self, claims: list[Claim]) -> Iterator[Claim]:
        for claim in claims:
            if claim.fate == "revoked":
                self._end(claim, "REVOKED", TaskRevokedError("revoked"))
            elif claim.fate == "lost":
                lost = WorkerLostError(f"Its worker was lost; it was handed out {claim.delivery - 1} times.")
                self._end(claim, "FAILURE", lost)
            else:
                # Celery itself ends what has expired.
                yield claim

    def _end(self, claim: Claim, state: str, error: Exception) -> None:
        self._held.pop(claim.id, None)
        end(self._consumer.database.url, claim.id, claim.public_id, self.worker, claim.delivery, state, error)

    def ack(self, claim: Claim, state: str = "STARTED") -> None:
        """The program has ended a task, or begins it; `state` is shown until the end is known."""
        with self._lock:
            if self._held.pop(claim.id, None) is None:
                return
            if claim.name == UNKNOWN:
                # A message of the program's own: it is over, and nobody will say how it ended.
                self._consumer.step([Outcome(id=claim.id, delivery=claim.delivery, hidden=True)], 0, self._held.values())
            else:
                key = [(claim.id, claim.delivery)]
                self._consumer.database.run(mail.acknowledge(self.worker, self.hostname, key, state))

    def bring_back(self, claims: list[Claim]) -> None:
        """Return tasks that were not begun to their queues."""
        with self._lock:
            mine = [claim for claim in claims if self._held.pop(claim.id, None) is not None]
            if mine:
                self._consumer.database.run(mail.bring_back(self.worker, [(c.id, c.delivery) for c in mine]))
                self._has_more = True

    # -- the lease

    def next_tick_at(self) -> float:
        return self._consumer.next_tick_at(lambda: 1)

    def tick(self) -> None:
        """Look around, if it is time."""
        with self._lock:
            if time.monotonic() < self.next_tick_at():
                return
            tick = self._consumer.tick()
            if not tick.is_registered:
                logger.error("%s lost its lease: what it had claimed goes to other workers.", self.hostname)
                self._held.clear()
                self._consumer.enlist()
            if (
                self._consumer.reap(has_dead=tick.has_dead)
                or tick.promoted
                or tick.has_ready
                or not tick.is_registered
            ):
                self._has_more = True

    def close(self) -> None:
        """Sign off: what was not acknowledged goes back. A forked child leaves its parent's alone."""
        self._keeper.stop()
        if self._pid != os.getpid():
            return
        with self._lock:
            try:
                self._consumer.discharge()
            except OperationalError as error:
                logger.error("Could not sign off; others take over when the lease has run out: %s", error)
            self._consumer.close()
