"""An event: a dictionary with a type, `task-received` or `worker-online`, and a timestamp."""

from __future__ import annotations

import time
from typing import Any

from kombu.entity import Exchange

__all__ = ("Event", "event_exchange", "get_exchange", "group_from")

#: What events are published to where there are exchanges; programs that speak with Celery's ask for it.
event_exchange = Exchange("celeryev", type="topic")


def Event(type: str, _fields: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Make an event; one without a timestamp is of now."""
    event = {**(_fields or {}), **fields, "type": type}
    event.setdefault("timestamp", time.time())
    return event


def group_from(type: str) -> str:
    """The group that an event's type belongs to: "task" of "task-sent"."""
    return type.partition("-")[0]


def get_exchange(conn: Any, name: str = "celeryev") -> Exchange:
    return Exchange(name, type="topic")
