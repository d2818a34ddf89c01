"""A worker and a task, as far as their events tell."""

from __future__ import annotations

import bisect
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from weakref import WeakSet

from pgtasks import states

__all__ = (
    "HEARTBEAT_DRIFT_MAX",
    "HEARTBEAT_EXPIRE_WINDOW",
    "TASK_EVENT_TO_STATE",
    "Task",
    "Worker",
    "heartbeat_expires",
)

logger = logging.getLogger("celery.events.state")

#: A worker is alive for this share, in percent, of the time between two heartbeats.
HEARTBEAT_EXPIRE_WINDOW = 200
#: Seconds that a worker's clock may differ from ours before somebody is told.
HEARTBEAT_DRIFT_MAX = 16

#: What the last word of a task event's type means for the task's state; other words are states themselves.
TASK_EVENT_TO_STATE = {
    "sent": states.PENDING,
    "received": states.RECEIVED,
    "started": states.STARTED,
    "failed": states.FAILURE,
    "retried": states.RETRY,
    "succeeded": states.SUCCESS,
    "revoked": states.REVOKED,
    "rejected": states.REJECTED,
}

_drifting: set[str | None] = set()


def heartbeat_expires(timestamp: Any, freq: Any = 60, expire_window: float = HEARTBEAT_EXPIRE_WINDOW) -> float:
    """When a worker whose last heartbeat was at `timestamp`, and who sends one every `freq` seconds, counts as gone."""
    return float(timestamp) + float(freq) * expire_window / 100


class Worker:
    """A worker, as far as its events tell."""

    heartbeat_max = 4
    expire_window = HEARTBEAT_EXPIRE_WINDOW

    _fields = (
        *("hostname", "pid", "freq", "heartbeats", "clock", "active", "processed", "loadavg"),
        *("sw_ident", "sw_ver", "sw_sys"),
    )

    def __init__(
        self,
        hostname: str | None = None,
        pid: int | None = None,
        freq: float = 60,
        heartbeats: list[float] | None = None,
        clock: int = 0,
        active: int | None = None,
        processed: int | None = None,
        loadavg: Any = None,
        sw_ident: str | None = None,
        sw_ver: str | None = None,
        sw_sys: str | None = None,
    ) -> None:
        self.hostname, self.pid = hostname, pid
        self.freq = freq
        self.heartbeats = [] if heartbeats is None else heartbeats
        self.clock = clock or 0
        self.active, self.processed, self.loadavg = active, processed, loadavg
        self.sw_ident, self.sw_ver, self.sw_sys = sw_ident, sw_ver, sw_sys

    def event(
        self,
        type_: str | None,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in one event; each but `offline` is a sign of life."""
        self.update(fields or {})
        if type_ == "offline":
            self.heartbeats.clear()
        elif local_received and timestamp:
            self._look_at_the_clock(timestamp, local_received)
            del self.heartbeats[: max(0, len(self.heartbeats) - self.heartbeat_max + 1)]
            bisect.insort(self.heartbeats, local_received)

    def _look_at_the_clock(self, timestamp: float, local_received: float) -> None:
        drift = abs(int(local_received) - int(timestamp))
        if drift > HEARTBEAT_DRIFT_MAX and self.hostname not in _drifting:
            _drifting.add(self.hostname)
            logger.warning(
                "The clock of %s seems to be %s s off: received %s, sent %s. Is its time zone or its clock wrong?",
                self.hostname, drift, datetime.fromtimestamp(local_received), datetime.fromtimestamp(timestamp),
            )  # fmt: skip

    def update(self, fields: Mapping[str, Any], **more: Any) -> None:
        vars(self).update({**fields, **more})

    @property
    def heartbeat_expires(self) -> float:
        return heartbeat_expires(self.heartbeats[-1], self.freq, self.expire_window)

    @property
    def alive(self) -> bool:
        return bool(self.heartbeats) and time.time() < self.heartbeat_expires

    @property
    def status_string(self) -> str:
        return "ONLINE" if self.alive else "OFFLINE"

    @property
    def id(self) -> str:
        return f"{self.hostname}.{self.pid}"

    def __eq__(self, other: object) -> bool:
        return self.hostname == other.hostname if isinstance(other, Worker) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hostname)

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, field) for field in self._fields)

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname} ({self.status_string} clock:{self.clock})"


class Task:
    """A task, as far as its events tell; what they have not told is None."""

    _fields = (
        *("uuid", "name", "state", "received", "sent", "started", "rejected", "succeeded", "failed", "retried"),
        *("revoked", "args", "kwargs", "eta", "expires", "retries", "worker", "result", "exception", "timestamp"),
        *("runtime", "traceback", "exchange", "routing_key", "clock", "client", "root", "root_id", "parent"),
        *("parent_id", "children"),
    )
    #: What `info` tells.
    _info_fields = (
        *("args", "kwargs", "retries", "result", "eta", "runtime", "expires", "exception", "exchange", "routing_key"),
        *("root_id", "parent_id"),
    )
    #: What an event that comes late may still say of a task whose state is further on.
    merge_rules: Mapping[str, Sequence[str]] = {
        states.RECEIVED: ("name", "args", "kwargs", "parent_id", "root_id", "retries", "eta", "expires")
    }

    name = received = sent = started = succeeded = failed = retried = revoked = rejected = None
    args = kwargs = eta = expires = retries = worker = result = exception = timestamp = runtime = None
    traceback = exchange = routing_key = root_id = parent_id = client = None
    state: Any = states.PENDING
    clock: Any = 0

    def __init__(
        self, uuid: str | None = None, cluster_state: Any = None, children: Sequence[str] | None = None, **fields: Any
    ) -> None:
        self.uuid = uuid
        self.cluster_state = cluster_state
        known = cluster_state.tasks if cluster_state is not None else {}
        self.children: WeakSet[Task] = WeakSet(known[each] for each in children or () if each in known)
        vars(self).update({name: value for name, value in fields.items() if name not in ("root", "parent")})

    def event(
        self,
        type_: str,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in one event, the last word of whose type is `type_`."""
        told = dict(fields or {})
        state = TASK_EVENT_TO_STATE.get(type_)
        if state is None:
            state = type_.upper()
        else:
            setattr(self, type_, timestamp)
        is_late = states.RETRY not in (state, self.state) and states.precedence(state) > states.precedence(self.state)
        if not is_late:
            told.update(state=state, timestamp=timestamp)
        elif state in self.merge_rules:
            told = {name: value for name, value in told.items() if name in self.merge_rules[state]}
        vars(self).update(told)

    def info(self, fields: Sequence[str] | None = None, extra: Sequence[str] = ()) -> dict[str, Any]:
        """What people want to know of it."""
        names = [*(self._info_fields if fields is None else fields), *extra]
        return {name: value for name in names if (value := getattr(self, name, None)) is not None}

    def as_dict(self) -> dict[str, Any]:
        told = {name: getattr(self, name, None) for name in self._fields}
        return {
            **told,
            "children": [child.uuid for child in self.children],
            "root": self.root_id,
            "parent": self.parent_id,
        }

    @property
    def id(self) -> str | None:
        return self.uuid

    @property
    def origin(self) -> Any:
        return self.client if self.worker is None else self.worker.id

    @property
    def ready(self) -> bool:
        return self.state in states.READY_STATES

    @property
    def parent(self) -> Any:
        return self._known(self.parent_id)

    @property
    def root(self) -> Any:
        return self._known(self.root_id)

    def _known(self, uuid: str | None) -> Any:
        # Not by the cache's own look-up, which would make it a task that was used lately.
        return uuid and self.cluster_state.tasks.data.get(uuid) if self.cluster_state is not None else None

    def __eq__(self, other: object) -> bool:
        return self.uuid == other.uuid if isinstance(other, Task) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.uuid)

    def __reduce__(self) -> Any:
        return _task_again, (type(self), self.as_dict())

    def __repr__(self) -> str:
        return f"<Task: {self.name}({self.uuid}) {self.state} clock:{self.clock}>"


def _task_again(cls: type[Task], fields: dict[str, Any]) -> Task:
    return cls(**fields)
