"""What programs of Celery publish for all workers, passed on to ours: letters to workers, and events.

    a letter to celery.pidbox -> a row for each of our workers it is for; the reply goes to the caller's mailbox
    an event to celeryev      -> everybody who listens to events

Workers of Celery that consume through the transport have mailboxes bound to the same exchanges.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from kombu.matcher import match

from pgtasks.app.control import revoke
from pgtasks.kombu.conversion import Parcel, unpacked
from pgtasks.platforms import signal_name
from pgtasks.serialization import JSON, encode
from pgtasks.store import events, fleet, letters, mail
from pgtasks.store.database import Database
from pgtasks.utils.log import get_logger

__all__ = (
    "LONGEST_LETTER", "carries_events", "carries_letters", "forward_events", "forward_letter", "hears_tasks", "is_for",
    "reply_mailbox",
)  # fmt: skip

logger = get_logger("pgtasks.kombu")

#: Bytes. A letter is a command: what is larger is a mistake, and would lie in every worker's mailbox.
LONGEST_LETTER = 16 * 1024 * 1024


def carries_letters(exchange: str) -> bool:
    """Is it an exchange that Celery's programs send commands to workers by?"""
    return exchange.endswith(".pidbox") and not exchange.startswith("reply.")


def carries_events(exchange: str) -> bool:
    """Is it an exchange of monitoring events?"""
    return exchange == "celeryev" or exchange.startswith("celeryev.")


def hears_tasks(routing_key: str) -> bool:
    """Does such a binding want more than events about workers, which Celery's workers tell each other?"""
    return not routing_key.startswith("worker.")


def forward_letter(database: Database, parcel: Parcel) -> None:
    """Pass a letter on to those of our workers that it is for; one that cannot be read is logged."""
    try:
        letter = unpacked(parcel)
        command, arguments = letter["method"], letter.get("arguments") or {}
        if not isinstance(command, str) or not isinstance(arguments, Mapping):
            raise ValueError(f"method is {command!r} and arguments are {arguments!r}")
    except Exception as error:
        logger.warning(
            "A letter of %d bytes (%s) to %s cannot be read, so no worker of pgtasks gets it: %r."
            " Letters are mappings with a method and arguments, as JSON.",
            len(parcel.body), parcel.content_type, parcel.exchange, error,
        )  # fmt: skip
        return
    if command in ("revoke", "terminate"):
        _revoke(database, arguments, is_killing=command == "terminate")
    hostnames = _addressees(database, letter)
    if hostnames is None or hostnames:
        database.run(letters.post(_letter(database, parcel, letter, arguments), hostnames, _lasts_s(parcel)))


def _letter(
    database: Database, parcel: Parcel, letter: Mapping[str, Any], arguments: Mapping[str, Any]
) -> letters.Letter:
    clock, mailbox = parcel.headers.get("clock"), reply_mailbox(database, letter)
    body = encode(dict(arguments), "json")
    return letters.Letter(
        None, clock if isinstance(clock, int) else 0, letter["method"], *body,
        reply_mailbox=mailbox, reply_ticket=letter["ticket"] if mailbox else None,
    )  # fmt: skip


def reply_mailbox(database: Database, letter: Mapping[str, Any]) -> str | None:
    """The mailbox in which the answer to a letter is wanted, by the ticket that it names; None if none is, or it is gone."""
    reply_to = letter.get("reply_to")
    if not isinstance(reply_to, Mapping) or not isinstance(letter.get("ticket"), str):
        return None
    return database.run(mail.find_mailbox(str(reply_to.get("exchange")), str(reply_to.get("routing_key"))))


def _lasts_s(parcel: Parcel) -> float | None:
    expires = parcel.headers.get("expires")
    return max(expires - time.time(), 0.0) if isinstance(expires, int | float) and expires else None


def _addressees(database: Database, letter: Mapping[str, Any]) -> list[str] | None:
    """The names of the workers that a letter is for; None for all."""
    destination = letter.get("destination")
    if destination:
        return (
            [str(name) for name in destination]
            if isinstance(destination, list | tuple)
            else [str(destination)]
        )
    if not _has_pattern(letter):
        return None
    return [row[0] for row in database.run(fleet.workers()) if is_for(row[0], letter)]


def is_for(name: str, letter: Mapping[str, Any]) -> bool:
    """Is a letter for the node of this name?"""
    destination = letter.get("destination")
    if destination:
        return name in (destination if isinstance(destination, list | tuple) else [destination])
    return not _has_pattern(letter) or bool(match(name, letter["pattern"], letter["matcher"]))  # type: ignore[arg-type]


def _has_pattern(letter: Mapping[str, Any]) -> bool:
    return isinstance(letter.get("pattern"), str) and isinstance(letter.get("matcher"), str)


def _revoke(database: Database, arguments: Mapping[str, Any], *, is_killing: bool) -> None:
    """A revocation holds for the tasks, whichever worker they are with, and whether or not any is there."""
    ids = arguments.get("task_id") or ()
    ids = [ids] if isinstance(ids, str) else [str(each) for each in ids]
    is_killing = is_killing or bool(arguments.get("terminate"))
    with suppress(ValueError):  # an unknown signal ends nothing, and the workers' replies say so
        revoke(database, ids, signal_name(arguments.get("signal") or "SIGTERM") if is_killing else "")


def forward_events(database: Database, parcel: Parcel) -> int:
    """Pass events on to everybody who listens; gives how many do."""
    body, is_plain = parcel.body, parcel.content_type == JSON and "compression" not in parcel.headers
    if not is_plain:
        try:
            told = unpacked(parcel)
        except Exception as error:
            logger.warning(
                "An event of %d bytes (%s) cannot be read: %r", len(body), parcel.content_type, error
            )
            return 0
        body = encode(told if isinstance(told, list) else [told], "json").body
    elif not body.lstrip().startswith(b"["):
        # Ours come many at a time.
        body = b"[" + body + b"]"
    return database.run(events.publish(events.Batch(JSON, "utf-8", body)))
