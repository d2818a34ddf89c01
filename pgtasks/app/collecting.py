"""Messages that are collected instead of sent, to be sent in one transaction with something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pgtasks._state import current_run
from pgtasks.message import Batch

__all__ = ("collected", "collecting", "is_collecting")

#: Where messages go that are being collected, instead of to the database.
collected: ContextVar[list[Batch] | None] = ContextVar("pgtasks.collected", default=None)


def is_collecting() -> bool:
    """Is what is published here collected, or recorded by a workflow's run, instead of being sent at once?"""
    return collected.get() is not None or current_run.get() is not None


@contextmanager
def collecting() -> Iterator[list[Batch]]:
    """Collect what is published in this block instead of sending it."""
    batches: list[Batch] = []
    token = collected.set(batches)
    try:
        yield batches
    finally:
        collected.reset(token)
