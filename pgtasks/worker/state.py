"""Active, reserved and finished tasks of the workers in this process, under Celery's names.

Requests are looked up in the workers on demand; only counts, recent successes and revoked ids are kept here. This is
for remote control and monitoring: state that must not be lost is in the database.
"""

from __future__ import annotations

import platform
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any
from uuid import UUID

from pgtasks import __version__
from pgtasks.exceptions import WorkerShutdown, WorkerTerminate
from pgtasks.message import Outcome, id_of

__all__ = (
    "SOFTWARE_INFO",
    "active_requests",
    "all_total_count",
    "maybe_shutdown",
    "requests",
    "reserved_requests",
    "reset_state",
    "revoked",
    "revoked_stamps",
    "scheduled_requests",
    "should_stop",
    "should_terminate",
    "successful_requests",
    "total_count",
)

#: How many ids of successful and of revoked tasks are remembered.
SUCCESSFUL_MAX, REVOKES_MAX = 1000, 50_000

#: What events say of the software that sends them.
SOFTWARE_INFO = {"sw_ident": "py-celery", "sw_ver": __version__, "sw_sys": platform.system()}

#: Set by code of the project in the worker's parent process: an exit status, for a warm stop or a cold one.
should_stop: int | None = None
should_terminate: int | None = None

#: The workers that run in this process.
workers: weakref.WeakSet[Any] = weakref.WeakSet()


class _Requests(AbstractSet[Any]):
    """The requests that the workers of this process have at this moment."""

    def __init__(self, of: Callable[[Any], Iterable[Any]]) -> None:
        self._of = of

    def __iter__(self) -> Iterator[Any]:
        for worker in list(workers):
            yield from self._of(worker)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, request: object) -> bool:
        task_id = getattr(request, "id", None)
        return any(each.id == task_id for each in self)


class _Recent(AbstractSet[str]):
    """The ids of the last tasks of a kind."""

    def __init__(self, most: int) -> None:
        self._keys: deque[UUID] = deque(maxlen=most)

    def extend(self, keys: Iterable[UUID]) -> None:
        self._keys.extend(keys)

    def __iter__(self) -> Iterator[str]:
        return map(str, list(self._keys))

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, task_id: object) -> bool:
        return isinstance(task_id, str) and id_of(task_id) in self._keys

    def clear(self) -> None:
        self._keys.clear()


class _Revoked(dict[str, float]):
    """The ids that were revoked last, the oldest first, and when that was by the monotonic clock."""

    def update(self, ids: Iterable[str]) -> None:  # type: ignore[override]
        for task_id in ids:
            self.add(task_id)

    def add(self, task_id: str) -> None:
        self.pop(task_id, None)
        self[task_id] = time.monotonic()
        if len(self) > REVOKES_MAX:
            del self[next(iter(self))]

    def discard(self, task_id: str) -> None:
        self.pop(task_id, None)

    def as_dict(self) -> dict[str, float]:
        return dict(self)


active_requests = _Requests(lambda worker: worker.active_requests())
reserved_requests = _Requests(lambda worker: (*worker.active_requests(), *worker.reserved_requests()))
scheduled_requests = _Requests(lambda worker: worker.scheduled_requests())
successful_requests = _Recent(SUCCESSFUL_MAX)

#: How many tasks were received, by name and in all.
total_count: Counter[str] = Counter()
all_total_count = [0]

revoked = _Revoked()
#: Stamps that revoke the tasks which carry them, by header. Known to the workers that were running when it was asked.
revoked_stamps: dict[str, list[Any]] = {}


class _ById(dict[str, Any]):
    """Requests by their ids."""

    def __missing__(self, task_id: str) -> Any:
        for request in reserved_requests:
            if request.id == task_id:
                return request
        raise KeyError(task_id)


requests = _ById()


def note_received(names: Iterable[str]) -> None:
    """Count tasks that a worker has received."""
    for name in names:
        total_count[name] += 1
        all_total_count[0] += 1


def note_settled(outcomes: Iterable[Outcome]) -> None:
    """Remember which tasks have succeeded; to be called once their results can be read."""
    successful_requests.extend(o.id for o in outcomes if o.kind == "done" and o.state == "SUCCESS")


def maybe_shutdown() -> None:
    """Raise what stands for the stop that was asked for, once, with its exit status."""
    global should_stop, should_terminate
    cold, should_terminate = should_terminate, None
    warm, should_stop = should_stop, None
    if cold is not None and cold is not False:
        raise WorkerTerminate(cold)
    if warm is not None and warm is not False:
        raise WorkerShutdown(warm)


def reset_state() -> None:
    """Forget everything."""
    for memory in (successful_requests, total_count, revoked, revoked_stamps):
        memory.clear()
    all_total_count[0] = 0
