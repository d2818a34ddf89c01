"""Commands to workers of Celery on the same database: they read them from mailboxes, as kombu writes them.

Their mailboxes say which of them live, so whoever asks waits for those and for no others. Schedulers that answer remote
control have mailboxes too, which say that they know `ping` only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kombu.matcher import match

from pgtasks.serialization import encode
from pgtasks.store import mail
from pgtasks.store.sql import Query

__all__ = ("EXCHANGE", "ask", "nodes", "reply")

_NAMESPACE = "celery"
#: By which letters are sent to whoever has bound a mailbox to it.
EXCHANGE = f"{_NAMESPACE}.pidbox"


def nodes(
    app: Any, command: str, destination: Sequence[str] | None, pattern: str | None, matcher: str | None
) -> list[str]:
    """The names of the live nodes that know a command, limited to those that `destination` or `pattern` choose.

    An empty command stands for nodes that know every command: workers.
    """
    found: list[str] = app.database.run(mail.nodes(EXCHANGE, command))
    if destination:
        return [name for name in found if name in destination]
    if not (pattern and matcher):
        return found
    return [name for name in found if match(name, pattern, matcher)]  # type: ignore[arg-type]


def ask(
    app: Any,
    names: Sequence[str],
    command: str,
    arguments: Mapping[str, Any],
    timeout: float | None = None,
    limit: int | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    *,
    reply: bool = True,
) -> list[dict[str, Any]]:
    """Give these workers a command; gives what up to `limit` of them answer, each within `timeout` seconds of the last."""
    most = len(names) if limit is None else min(limit, len(names))
    if most <= 0:
        return []
    # Slow, and only for a fleet of both kinds.
    from kombu.connection import Connection
    from kombu.pidbox import Mailbox

    conf = app.conf
    mailbox = Mailbox(_NAMESPACE, type="fanout", accept=conf.accept_content, serializer=conf.task_serializer)
    with Connection(f"pgtasks+{app.database_url}") as connection:
        replies = mailbox(connection)._broadcast(
            command, dict(arguments), list(names), reply, timeout, limit=most, callback=callback
        )
    return list(replies or ())


def reply(mailbox: str, ticket: str | None, answer: Mapping[str, Any], clock: int) -> Query[None]:
    """Answer a program of Celery, `{hostname: answer}`: as JSON, for it may read nothing else. Raises EncodeError."""
    encoded = encode(dict(answer), "json")
    properties = {
        "content_type": encoded.content_type,
        "content_encoding": encoded.content_encoding,
        "headers": {"ticket": ticket, "clock": clock},
        "properties": {},
    }
    return mail.reply(mailbox, json.dumps(properties).encode(), encoded.body)
