"""From a broker into Postgres: the loop of `pgtasks bridge`.

    take a batch -> read each message -> enqueue all in one transaction -> settle the batch at the broker

One bad message must not stop the others: a batch that the database refuses is enqueued one by one, and the one it refuses is
set aside. A database or a broker that is away is waited for; until it is back nothing is taken off the broker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from kombu.exceptions import OperationalError as BrokerError

from pgtasks.exceptions import OperationalError, TaskSentBefore
from pgtasks.moving.parcel import Parcel, Source, Standing, is_brokers, opened
from pgtasks.moving.reading import Reader, Taken, Unreadable
from pgtasks.store import moving, tasks
from pgtasks.store.database import Database, backoff
from pgtasks.store.moving import Aside
from pgtasks.store.sql import Query
from pgtasks.utils.log import get_logger

__all__ = ("Counts", "ToPostgres", "Until", "retake")

logger = get_logger("celery.bridge")

#: When to end: once nothing waits, once nothing waits and no worker holds anything, never.
Until = Literal["once", "empty", "stopped"]

_PATIENCE_S = 1.0


@dataclass(slots=True)
class Counts:
    """What has been done."""

    taken: int = 0
    #: Tasks that were planned from callbacks and chains.
    following: int = 0
    aside: int = 0
    left: int = 0
    by_queue: dict[str, int] = field(default_factory=dict)

    def add(self, parcel: Parcel, taken: Taken) -> None:
        self.taken += 1
        self.following += len(taken.messages) - 1
        self.by_queue[parcel.queue] = self.by_queue.get(parcel.queue, 0) + 1


@dataclass(slots=True)
class _Batch:
    """A batch, sorted by what becomes of its messages."""

    taken: list[tuple[Parcel, Taken]] = field(default_factory=list)
    aside: list[tuple[Parcel, str]] = field(default_factory=list)
    left: list[Parcel] = field(default_factory=list)


class ToPostgres:
    """Takes over what waits at a broker."""

    def __init__(
        self,
        database: Database,
        reader: Reader,
        connect: Callable[[], Source],
        *,
        limit: int = 500,
        chords: str = "pgtasks.chords",
        owes: bool = False,
        tell: Callable[[Counts], None] = lambda counts: None,
    ) -> None:
        self.database = database
        self.reader = reader
        self.counts = Counts()
        self.limit = limit
        #: The queue for what stays with the old workers.
        self.chords = chords
        #: The old result store gets results as well.
        self.owes = owes
        self.is_stopping = False
        self._connect = connect
        self._source: Source | None = None
        self._tell = tell

    @property
    def source(self) -> Source:
        if self._source is None:
            self._source = self._connect()
        return self._source

    def stop(self, *_: Any) -> None:
        """End after the batch that is under way; may be called by a signal's handler."""
        self.is_stopping = True

    def run(self, until: Until) -> Counts:
        """Take over message after message."""
        attempt = 0
        while not self.is_stopping:
            try:
                is_idle = not self.turn()
                if is_idle and self._is_over(until):
                    break
                attempt = 0
            except (OperationalError, BrokerError, OSError) as error:
                self._endure(error, attempt)
                attempt += 1
            except Exception as error:
                if self._source is None or not is_brokers(error):
                    raise
                self._endure(error, attempt)
                attempt += 1
        return self.counts

    def _is_over(self, until: Until) -> bool:
        return until == "once" or (until == "empty" and self.source.standing().is_drained)

    def _endure(self, error: BaseException, attempt: int) -> None:
        """Reconnect to the broker: what was not settled is found there again."""
        logger.warning("Waiting, nothing is lost: %s: %s", type(error).__name__, error)
        self.close()
        time.sleep(backoff(attempt + 2))

    def close(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            try:
                source.close()
            except Exception as error:
                logger.debug("The connection to the broker was gone already: %s", error)

    # -- one batch

    def turn(self) -> bool:
        """Take over one batch; False when there was none."""
        parcels = self.source.take(self.limit, _PATIENCE_S)
        if not parcels:
            return False
        batch = self.sorted(parcels)
        self.store(batch)
        if batch.left:
            self.source.leave(batch.left, self.chords)
        self.source.settle([parcel for parcel, _ in [*batch.taken, *batch.aside]])
        for parcel, taken in batch.taken:
            self.counts.add(parcel, taken)
        self.counts.aside += len(batch.aside)
        self.counts.left += len(batch.left)
        self._tell(self.counts)
        return True

    def sorted(self, parcels: Iterable[Parcel]) -> _Batch:
        """Read messages, and say what becomes of each."""
        batch = _Batch()
        for parcel in parcels:
            try:
                taken = self.reader.read(parcel)
            except Unreadable as error:
                batch.aside.append((parcel, str(error)))
                continue
            if taken.stays and not self._can_poll(taken.polls, batch):
                batch.left.append(parcel)
            else:
                batch.taken.append((parcel, taken))
        return batch

    def _can_poll(self, polled: frozenset[UUID], batch: _Batch) -> bool:
        """Is everything here that a task of Celery's own polls for, or about to be?"""
        if not polled:
            return False
        coming = {message.id for _, taken in batch.taken for message in taken.messages}
        here: set[UUID] = self.database.run(moving.here(polled - coming))
        return not (polled - coming - here)

    def store(self, batch: _Batch) -> None:
        """Enqueue what was read and keep what could not be."""
        try:
            self.database.run_all(self._queries(batch.taken, batch.aside))
        except OperationalError:
            raise
        except Exception as error:
            logger.warning("A batch was refused, and is enqueued one by one: %s", error)
            for entry in list(batch.taken):
                self._store_one(entry, batch)
            self.database.run_all(self._queries((), batch.aside))

    def _store_one(self, entry: tuple[Parcel, Taken], batch: _Batch) -> None:
        parcel, taken = entry
        try:
            self.database.run_all(self._queries([entry], ()))
        except TaskSentBefore:
            # It was delivered twice at the old broker: what follows it has come by itself since.
            alone = Taken(taken.messages[:1])
            self.database.run_all(self._queries([(parcel, alone)], ()))
        except OperationalError:
            raise
        except Exception as error:
            batch.taken.remove(entry)
            batch.aside.append((parcel, f"the database refused it: {error}"))

    def _queries(
        self, taken: Sequence[tuple[Parcel, Taken]], aside: Sequence[tuple[Parcel, str]]
    ) -> list[Query[None]]:
        queries = [moving.durably()]
        messages = [message for _, each in taken for message in each.messages]
        if messages:
            queries.append(tasks.enqueue(messages, [edge for _, each in taken for edge in each.edges]))
            if self.owes:
                queries.append(moving.owe([message.id for message in messages]))
        if aside:
            queries.append(moving.set_aside([self._aside(parcel, reason) for parcel, reason in aside]))
        return queries

    def _aside(self, parcel: Parcel, reason: str) -> Aside:
        # Text of Postgres holds neither NUL nor half a surrogate pair, and a reason may quote the bad bytes.
        printable = reason.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
        return Aside(parcel.key, None, parcel.priority, self.source.name, parcel.queue, printable[:2000], parcel.whole)

    def standing(self) -> Standing:
        return self.source.standing()


def retake(database: Database, reader: Reader, limit: int = 10_000) -> tuple[int, int]:
    """Retry what was set aside; gives how many messages were taken over, and how many still cannot be read."""
    rows = database.run(moving.aside(limit))
    taken = 0
    for row in rows:
        try:
            read = reader.read(opened(row.message, row.queue, row.priority))
        except Unreadable as error:
            logger.warning("Still set aside: %s of queue %r: %s", row.id, row.queue, error)
            continue
        enqueue = tasks.enqueue(read.messages, read.edges)
        database.run_all([enqueue, moving.drop_aside([row.id])])
        taken += 1
    return taken, len(rows) - taken
