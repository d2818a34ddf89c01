"""Group commit for workflow steps: steps of several runs are recorded in one statement.

Steps that come while one is being recorded, from other runs of this process, go together when that returns: `store.outbox`
says how. Each caller goes on only when its own step is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pgtasks.exceptions import OperationalError
from pgtasks.store import workflows
from pgtasks.store.outbox import GroupCommit
from pgtasks.store.sql import Query

__all__ = ("CoroutineRecords", "SharedRecords", "record_together")

#: Most steps that go in one statement.
MOST = 100

Record = Query[bool | None]
#: What a record was answered, or the error that it is to raise.
Answer = bool | Exception | None


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


class SharedRecords(GroupCommit[Record, bool | None]):
    """Records steps for the threads of this process."""

    def record(self, query: Record) -> bool | None:
        """Record a step; returns when it is committed, raises as `Database.run` does."""
        return self.put(query)

    def _send(self, item: Record) -> bool | None:
        return self._database.run(item)

    def _send_all(self, items: Sequence[Record]) -> Sequence[Answer]:
        return record_together(self._database.run, items)

    def _count_fitting(self, items: Iterable[Record]) -> int:
        return MOST


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
            self._sender = asyncio.ensure_future(self._send_awaiting())
        answer = await answered
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _send_awaiting(self) -> None:
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
