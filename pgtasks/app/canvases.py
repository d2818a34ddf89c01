"""Enqueueing the tasks of a canvas, some of which may have been sent before, as by a frozen signature sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from pgtasks.exceptions import TaskSentBefore
from pgtasks.message import Message
from pgtasks.store import tasks
from pgtasks.store.sql import Query

__all__ = ("Ask", "aenqueue_canvas", "clear", "enqueue_again", "enqueue_canvas")

#: Runs a query in the transaction under way.
Ask: TypeAlias = "Callable[[Query[Any]], Any]"


def enqueue_canvas(app: Any, messages: Sequence[Message], edges: Iterable[Any]) -> None:
    """Enqueue the tasks of a canvas; those that ran before, and have ended, run again as part of it."""
    enqueue = tasks.enqueue(messages, edges)
    try:
        app.database.run(enqueue)
    except TaskSentBefore:
        _enqueue_anew(app, messages, enqueue)


def enqueue_again(app: Any, messages: Sequence[Message], edges: Iterable[Any]) -> None:
    """Enqueue a canvas that was sent before; if all of it has ended it runs once more."""
    try:
        _enqueue_anew(app, messages, tasks.enqueue(messages, edges))
    except TaskSentBefore:
        # Part of it has not ended. Then nothing changes, as when a task is sent twice.
        return


def _enqueue_anew(app: Any, messages: Sequence[Message], enqueue: Query[None]) -> None:
    def anew(ask: Ask) -> None:
        clear(ask, messages)
        ask(enqueue)

    try:
        app.database.transact(anew)
    except TaskSentBefore as error:
        raise TaskSentBefore(
            "A task of this canvas was sent before under the same id, and has not ended, or something that waits for it"
            " has not: nothing was sent. A signature that was frozen keeps its id; use a clone of it."
        ) from error


def clear(ask: Ask, messages: Iterable[Message]) -> None:
    """Remove the rows of earlier tasks that had the ids of these messages and have ended; part of a transaction."""
    ids = [message.id for message in messages]
    ask(tasks.hold(ids))
    ask(tasks.clear(ids))


async def aenqueue_canvas(app: Any, messages: Sequence[Message], edges: Iterable[Any]) -> None:
    """`enqueue_canvas` for coroutines."""
    enqueue = tasks.enqueue(messages, edges)
    try:
        await app.adatabase.run(enqueue)
    except TaskSentBefore:
        await asyncio.to_thread(_enqueue_anew, app, messages, enqueue)
