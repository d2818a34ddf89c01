"""`app.events`: send, receive and aggregate monitoring events."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from pgtasks import signals
from pgtasks.exceptions import OperationalError
from pgtasks.utils.log import get_logger

__all__ = ("Events",)

logger = get_logger("celery.events")

#: Seconds for which it is taken for granted that nobody listens, when nobody did.
UNHEARD_S = 1.0


class Events:
    """The classes for events, bound to an app."""

    receiver_cls: Any = "pgtasks.events.receiver:EventReceiver"
    dispatcher_cls: Any = "pgtasks.events.dispatcher:EventDispatcher"
    state_cls: Any = "pgtasks.events.state:State"

    def __init__(self, app: Any = None) -> None:
        self.app = app

    @cached_property
    def Receiver(self) -> Any:
        return self.app.subclass_with_self(self.receiver_cls, reverse="events.Receiver")

    @cached_property
    def Dispatcher(self) -> Any:
        return self.app.subclass_with_self(self.dispatcher_cls, reverse="events.Dispatcher")

    @cached_property
    def State(self) -> Any:
        return self.app.subclass_with_self(self.state_cls, reverse="events.State")

    @contextmanager
    def default_dispatcher(
        self, hostname: str | None = None, enabled: bool = True, buffer_while_offline: bool = False
    ) -> Iterator[Any]:
        """A dispatcher for the moment, of this process."""
        with self.Dispatcher(
            hostname=hostname, enabled=enabled, buffer_while_offline=buffer_while_offline
        ) as dispatcher:
            yield dispatcher

    # -- what callers tell

    _unheard_until = 0.0

    def tell_of_calls(self) -> None:
        """Send `task-sent` for every call of this process from now on, while somebody listens."""
        signals.after_task_publish.connect(self._called)

    def _called(self, sender: str, headers: Mapping[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> None:
        if time.monotonic() < self._unheard_until:
            return
        fields = {name: headers.get(name) for name in ("retries", "eta", "expires", "root_id", "parent_id")}
        try:
            heard = self._calls.publish(
                "task-sent",
                {
                    "uuid": headers["id"],
                    "name": sender,
                    "args": headers.get("argsrepr"),
                    "kwargs": headers.get("kwargsrepr"),
                    "queue": routing_key,
                    "exchange": exchange,
                    "routing_key": routing_key,
                    **fields,
                },
                blind=True,
            )
        except OperationalError as error:
            logger.warning("The event that %s was sent is lost: %s", sender, error)
            return
        if not heard:
            self._unheard_until = time.monotonic() + UNHEARD_S

    @cached_property
    def _calls(self) -> Any:
        return self.Dispatcher(enabled=False, buffer_while_offline=False)
