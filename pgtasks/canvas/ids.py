"""Ids of the tasks of one canvas: they share the slot of their root, which says where a distributed store
keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import UUID

from pgtasks._state import get_current_worker_task
from pgtasks.message import id_of, new_id

#: The first id made for the canvas that is being frozen or planned; empty before it.
_anchor: ContextVar[list[UUID] | None] = ContextVar("pgtasks.canvas.anchor", default=None)


@contextmanager
def one_slot() -> Iterator[None]:
    """Let all ids made in the `with` block share a slot, also those of such blocks within it."""
    token = _anchor.set([]) if _anchor.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _anchor.reset(token)


def fresh_id(root_id: str | None = None) -> str:
    """Make a task id in the slot of its root: the given one, or that of the task running here, or of the
    canvas."""
    anchor = _anchor.get()
    root = id_of(root_id) if root_id else _root_of_here() or (anchor[0] if anchor else None)
    made = new_id(root)
    if anchor == []:
        anchor.append(made)
    return str(made)


def _root_of_here() -> UUID | None:
    task = get_current_worker_task()
    root = None if task is None else task.request.root_id or task.request.id
    return None if root is None else id_of(root)
