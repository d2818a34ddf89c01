"""Waiting for tasks to end, implemented once for threads and coroutines.

A `Plan` (see `utils/plans.py`) yields a `Query` to run or a `Wait` to sit out. The backend carries plans out with its
sync or its async executor. A `Watch` says what somebody waits for, how long, and whom to tell meanwhile:

    look at all of them -> those that ended arrive
    none left: done -> time is up: TimeoutError -> wait until one ends -> look at that one -> ...
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

from pgtasks.exceptions import TimeoutError
from pgtasks.joining import Meta
from pgtasks.message import id_of, made_at
from pgtasks.store.results import Stored
from pgtasks.store.sql import Query

T = TypeVar("T")
#: A task whose id was made less than this many seconds ago is waited for at once, without a first look at its result.
NEWBORN_S = 0.01
_EPOCH = datetime.fromtimestamp(0, UTC)


class Wait(NamedTuple):
    """Wait until some of these tasks have ended, or `timeout_s` seconds; the answer is which have, as `Ended`."""

    keys: Collection[UUID]
    timeout_s: float | None


Plan: TypeAlias = Generator[Query[Any] | Wait, Any, T]


def meeting(run: Callable[[Query[Any]], Any], wait: Callable[..., Any]) -> Callable[[Query[Any] | Wait], Any]:
    """Make the function that carries out what a plan yields: queries by `run`, waits by `wait`; both block or both await."""
    return lambda need: wait(*need) if isinstance(need, Wait) else run(need)


class Watch:
    """The tasks that somebody waits for, by key and by the id their user knows."""

    def __init__(
        self,
        task_ids: Iterable[str],
        timeout_s: float | None = None,
        tick_s: float | None = None,
        on_tick: Callable[[], Any] | None = None,
        on_message: Callable[[Meta], Any] | None = None,
    ) -> None:
        self.waiting: dict[UUID, str] = {id_of(task_id): task_id for task_id in task_ids}
        self.timeout_s = timeout_s
        self.tick_s = tick_s
        self.on_tick = on_tick
        self.on_message = on_message
        self.has_looked = False
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s

    def looks_first(self) -> bool:
        """Should the results be looked at before the first wait? Not if all tasks were sent a moment ago."""
        has_looked, self.has_looked = self.has_looked, True
        if has_looked or (self.timeout_s is not None and self.timeout_s < 1):
            return not has_looked
        since = time.time() - NEWBORN_S
        return not all(made_at(key) > since for key in self.waiting)

    def next_wait(self) -> Wait:
        """The next wait; raises `TimeoutError` when there is no time left."""
        if self.on_tick is not None:
            self.on_tick()
        left = None if self._deadline is None else self._deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError(
                f"{self._names()} did not end within {self.timeout_s:g} s. Nothing was cancelled, so get() "
                "may be called again. Is a worker consuming the queue?"
            )
        spans = [span for span in (left, self.tick_s) if span is not None]
        return Wait(tuple(self.waiting), min(spans, default=None))

    def _names(self) -> str:
        names = list(self.waiting.values())
        return f"Task {names[0]}" if len(names) == 1 else f"{len(names)} tasks ({names[0]}, ...)"

    def in_order(self, found: Mapping[UUID, Stored], ended: Collection[UUID]) -> list[UUID]:
        """Put tasks that have ended in the order in which they did; those of the same moment in the order asked for."""
        if len(ended) < 2:
            return list(ended)
        arrived = set(ended)
        times = {key: stored.done_at for key, stored in found.items()}
        return sorted((key for key in self.waiting if key in arrived), key=lambda key: times.get(key) or _EPOCH)

    def arrive(self, key: UUID, meta: Meta) -> tuple[str, Meta]:
        """Wait for this task no longer, since it has ended."""
        if self.on_message is not None:
            self.on_message(meta)
        return self.waiting.pop(key), meta
