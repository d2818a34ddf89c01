"""A worker's monitoring events: about itself and, when enabled, about its tasks.

While nobody listens, no event is made or sent: the worker's tick, which runs anyway, says whether there are listeners.
Events are sent in batches, a few times a second at most.

`task-started` is sent within a second of the start, or at the end of the task if that is sooner; its timestamp is exact.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

from pgtasks.exceptions import OperationalError
from pgtasks.message import Claim, Outcome
from pgtasks.serialization import decode
from pgtasks.utils.saferepr import saferepr
from pgtasks.worker import state
from pgtasks.worker.request import Request

__all__ = ("Reporter",)

#: Seconds between two heartbeats, and two looks at what has started.
HEARTBEAT_S, LOOK_S = 2.0, 1.0
#: Seconds that events wait for others to be sent with, and for a database that was away.
GATHER_S, AWAY_S = 0.2, 2.0
#: The longest representation of a result, in characters, and the longest value that is decoded for one, in bytes.
MOST_SHOWN, MOST_DECODED = 1024, 100_000

#: How the error begins, in JSON, of a task that was rejected and is not to run again.
_REJECTION = b'{"exc_type": "Reject", '


class Seen(NamedTuple):
    """A task that was told of."""

    uuid: str
    has_started: bool


class Reporter:
    """Sends the events of one worker."""

    def __init__(self, worker: Any, *, sends_task_events: bool, heartbeat_s: float | None = HEARTBEAT_S) -> None:
        self._worker = worker
        self._heartbeat_s = heartbeat_s
        self._seen: dict[UUID, Seen] = {}
        self._beat_at = self._look_at = self._flush_at = 0.0
        #: How long tasks ran, by id, from when they ended until it is told.
        self.runtimes: dict[UUID, float] = {}
        self._times_always = False
        self.dispatcher = worker.app.events.Dispatcher(
            hostname=worker.hostname,
            enabled=False,
            groups={"worker", "task"} if sends_task_events else {"worker"},
            buffer_group={"worker", "task"},
            buffer_limit=500,
        )

    @property
    def tells_of_tasks(self) -> bool:
        return self.dispatcher.enabled and "task" in self.dispatcher.groups

    def start(self) -> None:
        """Send through the worker's own connection, which does not wait for a database that is away."""
        self.dispatcher.database = self._worker.consumer.database
        self._worker.consumer.event_dispatcher = self.dispatcher

    # -- who listens

    def listened(self, is_listened_to: bool) -> None:
        """Begin to send, or end, as somebody begins to listen or nobody does any more."""
        if is_listened_to and not self.dispatcher.enabled:
            self.dispatcher.enable()
            self._beat("worker-online")
        elif not is_listened_to and self.dispatcher.enabled:
            self.dispatcher.forget()
            self.dispatcher.disable()
        self._watch()

    def _watch(self) -> None:
        """Have the crew note how long tasks run, or no longer."""
        self._worker.crew.runtimes = self.runtimes if self.tells_of_tasks or self._times_always else None
        if not self.tells_of_tasks:
            self._seen.clear()
            self.runtimes.clear()

    def time_tasks(self) -> None:
        """Note how long tasks run even if nobody listens."""
        self._times_always = True
        self._watch()

    def heartbeat(self) -> None:
        """Send a heartbeat now, listened to or not."""
        self.listened(True)
        self._beat("worker-heartbeat")

    def _beat(self, type_: str) -> None:
        self._beat_at = time.monotonic() + (self._heartbeat_s or 1e9)
        self.dispatcher.send(
            type_,
            freq=self._heartbeat_s or HEARTBEAT_S,
            active=sum(began_at is not None for _, _, began_at in self._worker.crew.whereabouts()),
            processed=state.all_total_count[0],
            loadavg=[round(load, 2) for load in os.getloadavg()],
            **state.SOFTWARE_INFO,
        )

    # -- from time to time

    def mind(self, now: float) -> None:
        """Send what is due."""
        if not self.dispatcher.enabled:
            return
        if now >= self._beat_at:
            self._beat("worker-heartbeat")
        if now >= self._look_at and self.tells_of_tasks:
            self._look_at = now + LOOK_S
            self._tell_what_started()
        if now >= self._flush_at and self.dispatcher.has_buffered:
            self.dispatcher.flush()
            self._flush_at = now + (AWAY_S if self.dispatcher.has_buffered else GATHER_S)

    def next_at(self) -> float | None:
        """When, by the monotonic clock, there is something to do."""
        if not self.dispatcher.enabled:
            return None
        return self._flush_at if self.dispatcher.has_buffered else self._beat_at

    def stop(self) -> None:
        """Say goodbye."""
        if self.dispatcher.enabled:
            self._beat("worker-offline")
            with suppress(OperationalError):
                self.dispatcher.flush()

    # -- tasks

    def received(self, requests: Iterable[Request]) -> None:
        for request in requests:
            claim = request.claim
            if not self._is_told_of(claim):
                continue
            self._seen[claim.id] = Seen(request.id, has_started=False)
            self.dispatcher.send(
                "task-received",
                uuid=request.id,
                name=claim.name,
                args=request.argsrepr,
                kwargs=request.kwargsrepr,
                root_id=request.root_id,
                parent_id=request.parent_id,
                retries=claim.retries,
                eta=claim.due and claim.due.isoformat(),
                expires=claim.expires and claim.expires.isoformat(),
            )

    def _is_told_of(self, claim: Claim) -> bool:
        task = self._worker.app.tasks.get(claim.name)
        return task is None or bool(task.send_events)

    def _tell_what_started(self) -> None:
        for claim, _, began_at in self._worker.crew.whereabouts():
            seen = self._seen.get(claim.id)
            if began_at is not None and seen is not None and not seen.has_started:
                self._started(claim.id, seen, time.time() - (time.monotonic() - began_at))

    def _started(self, key: UUID, seen: Seen, at: float) -> None:
        self._seen[key] = seen._replace(has_started=True)
        self.dispatcher.send("task-started", uuid=seen.uuid, timestamp=at)

    def settled(self, outcomes: Iterable[Outcome]) -> None:
        """Send the events of ended tasks, once their results are stored."""
        for outcome in outcomes:
            seen = self._seen.pop(outcome.id, None)
            runtime = self.runtimes.pop(outcome.id, 0.0)
            if seen is None:
                continue
            # What goes back unbegun, as when a worker stops, is nothing to tell of; what a task has rejected is.
            is_by_state = outcome.kind == "done" or (outcome.kind == "back" and outcome.state == "REJECTED")
            tell = _TELLERS.get(outcome.state if is_by_state else outcome.kind)
            if tell is None:
                continue
            if not seen.has_started and outcome.state != "REVOKED":
                self._started(outcome.id, seen, time.time() - runtime)
                del self._seen[outcome.id]
            type_, fields = tell(outcome, runtime)
            self.dispatcher.send(type_, uuid=seen.uuid, **fields)


def _succeeded(outcome: Outcome, runtime: float) -> tuple[str, dict[str, Any]]:
    return "task-succeeded", {"result": _shown(outcome), "runtime": runtime}


def _failed(outcome: Outcome, runtime: float) -> tuple[str, dict[str, Any]]:
    if (outcome.value or b"").startswith(_REJECTION):
        return "task-rejected", {"requeue": False}
    return "task-failed", {"exception": _shown(outcome), "traceback": traceback_text(outcome.traceback)}


def _rejected(outcome: Outcome, runtime: float) -> tuple[str, dict[str, Any]]:
    return "task-rejected", {"requeue": True}


def _retried(outcome: Outcome, runtime: float) -> tuple[str, dict[str, Any]]:
    return "task-retried", {"exception": _shown(outcome), "traceback": traceback_text(outcome.traceback)}


def _revoked(outcome: Outcome, runtime: float) -> tuple[str, dict[str, Any]]:
    why = _shown(outcome)
    return "task-revoked", {"terminated": "terminated" in why, "signum": None, "expired": "expired" in why}


_TELLERS: dict[str, Callable[[Outcome, float], tuple[str, dict[str, Any]]]] = {
    "SUCCESS": _succeeded,
    "FAILURE": _failed,
    "REJECTED": _rejected,
    "REVOKED": _revoked,
    "again": _retried,
}


def _shown(outcome: Outcome) -> str:
    """A result or an exception as text, as Celery shows it. Nothing is made of it but basic values."""
    value = outcome.value
    if value is None:
        return "None"
    if len(value) > MOST_DECODED:
        return f"{value[:MOST_SHOWN].decode(errors='replace')}..."
    try:
        plain = decode(value, outcome.content_type, outcome.content_encoding, {"application/json"})
    except Exception:  # another serializer's, whose types this process need not know
        return f"<{outcome.content_type}, {len(value)} bytes>"
    if isinstance(plain, dict) and "exc_type" in plain and outcome.state != "SUCCESS":
        message = plain.get("exc_message")
        parts = message if isinstance(message, list | tuple) else [message]
        return saferepr_call(str(plain["exc_type"]), parts)
    return saferepr(plain, MOST_SHOWN)


def saferepr_call(name: str, arguments: Iterable[Any]) -> str:
    return f"{name}({', '.join(saferepr(each, MOST_SHOWN) for each in arguments)})"


def traceback_text(traceback: bytes | None) -> str | None:
    """A stored traceback as text."""
    if traceback is None:
        return None
    text = traceback.decode(errors="replace")
    # Stored as a JSON string.
    with suppress(ValueError):
        loaded = json.loads(text)
        return loaded if isinstance(loaded, str) else text
    return text
