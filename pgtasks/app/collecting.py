"""Collect messages instead of sending them, so that they can be sent in one transaction with other statements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pgtasks._state import current_run
from pgtasks.message import Batch, Message

__all__ = ("collected", "collecting", "collects_unique", "is_collecting")

#: Where messages go that are being collected, instead of to the database.
collected: ContextVar[list[Batch] | None] = ContextVar("pgtasks.collected", default=None)

#: Whether unique calls are collected too. Whoever asks for that takes their keys; for others they are sent at once.
_with_unique: ContextVar[bool] = ContextVar("pgtasks.collected_unique", default=False)


def collects_unique(messages: Sequence[Message], edges: Iterable[Any] = ()) -> bool:
    """Collect unique calls if `collecting(with_unique=True)` is in force here; returns whether it is."""
    batches = collected.get()
    if batches is None or not _with_unique.get():
        return False
    batches.append((tuple(messages), tuple(edges)))
    return True


def is_collecting() -> bool:
    """Is what is published here collected, or recorded by a workflow's run, instead of being sent at once?"""
    return collected.get() is not None or current_run.get() is not None


@contextmanager
def collecting(*, with_unique: bool = False) -> Iterator[list[Batch]]:
    """Collect what is published in this block instead of sending it."""
    batches: list[Batch] = []
    token, unique_token = collected.set(batches), _with_unique.set(with_unique)
    try:
        yield batches
    finally:
        collected.reset(token)
        _with_unique.reset(unique_token)
