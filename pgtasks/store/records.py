"""Group commit for workflow steps: steps of several runs are recorded in one statement.

To record a step costs the server a statement and a flush to disk. So while one record is under way, those that come meanwhile,
from other runs of this process, gather and go together when it returns; one that comes alone waits for nobody. Each caller
goes on only when its own step is committed.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from pgtasks.exceptions import OperationalError
from pgtasks.store import workflows
from pgtasks.store.database import Database
from pgtasks.store.sql import Query

__all__ = ("CoroutineRecords", "SharedRecords", "record_together")

#: Most steps that go in one statement.
MOST = 100

Record = Query[bool | None]
#: What a record was answered, or the error that it is to raise.
Answer = bool | BaseException | None


def record_together(run: Callable[[Query[Any]], Any], records: Sequence[Record]) -> list[Answer]:
    """Record steps in one statement; gives what each was answered."""
    if len(records) == 1:
        return [_alone(run, records[0])]
    try:
        held = run(workflows.remember_all(records))
    except OperationalError as error:
        return [error] * len(records)
    except Exception:
        # One of them is there already, and nothing was recorded: each run shall get its own answer.
        return [_alone(run, record) for record in records]
    return [held.get(record.values["run"]) for record in records]


def _alone(run: Callable[[Query[Any]], Any], record: Record) -> Answer:
    try:
        answer: Answer = run(record)
    except Exception as error:
        return error
    return answer


class _Waiting:
    """A record that is to go with the next ones."""

    __slots__ = ("answer", "is_sent", "record", "turn")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.answer: Answer = None
        self.is_sent = False
        #: Set when it has been sent, or when it is this one's turn to send.
        self.turn = threading.Event()


class SharedRecords:
    """Records steps for the threads of this process; safe over forks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._is_sending = False

    def record(self, query: Record) -> bool | None:
        """Record a step; returns when it is committed, raises as `Database.run` does."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            mine = _Waiting(query) if self._is_sending else None
            if mine is not None:
                self._waiting.append(mine)
            self._is_sending = True
        if mine is None:
            try:
                return self._database.run(query)
            finally:
                self._hand_over()
        mine.turn.wait()
        if not mine.is_sent:
            self._send()
        if isinstance(mine.answer, BaseException):
            raise mine.answer
        return mine.answer

    def _send(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        try:
            for each, answer in zip(
                batch, record_together(self._database.run, [each.record for each in batch]), strict=True
            ):
                each.answer = answer
        finally:
            for each in batch:
                each.is_sent = True
                each.turn.set()
            self._hand_over()

    def _hand_over(self) -> None:
        """Let the first of those who wait send for all of them; with nobody waiting, the next one sends at once."""
        with self._lock:
            if self._waiting:
                self._waiting[0].turn.set()
            else:
                self._is_sending = False


class CoroutineRecords(SharedRecords):
    """Records steps for the coroutines of one event loop, and for threads beside it."""

    def _reset(self) -> None:
        super()._reset()
        self._awaiting: list[tuple[Record, asyncio.Future[Answer]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def arecord(self, query: Record) -> bool | None:
        """`record`, for coroutines."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._awaiting.append((query, answered))
        if self._sender is None:
            self._sender = asyncio.ensure_future(self._send_all())
        answer = await answered
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def _send_all(self) -> None:
        try:
            while self._awaiting:
                batch, self._awaiting = self._awaiting[:MOST], self._awaiting[MOST:]
                records = [record for record, _ in batch]
                answers = await asyncio.to_thread(record_together, self._database.run, records)
                for (_, answered), answer in zip(batch, answers, strict=True):
                    if not answered.done():  # its run was cancelled
                        answered.set_result(answer)
        finally:
            self._sender = None
