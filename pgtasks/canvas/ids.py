"""Ids of the tasks of one canvas: they share the slot of their root, which says where a distributed store
keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from uuid import UUID, uuid5

from pgtasks._state import get_current_worker_task
from pgtasks.message import SLOT_MASK, id_of, new_id, slot_of

#: Ids of the canvas that is being frozen or planned: the one whose slot it has, of the task running here or else its
#: first, and the last one made.
_anchor: ContextVar[list[UUID] | None] = ContextVar("pgtasks.canvas.anchor", default=None)
#: Where ids come from while a canvas is planned whose ids must be the same each time.
_derived: ContextVar[Iterator[UUID] | None] = ContextVar("pgtasks.canvas.derived", default=None)


@contextmanager
def derived_from(seed: UUID, root: UUID) -> Iterator[None]:
    """Make the ids of the `with` block follow from `seed` and their order: planned again, a canvas is the same one."""
    slot = slot_of(root)
    token = _derived.set(UUID(int=uuid5(seed, str(n)).int & ~SLOT_MASK | slot) for n in count())
    try:
        yield
    finally:
        _derived.reset(token)


@contextmanager
def one_slot() -> Iterator[None]:
    """Let all ids made in the `with` block share a slot, also those of such blocks within it."""
    if _anchor.get() is not None:
        yield
        return
    root = _root_of_here()
    token = _anchor.set([] if root is None else [root])
    try:
        yield
    finally:
        _anchor.reset(token)


def fresh_id(root_id: str | None = None) -> str:
    """Make a task id in the slot of its root: the given one, that of the task running here, or the canvas'."""
    return str(fresh_key(root_id))


def fresh_key(root_id: str | None = None) -> UUID:
    """`fresh_id`, as a UUID."""
    derived = _derived.get()
    if derived is not None:
        return next(derived)
    anchor = _anchor.get()
    if root_id:
        return new_id(id_of(root_id))
    if anchor is None:
        return new_id(_root_of_here())
    made = new_id(anchor[0] if anchor else None)
    if len(anchor) > 1 and made < anchor[-1]:
        # Of the same millisecond: the order of the ids is that of the canvas, which `AsyncResult.children` shows.
        made = UUID(int=anchor[-1].int + SLOT_MASK + 1)
    anchor[:] = anchor[0] if anchor else made, made
    return made


def _root_of_here() -> UUID | None:
    task = get_current_worker_task()
    root = None if task is None else task.request.root_id or task.request.id
    return None if root is None else id_of(root)
