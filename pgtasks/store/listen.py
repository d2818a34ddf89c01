"""Wake-ups: a `Doorbell` hears notifications, a `Waiter` waits for results with it.

Notifications only save time; nothing depends on them. Whoever waits first declares that it waits, then looks once
more, then sleeps, and looks again by itself after 50 ms, 100 ms, ... up to a second. So a notification that is lost, or
a pooler through which LISTEN does not work, costs a moment and never a result.

One process has one doorbell for all the results that its threads wait for. There is no thread for it: one of the
waiting threads reads the socket for all, and hands over when it leaves.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from pgtasks.store import fleet, results
from pgtasks.store.database import AsyncDatabase, Database, connect
from pgtasks.store.results import Stored

_FIRST_LOOK_S, _LAST_LOOK_S = 0.05, 1.0


class Doorbell:
    """A connection that only listens, on one channel or more; raises what psycopg raises when it breaks."""

    def __init__(self, url: str, channel: str) -> None:
        self._conn = connect(url)
        if self._conn.is_pooled:
            self._conn.close()
            raise psycopg.NotSupportedError("a connection pooler stands between, and does not pass them on")
        self.listen(channel)

    def listen(self, channel: str) -> None:
        """Hear this channel as well."""
        self._conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))

    def fileno(self) -> int:
        return self._conn.fileno()

    def rings(self, timeout_s: float) -> bool:
        """Wait until something is there to be heard; False when the time is over."""
        return _is_readable(self, timeout_s)

    def heard(self) -> list[str]:
        """Payloads of the notifications that have arrived, without waiting for more."""
        self._conn.pgconn.consume_input()
        payloads = []
        while notification := self._conn.pgconn.notifies():
            payloads.append(notification.extra.decode())
        return payloads

    @property
    def is_broken(self) -> bool:
        return self._conn.closed

    @property
    def has_heard(self) -> bool:
        """Has something been heard that `heard` has not given yet, though the socket is quiet?"""
        return False

    def close(self) -> None:
        self._conn.close()


class SharedDoorbell(Doorbell):
    """Listens on the connection by which the one thread that has a database runs its queries, which saves another one.

    Notifications also come with the answers to queries: look at `has_heard` before you sleep. When that connection is lost, so
    is this.
    """

    def __init__(self, database: Database, channel: str) -> None:
        self._conn = database.connection()
        if self._conn.is_pooled:
            raise psycopg.NotSupportedError("a connection pooler stands between, and does not pass them on")
        self._payloads: list[str] = []
        self._conn.add_notify_handler(self._note)
        self.listen(channel)

    def _note(self, notification: psycopg.Notify) -> None:
        self._payloads.append(notification.payload)

    def heard(self) -> list[str]:
        came, self._payloads = self._payloads, []
        return came + super().heard()

    @property
    def has_heard(self) -> bool:
        return bool(self._payloads)

    def close(self) -> None:
        """Hear no more; the connection is the database's to close."""
        self._conn.remove_notify_handler(self._note)
        with suppress(psycopg.Error):
            self._conn.execute("UNLISTEN *")


#: Tasks that have ended, with their results where those came along.
Ended = Mapping[UUID, Stored | None]


class _Wait:
    """One call that waits: its ids, which of them were announced, and whether it should look."""

    __slots__ = ("found", "ids", "is_rung")

    def __init__(self, ids: Collection[UUID]) -> None:
        self.ids = frozenset(ids)
        self.found: dict[UUID, Stored | None] = {}
        self.is_rung = False

    def hear(self, announced: Ended | None) -> None:
        """Take in an announcement; None stands for one that names nothing, so that everything may have ended."""
        if announced is None:
            self.is_rung = True
        elif mine := self.ids & announced.keys():
            self.found.update((task_id, announced[task_id]) for task_id in mine)
            self.is_rung = True


class _Declared:
    """How often each id is waited for in this process, so that only the first and the last time cost a statement."""

    def __init__(self) -> None:
        self._times: Counter[UUID] = Counter()
        self._told: set[UUID] = set()
        self._since: dict[UUID, datetime] = {}

    def note(self, added: Iterable[UUID], since: datetime) -> None:
        """These are declared, since then by the server's clock."""
        self._since.update((task_id, since) for task_id in added if task_id in self._times)

    def tell(self, announced: Ended) -> Ended:
        """These were announced: whoever did it has removed their declarations.

        Gives them back without the results that may be those of an earlier end, of tasks that were sent or driven again since.
        """
        self._told.update(task_id for task_id in announced if task_id in self._times)
        return {task_id: stored if self._is_new(stored) else None for task_id, stored in announced.items()}

    def _is_new(self, stored: Stored | None) -> bool:
        since = None if stored is None else self._since.get(stored.id)
        return stored is not None and since is not None and stored.done_at is not None and stored.done_at > since

    def add(self, ids: Iterable[UUID]) -> list[UUID]:
        """Count these ids once more; gives those that were not waited for."""
        added = [task_id for task_id in ids if task_id not in self._times]
        self._times.update(ids)
        return added

    def remove(self, ids: Iterable[UUID]) -> list[UUID]:
        """Count these ids once less; gives those that are waited for no longer and still declared."""
        self._times.subtract(ids)
        gone = [task_id for task_id in ids if self._times[task_id] <= 0]
        for task_id in gone:
            del self._times[task_id]
            self._since.pop(task_id, None)
        still_declared = [task_id for task_id in gone if task_id not in self._told]
        self._told.difference_update(gone)
        return still_declared


def _announced(payloads: Iterable[str]) -> Ended | None:
    """What some payloads name, ids or a result; None when one of them is empty, which means: look at everything."""
    ended: dict[UUID, Stored | None] = {}
    for payload in payloads:
        if not payload:
            return None
        with suppress(ValueError):
            if payload.startswith("["):
                stored = results.told(payload)
                ended[stored.id] = stored
            else:
                ended.update((UUID(text), None) for text in payload.split(","))
    return ended


def _is_readable(bell: Doorbell, timeout_s: float) -> bool:
    # poll, where there is one: select cannot watch descriptors above 1023.
    with (
        selectors.DefaultSelector() if not hasattr(selectors, "PollSelector") else selectors.PollSelector() as selector
    ):
        selector.register(bell, selectors.EVENT_READ)
        return bool(selector.select(timeout_s))


class Waiter:
    """Waits for results on behalf of every thread of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self.process = uuid4()
        self._bell: Doorbell | None = None
        self._reading = threading.Lock()
        self._changed = threading.Condition()
        self._waits: set[_Wait] = set()
        self._declared = _Declared()

    def close(self) -> None:
        """Stop listening, unless somebody waits; the next wait listens again."""
        if self._pid == os.getpid() and self._reading.acquire(blocking=False):
            try:
                if self._bell is not None:
                    self._bell.close()
                    self._bell = None
            finally:
                self._reading.release()

    @contextmanager
    def holding(self, ids: Collection[UUID]) -> Iterator[Ended | None]:
        """Stay declared as waiting for these ids: to `wait` for some of them again and again writes nothing more.

        Gives those that have ended, or None when all were declared before and nobody has looked.
        """
        if self._pid != os.getpid():
            self._reset()
        with self._changed:
            added = self._declared.add(ids)
        try:
            ended = None
            if added:
                watched = self._database.run(fleet.watch(self.process, added))
                with self._changed:
                    self._declared.note(added, watched.at)
                ended = dict.fromkeys(watched.ended)
            yield ended
        finally:
            with self._changed:
                gone = self._declared.remove(ids)
            # A failure of the wait itself is what the caller must see, not one of the tidying.
            with suppress(Exception):
                if gone:
                    self._database.run(fleet.unwatch(self.process, gone))

    def wait(self, ids: Collection[UUID], timeout_s: float | None) -> Ended:
        """Block until at least one of the tasks has ended; gives those that have, none when the time is over."""
        if self._pid != os.getpid():
            self._reset()
        give_up = None if timeout_s is None else time.monotonic() + timeout_s
        wait = _Wait(ids)
        with self._changed:
            self._waits.add(wait)
        try:
            self._listen()
            with self.holding(wait.ids) as ended:
                return self._look_and_sleep(wait, ended, give_up)
        finally:
            with self._changed:
                self._waits.discard(wait)

    def _look_and_sleep(self, wait: _Wait, ended: Ended | None, give_up: float | None) -> Ended:
        pause = _FIRST_LOOK_S
        while True:
            if ended is None:
                found = self._database.run(results.ended(wait.ids))
                ended = dict.fromkeys(found)
            if ended:
                return ended
            now = time.monotonic()
            if give_up is not None and now >= give_up:
                return {}
            self._sleep(wait, now + pause if give_up is None else min(now + pause, give_up))
            if wait.found:
                return wait.found
            wait.is_rung, ended = False, None
            pause = min(pause * 2, _LAST_LOOK_S)

    def _sleep(self, wait: _Wait, until: float) -> None:
        """Sleep until the wait is rung or the time has come, reading the doorbell if no other thread does."""
        while not wait.is_rung and (left := until - time.monotonic()) > 0:
            if self._reading.acquire(blocking=False):
                try:
                    self._read(left)
                finally:
                    self._reading.release()
                    with self._changed:
                        self._changed.notify_all()
            else:
                with self._changed:
                    self._changed.wait(left)

    def _read(self, timeout_s: float) -> None:
        if self._bell is None:
            time.sleep(min(timeout_s, _FIRST_LOOK_S))
            return
        if not _is_readable(self._bell, timeout_s):
            return
        try:
            announced = _announced(self._bell.heard())
        except psycopg.Error:
            self._bell.close()
            self._bell = None
            announced = None
        with self._changed:
            announced = announced and self._declared.tell(announced)
            for wait in self._waits:
                wait.hear(announced)

    def _listen(self) -> None:
        """Open the doorbell, unless it is open or somebody is using it; without one, looking again is all there is."""
        if self._bell is None and not self._database.is_pooled and self._reading.acquire(blocking=False):
            try:
                with suppress(psycopg.Error):
                    self._bell = Doorbell(self._database.url, f"pgtasks_waiter_{self.process}")
            finally:
                self._reading.release()


class AsyncWaiter:
    """Waits for results on behalf of every coroutine of one event loop."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database
        self.process = uuid4()
        self._bell: Doorbell | None = None
        self._rung: dict[_Wait, asyncio.Event] = {}
        self._declared = _Declared()
        self._owner: tuple[int, asyncio.AbstractEventLoop] | None = None

    @asynccontextmanager
    async def holding(self, ids: Collection[UUID]) -> AsyncIterator[Ended | None]:
        """Stay declared as waiting for these ids; see `Waiter.holding`."""
        await self._listen()
        added = self._declared.add(ids)
        try:
            ended = None
            if added:
                watched = await self._database.run(fleet.watch(self.process, added))
                self._declared.note(added, watched.at)
                ended = dict.fromkeys(watched.ended)
            yield ended
        finally:
            gone = self._declared.remove(ids)
            with suppress(Exception):
                if gone:
                    await self._database.run(fleet.unwatch(self.process, gone))

    async def wait(self, ids: Collection[UUID], timeout_s: float | None) -> Ended:
        """Wait until at least one of the tasks has ended; gives those that have, none when the time is over."""
        give_up = None if timeout_s is None else time.monotonic() + timeout_s
        wait, rung = _Wait(ids), asyncio.Event()
        self._move_in()
        self._rung[wait] = rung
        try:
            async with self.holding(wait.ids) as ended:
                return await self._look_and_sleep(wait, rung, ended, give_up)
        finally:
            self._rung.pop(wait, None)

    async def _look_and_sleep(
        self, wait: _Wait, rung: asyncio.Event, ended: Ended | None, give_up: float | None
    ) -> Ended:
        pause = _FIRST_LOOK_S
        while True:
            if ended is None:
                found = await self._database.run(results.ended(wait.ids))
                ended = dict.fromkeys(found)
            if ended:
                return ended
            left = pause if give_up is None else min(pause, give_up - time.monotonic())
            if left <= 0:
                return {}
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await rung.wait()
            if wait.found:
                return wait.found
            rung.clear()
            ended = None
            pause = min(pause * 2, _LAST_LOOK_S)

    def _move_in(self) -> None:
        """Start afresh on a loop, or in a process, that this waiter has not been used in."""
        owner = (os.getpid(), asyncio.get_running_loop())
        if self._owner != owner:
            self._owner, self.process = owner, uuid4()
            self._bell, self._rung, self._declared = None, {}, _Declared()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._move_in()
        if self._bell is not None or self._database.is_pooled:
            return
        channel = f"pgtasks_waiter_{self.process}"
        with suppress(psycopg.Error):
            bell = await asyncio.to_thread(Doorbell, self._database.url, channel)
            if self._bell is None:
                self._bell = bell
                loop.add_reader(bell.fileno(), self._hear)
            else:
                bell.close()

    def _hear(self) -> None:
        bell = self._bell
        if bell is None:
            return
        try:
            announced = _announced(bell.heard())
        except psycopg.Error:
            asyncio.get_running_loop().remove_reader(bell.fileno())
            bell.close()
            self._bell = announced = None
        announced = announced and self._declared.tell(announced)
        for wait, rung in self._rung.items():
            wait.hear(announced)
            if wait.is_rung:
                rung.set()
