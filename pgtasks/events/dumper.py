"""Prints events as they come, a line each."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from kombu.utils.functional import LRUCache

from pgtasks._state import get_current_app
from pgtasks.events.receiver import forgiving

__all__ = ("Dumper", "evdump", "humanize_type")

_HUMAN_TYPES = {"worker-offline": "shutdown", "worker-online": "started", "worker-heartbeat": "heartbeat"}


def humanize_type(type: str) -> str:
    """Say an event's type in words."""
    return _HUMAN_TYPES.get(type.lower(), type.lower().replace("-", " "))


class Dumper:
    """Prints events to `out`."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self._calls = LRUCache(limit=4095)

    def say(self, text: str) -> None:
        print(text, file=self.out, flush=True)

    def on_event(self, event: dict[str, Any]) -> None:
        """Print one event. Of a task, its call is shown with each event once it is known."""
        fields = dict(event)
        at = datetime.fromtimestamp(fields.pop("timestamp"), UTC)
        type_, hostname = fields.pop("type").lower(), fields.pop("hostname")
        if type_.startswith("task-"):
            uuid = fields.pop("uuid")
            if type_ in ("task-received", "task-sent"):
                name, args, kwargs = (fields.pop(field, None) for field in ("name", "args", "kwargs"))
                self._calls[uuid] = f"{name}({uuid}) args={args} kwargs={kwargs}"
            self.format_task_event(hostname, at, type_, self._calls.get(uuid) or uuid, fields)
        else:
            self._say_event(f"{hostname} [{at}] {humanize_type(type_)}", "", fields)

    def format_task_event(self, hostname: str, timestamp: Any, type: str, task: str, event: dict[str, Any]) -> None:
        """Print an event of a task, which is given as words; subclasses may do so in a form of their own."""
        self._say_event(f"{hostname} [{timestamp}] {humanize_type(type)}", f" {task}", event)

    def _say_event(self, what: str, task: str, event: dict[str, Any]) -> None:
        rest = ", ".join(f"{name}={event[name]}" for name in sorted(event))
        self.say(f"{what}{':' if rest else ''}{task} {rest}")


def evdump(app: Any = None, out: TextIO | None = None) -> None:
    """Print events until interrupted."""
    app = app or get_current_app()
    dumper = Dumper(out)
    dumper.say("-> evdump: starting capture...")
    app.events.Receiver(handlers={"*": forgiving(dumper.on_event)}).capture()
