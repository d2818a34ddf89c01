"""Flower's page *Broker*, for the transport: one line in `flowerconfig.py`, which Flower runs when it starts.

    from pgtasks.contrib import flower

Flower chooses a class for the page by the scheme of the broker's URL, knows those of RabbitMQ and Redis, and cannot be told
of others. Importing this module adds one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from flower.utils.broker import Broker

from pgtasks.store import overview
from pgtasks.store.database import Database
from pgtasks.store.url import as_conninfo

__all__ = ("PostgresBroker",)

_SCHEME = "pgtasks+"


class PostgresBroker:
    """What Flower asks a broker."""

    def __init__(self, broker_url: str, *args: Any, **kwargs: Any) -> None:
        self._database = Database(as_conninfo(broker_url.removeprefix(_SCHEME)) or "")

    async def queues(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of the page."""
        try:
            found = await asyncio.to_thread(self._database.run, overview.traffic(names))
        finally:
            self._database.close()
        return [
            {
                "name": each.queue,
                "messages": each.ready + each.scheduled + each.claimed,
                "messages_ready": each.ready,
                "messages_unacknowledged": each.claimed,
                "consumers": each.consumers,
            }
            for each in found
        ]


def _choose(cls: type, broker_url: str, *args: Any, **kwargs: Any) -> Any:
    if broker_url.startswith(_SCHEME):
        return PostgresBroker(broker_url)
    return _theirs(cls, broker_url, *args, **kwargs)


_theirs = Broker.__new__
Broker.__new__ = _choose
