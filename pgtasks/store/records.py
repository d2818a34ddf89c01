"""Group commit for workflows: what several runs record, take, wait for and recall goes in one transaction.

What comes while a transaction is under way, from other runs of this process, goes together when that
returns: `store.outbox` says how. Plain steps, the most of it, go in one statement, too. Each caller goes on only
when its own part is committed.

What goes together is sent in the order of the runs. So their locks - of the claim, the message, what is awaited -
are taken in the order in which a settle wakes several runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from pgtasks.exceptions import OperationalError
from pgtasks.store import workflows
from pgtasks.store.database import Database
from pgtasks.store.outbox import GroupCommit
from pgtasks.store.sql import Query
from pgtasks.store.workflows import Together

__all__ = ("CoroutineRecords", "SharedRecords", "ask", "record_together")

#: Most that goes in one transaction.
MOST = 100

Record = Query[Any] | Together
#: What a record was answered, or the error that it is to raise.
Answer = Any


def record_together(database: Database, records: Sequence[Record]) -> list[Answer]:
    """Ask the database for several runs in one transaction; gives what each was answered."""
    if len(records) == 1:
        return [_alone(database, records[0])]
    try:
        return _together(database, records)
    except Exception as error:
        if isinstance(error, OperationalError) and not workflows.is_lost(error):
            return [error] * len(records)
    # One of them is to blame, as a step that is there already, and nothing was recorded: each gets its own answer.
    return [_alone(database, record) for record in records]


def _together(database: Database, records: Sequence[Record]) -> list[Answer]:
    plain, others = list[Query[Any]](), list[Record]()
    for record in records:
        if isinstance(record, Query) and workflows.is_plain(record):
            plain.append(record)
        else:
            others.append(record)
    if not others:
        held = database.run(workflows.remember_all(plain))
        return [held.get(record.values["run"]) for record in plain]
    others.sort(key=_run_of)
    queries = [query for record in others for query in _queries(record)]
    if plain:
        queries.append(workflows.remember_all(plain))
    said = iter(database.run_at_once(*queries))
    answers: dict[int, Answer] = {}
    for record in others:
        own = [next(said) for _ in _queries(record)]
        answers[id(record)] = own if isinstance(record, Together) else own[0]
    held = next(said, {})
    return [answers[id(record)] if id(record) in answers else held.get(_run_of(record)) for record in records]


def _queries(record: Record) -> Sequence[Query[Any]]:
    return record.queries if isinstance(record, Together) else (record,)


def _run_of(record: Record) -> UUID:
    run: UUID = _queries(record)[0].values["run"]
    return run


def ask(database: Database, record: Record) -> Answer:
    """Ask the database for one run."""
    return database.run_at_once(*record.queries) if isinstance(record, Together) else database.run(record)


def _alone(database: Database, record: Record) -> Answer:
    try:
        return ask(database, record)
    except Exception as error:
        return error


class SharedRecords(GroupCommit[Record, Answer]):
    """Records for the threads of this process."""

    def record(self, asked: Record) -> Answer:
        """Ask for a run; returns when it is committed, raises as `Database.run` does."""
        return self.put(asked)

    def _send(self, item: Record) -> Answer:
        return ask(self._database, item)

    def _send_all(self, items: Sequence[Record]) -> Sequence[Answer]:
        return record_together(self._database, items)

    def _count_fitting(self, items: Iterable[Record]) -> int:
        return MOST


class CoroutineRecords(SharedRecords):
    """Records for the coroutines of one event loop, and for threads beside it."""

    def _reset(self) -> None:
        super()._reset()
        self._awaiting: list[tuple[Record, asyncio.Future[Answer]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def arecord(self, asked: Record) -> Answer:
        """`record`, for coroutines."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._awaiting.append((asked, answered))
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
                answers = await asyncio.to_thread(record_together, self._database, records)
                for (_, answered), answer in zip(batch, answers, strict=True):
                    if not answered.done():  # its run was cancelled
                        answered.set_result(answer)
        finally:
            self._sender = None
