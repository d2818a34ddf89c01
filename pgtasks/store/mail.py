"""Verbs on mail, and on tasks that come from and go to programs of Celery through the kombu transport.

    declare_exchange, declare_mailbox, bind -> deliver -> (a reader) look ... close_mailbox
    hand_in -> (a worker of Celery claims it as ours do) -> acknowledge | bring_back | finish

The statements, with what they rely on, are in `mail.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, Unpack
from uuid import UUID

from pgtasks.message import Message
from pgtasks.store.sql import Query, Row, column, count, load, nothing, rows
from pgtasks.store.tasks import StateRow

_SQL = load("mail")

#: What `pgtasks.worker.pool` says of a worker of Celery.
POOL = "kombu"


class Delivered(NamedTuple):
    """Where a message went: the task queues it is also for, and how many mailboxes its exchange knows."""

    task_queues: list[str]
    mailboxes: int


class Mail(NamedTuple):
    """A message from a mailbox. `properties` is JSON; None for events, whose types are given instead."""

    mailbox: str
    properties: bytes | None
    content_type: str | None
    content_encoding: str | None
    body: bytes


class Look(NamedTuple):
    """The answer to a `look`: what has come, and which mailboxes are not there any more."""

    mail: list[Mail]
    missing: list[str]


class Finished(NamedTuple):
    """The answer to a `finish`: the claim to settle, if others wait; was the task in anybody's hands?"""

    worker: UUID | None
    delivery: int | None
    was_found: bool


def declare_exchange(name: str, kind: str) -> Query[None]:
    """Note the type of an exchange: direct, topic or fanout."""
    return Query(_SQL["declare_exchange"], {"name": name, "type": kind}, nothing)


def declare_mailbox(name: str, expires_s: float, keeps_s: float | None) -> Query[None]:
    """Open a mailbox, which is thrown away when nobody has read it for `expires_s` seconds."""
    return Query(_SQL["declare_mailbox"], {"name": name, "expires": expires_s, "keeps": keeps_s}, nothing)


def bind(
    exchange: str,
    queue: str,
    routing_key: str,
    pattern: str,
    *,
    is_mailbox: bool,
    listener: UUID | None = None,
) -> Query[None]:
    """Have an exchange send to a queue; with `listener`, the mailbox gets all events instead, ours too."""
    values = {
        "exchange": exchange,
        "queue": queue,
        "routing_key": routing_key,
        "pattern": pattern,
        "is_mailbox": is_mailbox,
        "listener": listener,
    }
    return Query(_SQL["bind"], values, nothing)


def find_mailbox(exchange: str, routing_key: str) -> Query[str | None]:
    """The mailbox that a direct exchange sends to by this key, or None."""
    return Query(_SQL["find_mailbox"], {"exchange": exchange, "routing_key": routing_key}, _first)


def nodes(exchange: str, command: str) -> Query[list[str]]:
    """The names of the live nodes that read letters sent by this exchange and know a command, or all where it is ''."""
    return Query(_SQL["nodes"], {"exchange": exchange, "command": command}, column)


def _first(found: Sequence[Row]) -> str | None:
    return found[0][0] if found else None


def bindings() -> Query[Sequence[Row]]:
    """What exchanges send to: queue, exchange, routing key."""
    return Query(_SQL["bindings"], {}, rows)


def unbind(exchange: str, queue: str, routing_key: str) -> Query[None]:
    """Have an exchange send to a queue no longer."""
    return Query(_SQL["unbind"], {"exchange": exchange, "queue": queue, "routing_key": routing_key}, nothing)


def close_mailbox(name: str) -> Query[None]:
    """Delete a mailbox with all that belongs to it."""
    return Query(_SQL["close_mailbox"], {"name": name}, nothing)


def deliver(
    exchange: str, routing_key: str, properties: bytes, body: bytes, expires_in_s: float | None = None
) -> Query[Delivered]:
    """Leave a message in the mailboxes it is for; the task queues it is for are left to the caller."""
    values = {
        "exchange": exchange,
        "routing_key": routing_key,
        "properties": properties,
        "body": body,
        "expires_in": expires_in_s,
    }
    return Query(_SQL["deliver"], values, _delivered)


def _delivered(found: Sequence[Row]) -> Delivered:
    queues, mailboxes, _ = found[0]
    return Delivered(queues, mailboxes)


def look(reader: UUID, mailboxes: Sequence[str], *, renew: bool, limit: int = 100) -> Query[Look]:
    """Take what has come for some mailboxes; with `renew`, say that they are read."""
    values = {"reader": reader, "mailboxes": list(mailboxes), "renew": renew, "limit": limit}
    return Query(_SQL["look"], values, _look)


def _look(found: Sequence[Row]) -> Look:
    mail = [Mail._make(row[:-1]) for row in found if row[0] is not None]
    return Look(mail, next(row[-1] for row in found if row[0] is None))


def empty(name: str) -> Query[int]:
    """Empty a mailbox; gives how many messages were removed."""
    return Query(_SQL["empty"], {"name": name}, count)


def count_mail(name: str) -> Query[int]:
    """How many messages are in a mailbox."""
    return Query(_SQL["count_mail"], {"name": name}, count)


def reply(mailbox: str, properties: bytes, body: bytes) -> Query[None]:
    """Put a reply into the mailbox of the program that sent the command."""
    return Query(_SQL["reply"], {"mailbox": mailbox, "properties": properties, "body": body}, nothing)


def sweep() -> Query[None]:
    """Delete mailboxes that nobody reads, and tasks acknowledged a week ago whose end was never reported."""
    return Query(_SQL["sweep"], {}, nothing)


def hand_in(message: Message, *, has_successors: bool, follows: bool, retries: int) -> Query[int]:
    """Add a task from a program of Celery; one that `follows` an attempt of its own takes that one's place.

    Gives 0 if nothing was changed: one that follows is to be sent once more then.
    """
    due: datetime | None = message.due
    values = {
        "id": message.id,
        "name": message.name,
        "queue": message.queue,
        "priority": message.priority,
        "due": due,
        "expires": message.expires,
        "root": message.root,
        "parent": message.parent,
        "task_id": message.task_id,
        "group_id": message.group_id,
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "options": message.options,
        "payload": message.payload,
        "has_successors": has_successors,
        "follows": follows,
        "retries": retries,
    }
    return Query(_SQL["hand_in"], values, count)


def acknowledge(worker: UUID, hostname: str, claims: Sequence[tuple[UUID, int]], state: str) -> Query[None]:
    """Take tasks, as ids and deliveries, out of a worker's hands; `state` is shown until they end."""
    return Query(
        _SQL["acknowledge"], {**_claims(worker, claims), "hostname": hostname, "state": state}, nothing
    )


def bring_back(worker: UUID, claims: Sequence[tuple[UUID, int]]) -> Query[int]:
    """Return tasks to their queue, uncharged; gives how many."""
    return Query(_SQL["bring_back"], _claims(worker, claims), count)


def _claims(worker: UUID, claims: Sequence[tuple[UUID, int]]) -> dict[str, Any]:
    return {
        "worker": worker,
        "ids": [each for each, _ in claims],
        "deliveries": [number for _, number in claims],
    }


def finish(task_id: UUID, state: str, retries: int, **row: Unpack[StateRow]) -> Query[Finished]:
    """Store the end of a task; of one that others wait for nothing is, and the claim to settle is given."""
    values = {
        "id": task_id,
        "state": state,
        "retries": retries,
        **dict.fromkeys(StateRow.__annotations__),
        **row,
    }
    return Query(_SQL["finish"], values, _finished)


def _finished(found: Sequence[Row]) -> Finished:
    return Finished._make(found[0][:-1])


def come_home(task_id: UUID) -> Query[None]:
    """Note that an acknowledged task has ended."""
    return Query(_SQL["come_home"], {"id": task_id}, nothing)
