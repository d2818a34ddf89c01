"""Group commit for enqueues: concurrent calls of one process share a commit.

A commit costs the server a flush to disk, whatever is in it. So while one enqueue is under way, the calls that come
meanwhile gather, and go together when it returns. A call alone waits for nobody, and every call returns only after its
task is committed: the semantics are those of one commit each, the cost is not.

There is no sender thread: a calling thread that finds no other sending sends for all, then hands over. Coroutines may
be cancelled at any time, so for those that wait a task of its own sends.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Sequence

from pgtasks.exceptions import OperationalError
from pgtasks.message import Message
from pgtasks.store import tasks
from pgtasks.store.database import AsyncDatabase, Database

#: Most messages that go in one statement.
MOST = 500


class _Parcel:
    """The messages of one call, and how its caller learns what became of them."""

    __slots__ = ("error", "is_sent", "messages", "turn")

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.error: BaseException | None = None
        self.is_sent = False
        #: Set when the parcel has been sent, or when it is this one's turn to send.
        self.turn = threading.Event()


class Outbox:
    """Sends messages for the threads of this process; safe over forks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._waiting: list[_Parcel] = []
        self._is_sending = False

    def put(self, messages: Sequence[Message]) -> None:
        """Enqueue messages without edges; returns when they are committed, raises as `Database.run` does."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            if self._is_sending:
                parcel = _Parcel(messages)
                self._waiting.append(parcel)
            else:
                self._is_sending = True
                parcel = None
        if parcel is None:
            self._send_alone(messages)
        else:
            self._wait(parcel)

    def _send_alone(self, messages: Sequence[Message]) -> None:
        try:
            self._database.run(tasks.enqueue(messages))
        finally:
            self._hand_over()

    def _wait(self, parcel: _Parcel) -> None:
        parcel.turn.wait()
        if not parcel.is_sent:
            self._send_together()
        if parcel.error is not None:
            raise parcel.error

    def _hand_over(self) -> None:
        """Let the first of those who wait send for all of them; with nobody waiting, the next call sends at once."""
        with self._lock:
            if self._waiting:
                self._waiting[0].turn.set()
            else:
                self._is_sending = False

    def _send_together(self) -> None:
        with self._lock:
            parcels: list[_Parcel] = []
            size = 0
            while self._waiting and (not parcels or size + len(self._waiting[0].messages) <= MOST):
                parcels.append(self._waiting.pop(0))
                size += len(parcels[-1].messages)
        try:
            self._send(parcels)
        finally:
            for parcel in parcels:
                parcel.is_sent = True
                parcel.turn.set()
            self._hand_over()

    def _send(self, parcels: list[_Parcel]) -> None:
        try:
            self._database.run(tasks.enqueue([message for parcel in parcels for message in parcel.messages]))
        except OperationalError as error:
            for parcel in parcels:
                parcel.error = error
        except Exception:
            # One of them is to blame, and nothing was sent: each caller shall get its own answer.
            for parcel in parcels:
                self._send_one(parcel)

    def _send_one(self, parcel: _Parcel) -> None:
        try:
            self._database.run(tasks.enqueue(parcel.messages))
        except Exception as error:
            parcel.error = error


class _AwaitedParcel:
    """The messages of one coroutine, which awaits `sent`."""

    __slots__ = ("messages", "sent")

    def __init__(self, messages: Sequence[Message], sent: asyncio.Future[None]) -> None:
        self.messages = messages
        self.sent = sent


class AsyncOutbox:
    """Sends messages for the coroutines of one event loop."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database
        self._waiting: deque[_AwaitedParcel] = deque()
        self._is_sending = False
        #: Kept, since an event loop does not keep its tasks.
        self._task: asyncio.Task[None] | None = None

    async def put(self, messages: Sequence[Message]) -> None:
        """Enqueue messages without edges; returns when they are committed, raises as `AsyncDatabase.run` does.

        Whoever is cancelled while it waits has sent nothing, or what it cannot take back any more.
        """
        if self._is_sending:
            await self._wait(_AwaitedParcel(messages, asyncio.get_running_loop().create_future()))
            return
        self._is_sending = True
        try:
            await self._database.run(tasks.enqueue(messages))
        finally:
            self._hand_over()

    async def _wait(self, parcel: _AwaitedParcel) -> None:
        self._waiting.append(parcel)
        try:
            await parcel.sent
        finally:
            if parcel in self._waiting:
                self._waiting.remove(parcel)

    def _hand_over(self) -> None:
        if self._waiting:
            self._task = asyncio.get_running_loop().create_task(self._send_waiting())
        else:
            self._is_sending = False

    async def _send_waiting(self) -> None:
        try:
            while parcels := self._take():
                await self._send(parcels)
        finally:
            self._is_sending = False
            for parcel in self._waiting:  # the loop is being shut down
                parcel.sent.cancel()

    def _take(self) -> list[_AwaitedParcel]:
        parcels: list[_AwaitedParcel] = []
        size = 0
        while self._waiting and (not parcels or size + len(self._waiting[0].messages) <= MOST):
            parcels.append(self._waiting.popleft())
            size += len(parcels[-1].messages)
        return parcels

    async def _send(self, parcels: list[_AwaitedParcel]) -> None:
        try:
            await self._database.run(tasks.enqueue([message for parcel in parcels for message in parcel.messages]))
        except OperationalError as error:
            for parcel in parcels:
                _answer(parcel, error)
        except Exception:
            # One of them is to blame, and nothing was sent: each caller shall get its own answer.
            for parcel in parcels:
                await self._send_one(parcel)
        else:
            for parcel in parcels:
                _answer(parcel, None)

    async def _send_one(self, parcel: _AwaitedParcel) -> None:
        try:
            await self._database.run(tasks.enqueue(parcel.messages))
        except Exception as error:
            _answer(parcel, error)
        else:
            _answer(parcel, None)


def _answer(parcel: _AwaitedParcel, error: Exception | None) -> None:
    if parcel.sent.done():  # cancelled meanwhile
        return
    if error is None:
        parcel.sent.set_result(None)
    else:
        parcel.sent.set_exception(error)
