"""Verbs on letters: commands to workers, and their replies.

    post -> (a worker) take -> answer -> collect

The statements, with what they rely on, are in `letters.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from pgtasks.store.sql import Query, Row, column, load, nothing

_SQL = load("letters")


class Letter(NamedTuple):
    """A command to a worker; `ticket` names the reply that is wanted, if one is.

    One from a program of Celery says in which mailbox, and for which ticket of its own, the reply is wanted.
    """

    ticket: UUID | None
    clock: int
    command: str
    content_type: str | None
    content_encoding: str | None
    arguments: bytes
    reply_mailbox: str | None = None
    reply_ticket: str | None = None


class Reply(NamedTuple):
    """What a worker answered."""

    hostname: str
    clock: int
    content_type: str | None
    content_encoding: str | None
    body: bytes


def post(letter: Letter, hostnames: Sequence[str] | None = None, expires_in_s: float | None = None) -> Query[list[str]]:
    """Leave a letter for all live workers, or those of some names; gives the names of those it is for."""
    values: dict[str, Any] = {
        **letter._asdict(),
        "hostnames": None if hostnames is None else list(hostnames),
        "expires_in": expires_in_s,
    }
    return Query(_SQL["post"], values, column)


def take(worker: UUID) -> Query[list[Letter]]:
    """Take a worker's letters, the oldest first."""
    return Query(_SQL["take"], {"worker": worker}, _letters)


def _letters(found: Sequence[Row]) -> list[Letter]:
    return [Letter._make(row) for row in found]


def answer(ticket: UUID, reply: Reply) -> Query[None]:
    """Leave a reply for the holder of the ticket."""
    return Query(_SQL["answer"], {"ticket": ticket, **reply._asdict()}, nothing)


def collect(ticket: UUID) -> Query[list[Reply]]:
    """Take the replies that have come so far."""
    return Query(_SQL["collect"], {"ticket": ticket}, _replies)


def _replies(found: Sequence[Row]) -> list[Reply]:
    return [Reply._make(row) for row in found]


def sweep() -> Query[None]:
    """Remove replies that came too late and letters to workers that are gone."""
    return Query(_SQL["sweep"], {}, nothing)
