"""Verbs on what is known of tasks: each returns a `Query`, but for `told`. The statements are in `results.sql`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from pgtasks.store.sql import Query, Row, count, id_set, load

_SQL = load("results")


class Stored(NamedTuple):
    """What is known of one task; `state` is None while nothing but its message is there."""

    id: UUID
    task_id: str | None
    name: str | None
    state: str | None
    content_type: str | None
    content_encoding: str | None
    value: bytes | None
    traceback: bytes | None
    children: bytes | None
    group_id: str | None
    parent: UUID | None
    retries: int
    worker: str | None
    queue: str | None
    done_at: datetime | None
    is_ended: bool
    payload_type: str | None
    payload_encoding: str | None
    payload: bytes | None
    options: bytes | None
    #: Tasks that this one released, but for the body of its chord, their groups, and what their messages say; None where
    #: there are none.
    released: list[str] | None
    released_groups: list[str | None] | None
    released_options: list[bytes | None] | None


def fetch(ids: Iterable[UUID], *, with_payload: bool = False) -> Query[dict[UUID, Stored]]:
    """Read what is known of some tasks; unknown ids are not in the answer."""
    return Query(_SQL["fetch"], {"ids": list(ids), "with_payload": with_payload}, _stored)


def _stored(found: Sequence[Row]) -> dict[UUID, Stored]:
    return {row[0]: Stored._make(row) for row in found}


def told(word: str) -> Stored:
    """Read the result of a plain success from the words by which `finish` announces it; raises ValueError if it is not one."""
    task, done_at, retries, worker, task_id, name, queue, group_id, parent, value = json.loads(word)
    return Stored(
        id=UUID(task), task_id=task_id, name=name, state="SUCCESS", content_type=None, content_encoding=None,
        value=bytes.fromhex(value), traceback=None, children=None, group_id=group_id, parent=parent and UUID(parent),
        retries=retries, worker=worker, queue=queue, done_at=datetime.fromisoformat(done_at), is_ended=True,
        payload_type=None, payload_encoding=None, payload=None, options=None, released=None, released_groups=None,
        released_options=None,
    )  # fmt: skip


def ended(ids: Iterable[UUID]) -> Query[set[UUID]]:
    """Which of some tasks have ended, hidden results included."""
    return Query(_SQL["ended"], {"ids": list(ids)}, id_set)


def forget(ids: Iterable[UUID]) -> Query[int]:
    """Remove the results of some tasks."""
    return Query(_SQL["forget"], {"ids": list(ids)}, count)
