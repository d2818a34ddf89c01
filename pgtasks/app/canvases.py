"""Enqueueing the tasks of a canvas, some of which may have been sent before, as by a frozen signature sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from pgtasks.exceptions import TaskSentBefore
from pgtasks.message import Message
from pgtasks.store import tasks
from pgtasks.store.sql import Query

__all__ = ("aenqueue_canvas", "enqueue_again", "enqueue_canvas")


def enqueue_canvas(app: Any, messages: Sequence[Message], edges: Iterable[Any]) -> None:
    """Enqueue the tasks of a canvas; those that ran before, and have ended, run again as part of it."""
    enqueue = tasks.enqueue(messages, edges)
    try:
        app.database.run(enqueue)
    except TaskSentBefore:
        _enqueue_anew(app, messages, enqueue)


def _enqueue_anew(app: Any, messages: Sequence[Message], enqueue: Query[None]) -> None:
    ended, *_ = app.database.run_together(tasks.clear([message.id for message in messages]), enqueue)
    if not ended:
        raise TaskSentBefore(
            "A task of this canvas was sent before under the same id, and has not ended: nothing was sent. A signature"
            " that was frozen keeps its id; use a clone of it."
        )


def enqueue_again(app: Any, messages: Sequence[Message], edges: Iterable[Any]) -> None:
    """Enqueue a canvas that was sent before; if all of it has ended it runs once more."""
    try:
        app.database.run_together(tasks.clear([message.id for message in messages]), tasks.enqueue(messages, edges))
    except TaskSentBefore:
        # Part of it has not ended. Then nothing changes, as when a task is sent twice.
        return


async def aenqueue_canvas(app: Any, messages: Sequence[Message], edges: Iterable[Any]) -> None:
    """`enqueue_canvas` for coroutines."""
    enqueue = tasks.enqueue(messages, edges)
    try:
        await app.adatabase.run(enqueue)
    except TaskSentBefore:
        await asyncio.to_thread(_enqueue_anew, app, messages, enqueue)
