"""Commands to workers of Celery on the same database: they read them from mailboxes, as kombu writes them.

Their mailboxes say which of them live, so whoever asks waits for those and for no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kombu.matcher import match

from pgtasks.store import mail

__all__ = ("ask", "nodes")

_NAMESPACE = "celery"


def nodes(app: Any, destination: Sequence[str] | None, pattern: str | None, matcher: str | None) -> list[str]:
    """The names of the live workers of Celery that are meant."""
    found: list[str] = app.database.run(mail.nodes(f"{_NAMESPACE}.pidbox"))
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
