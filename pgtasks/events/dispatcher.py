"""Sends events to all listeners.

    send -> buffer, for groups that are sent together -> flush -> a row per listener

While nobody listens a batch is one statement that keeps nothing; a worker does not even make the events then.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Self

from pgtasks._state import get_current_app
from pgtasks.events.event import Event, group_from
from pgtasks.exceptions import OperationalError
from pgtasks.serialization import encode
from pgtasks.store import events
from pgtasks.utils.nodenames import anon_nodename
from pgtasks.utils.time import utcoffset

__all__ = ("EventDispatcher",)

#: Most events that are kept while the database does not answer.
MOST_KEPT = 10_000


class EventDispatcher:
    """Sends events in the name of a node. `groups`, if there are any, are those that are sent at all.

    `buffer_group` are groups whose events wait for `flush`, or for `buffer_limit` of them. `connection` and `channel` are
    accepted and not needed.
    """

    app: Any = None
    #: Where events are sent to; default: the app's.
    database: Any = None

    def __init__(
        self,
        connection: Any = None,
        hostname: str | None = None,
        enabled: bool = True,
        channel: Any = None,
        buffer_while_offline: bool = True,
        app: Any = None,
        serializer: str | None = None,
        groups: Iterable[str] | None = None,
        delivery_mode: int = 1,
        buffer_group: Iterable[str] | None = None,
        buffer_limit: int = 24,
        on_send_buffered: Callable[[], Any] | None = None,
    ) -> None:
        self.app = app or self.app or get_current_app()
        self.connection, self.channel = connection, channel
        self.hostname = hostname or anon_nodename()
        self.enabled = False
        self.buffer_while_offline = buffer_while_offline
        self.serializer = serializer or self.app.conf.event_serializer
        self.groups = set(groups or ())
        self.buffer_group = frozenset(buffer_group or ())
        self.buffer_limit = buffer_limit
        self.on_send_buffered = on_send_buffered
        self.on_enabled: set[Callable[[], Any]] = set()
        self.on_disabled: set[Callable[[], Any]] = set()
        self.clock = self.app.clock
        self.pid = os.getpid()
        self.mutex = threading.Lock()
        self._buffers: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._unsent: list[dict[str, Any]] = []
        if enabled:
            self.enable()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def enable(self) -> None:
        self.enabled = True
        for callback in self.on_enabled:
            callback()

    def disable(self) -> None:
        if self.enabled:
            self.close()
            for callback in self.on_disabled:
                callback()

    def send(
        self, type: str, blind: bool = False, retry: bool = False, retry_policy: Any = None, **fields: Any
    ) -> None:
        """Send an event, or put it with those that are sent together; nothing while disabled."""
        group = group_from(type)
        if not self.enabled or (self.groups and group not in self.groups):
            return
        event = self._event(type, fields, blind)
        if group not in self.buffer_group:
            self._publish([event])
            return
        buffer = self._buffers[group]
        buffer.append(event)
        if len(buffer) >= self.buffer_limit:
            self.flush()
        elif self.on_send_buffered:
            self.on_send_buffered()

    def publish(
        self, type: str, fields: dict[str, Any], producer: Any = None, blind: bool = False, **kwargs: Any
    ) -> int:
        """Send an event whatever is enabled; gives how many listen."""
        return self._publish([self._event(type, fields, blind)])

    def _event(self, type: str, fields: dict[str, Any], blind: bool) -> dict[str, Any]:
        clock = None if blind else self.clock.forward()
        return Event(
            type, {"hostname": self.hostname, "utcoffset": utcoffset(), "pid": self.pid, "clock": clock, **fields}
        )

    def _publish(self, batch: list[dict[str, Any]]) -> int:
        try:
            heard: int = (self.database or self.app.database).run(
                events.publish(events.Batch(*encode(batch, self.serializer)))
            )
            return heard
        except OperationalError:
            if not self.buffer_while_offline:
                raise
            self._unsent = [*self._unsent, *batch][-MOST_KEPT:]
            return 0

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        """Send what waits: `errors`, what could not be sent; `groups`, what is sent together."""
        batch: list[dict[str, Any]] = []
        with self.mutex:
            if errors:
                batch, self._unsent = self._unsent, []
            if groups:
                for buffer in self._buffers.values():
                    batch.extend(buffer)
                    buffer.clear()
        if batch and self.enabled:
            self._publish(batch)

    @property
    def has_buffered(self) -> bool:
        return bool(self._unsent) or any(self._buffers.values())

    def forget(self) -> None:
        """Throw away what waits: nobody listens."""
        with self.mutex:
            self._unsent.clear()
            self._buffers.clear()

    def extend_buffer(self, other: EventDispatcher) -> None:
        self._unsent.extend(other._unsent)

    def close(self) -> None:
        self.flush()
        self.enabled = False
