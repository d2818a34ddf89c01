"""Group commit: concurrent calls of one process share a commit. Of enqueues here, of workflow steps in `store.records`.

A commit costs the server a flush to disk, whatever is in it. So while one call is under way, the calls that come
meanwhile gather, and go together when it returns. A call alone waits for nobody, and every call returns only after what
it sent is committed: the semantics are those of one commit each, the cost is not.

There is no sender thread: a calling thread that finds no other sending sends for all, then hands over. Coroutines may
be cancelled at any time, so for those that wait a task of its own sends.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import Generic, TypeVar, cast

from pgtasks.exceptions import OperationalError
from pgtasks.message import Message
from pgtasks.store import tasks
from pgtasks.store.database import AsyncDatabase, Database
from pgtasks.store.sql import Query
from pgtasks.utils.plans import acarry_out, carry_out

#: Most messages that go in one statement.
MOST = 500

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Waiting(Generic[Item, Answer]):
    """What one call has to send, and how its caller learns what became of it."""

    __slots__ = ("answer", "is_sent", "item", "turn")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.answer: Answer | Exception | None = None
        self.is_sent = False
        #: Set when it has been sent, or when it is this one's turn to send.
        self.turn = threading.Event()


class GroupCommit(Generic[Item, Answer]):
    """Sends items for the threads of this process, together those that come while others are under way; safe over forks.

    A thread that is stopped from outside, by an exception that is no error of the database, fails alone.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._waiting: list[_Waiting[Item, Answer]] = []
        self._is_sending = False

    def _send(self, item: Item) -> Answer:
        """Send one item, in a commit of its own."""
        raise NotImplementedError

    def _send_all(self, items: Sequence[Item]) -> Sequence[Answer | Exception]:
        """Send items in one commit; gives what each was answered. All may be sent again, after an interruption."""
        raise NotImplementedError

    def _count_fitting(self, items: Iterable[Item]) -> int:
        """How many of the first of these items go in one commit, at least one."""
        raise NotImplementedError

    def put(self, item: Item) -> Answer:
        """Send an item; returns when it is committed, raises as `Database.run` does."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            mine = _Waiting[Item, Answer](item) if self._is_sending else None
            if mine is not None:
                self._waiting.append(mine)
            self._is_sending = True
        if mine is None:
            try:
                return self._send(item)
            finally:
                self._hand_over()
        try:
            mine.turn.wait()
            if not mine.is_sent:
                self._send_waiting()
        except BaseException:
            self._leave(mine)
            raise
        if isinstance(mine.answer, Exception):
            raise mine.answer
        return cast(Answer, mine.answer)

    def _send_waiting(self) -> None:
        """Send for all who wait, of whom the caller is the first."""
        batch: list[_Waiting[Item, Answer]] = []
        answers: Sequence[Answer | Exception] = ()
        try:
            with self._lock:
                count = self._count_fitting(each.item for each in self._waiting)
                batch, self._waiting = self._waiting[:count], self._waiting[count:]
            answers = self._send_all([each.item for each in batch])
        finally:
            for each, answer in zip(batch, answers, strict=False):
                each.answer, each.is_sent = answer, True
                each.turn.set()
            if not answers:
                # This thread is being stopped. The others were told nothing, and one of them sends again.
                with self._lock:
                    self._waiting[:0] = [each for each in batch[1:] if not each.is_sent]
            self._hand_over()

    def _hand_over(self) -> None:
        """Let the first of those who wait send for all of them; with nobody waiting, the next call sends at once."""
        with self._lock:
            if self._waiting:
                self._waiting[0].turn.set()
            else:
                self._is_sending = False

    def _leave(self, mine: _Waiting[Item, Answer]) -> None:
        """Send this item no more; if it was its turn to send, it is the next one's."""
        with self._lock:
            mine.is_sent = True
            if mine not in self._waiting:
                return
            self._waiting.remove(mine)
        if mine.turn.is_set():
            self._hand_over()


class Outbox(GroupCommit[Sequence[Message], None]):
    """Enqueues messages without edges for the threads of this process."""

    def _send(self, item: Sequence[Message]) -> None:
        self._database.run(tasks.enqueue(item))

    def _send_all(self, items: Sequence[Sequence[Message]]) -> Sequence[Exception | None]:
        return carry_out(_enqueueing(items), self._database.run)

    def _count_fitting(self, items: Iterable[Sequence[Message]]) -> int:
        return _count_fitting(map(len, items))


def _enqueueing(parcels: Sequence[Sequence[Message]]) -> Generator[Query[None], None, list[Exception | None]]:
    """Enqueue the messages of several callers in one commit, and give what each caller is to be told."""
    try:
        yield tasks.enqueue([message for messages in parcels for message in messages])
    except OperationalError as error:
        return [error] * len(parcels)
    except Exception:
        pass  # One of them is to blame, and nothing was sent.
    else:
        return [None] * len(parcels)
    answers: list[Exception | None] = []
    for messages in parcels:
        try:
            yield tasks.enqueue(messages)
        except Exception as error:
            answers.append(error)
        else:
            answers.append(None)
    return answers


def _count_fitting(sizes: Iterable[int]) -> int:
    """How many of the first parcels of these sizes go in one statement, at least one."""
    return max(1, sum(1 for _ in takewhile(lambda size: size <= MOST, accumulate(sizes))))


@dataclass(slots=True, eq=False)
class _AwaitedParcel:
    """The messages of one coroutine, which awaits `sent`."""

    messages: Sequence[Message]
    sent: asyncio.Future[None]

    def answer(self, error: Exception | None) -> None:
        if self.sent.done():  # its coroutine was cancelled meanwhile
            return
        if error is None:
            self.sent.set_result(None)
        else:
            self.sent.set_exception(error)


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
            while self._waiting:
                count = _count_fitting(len(parcel.messages) for parcel in self._waiting)
                parcels = [self._waiting.popleft() for _ in range(count)]
                answers = await acarry_out(_enqueueing([parcel.messages for parcel in parcels]), self._database.run)
                for parcel, answer in zip(parcels, answers, strict=True):
                    parcel.answer(answer)
        finally:
            self._is_sending = False
            for parcel in self._waiting:  # the loop is being shut down
                parcel.sent.cancel()
