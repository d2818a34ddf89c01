"""Autoscaling: start processes while tasks wait, stop those that have been idle for a while."""

from __future__ import annotations

import os
import time
from typing import Any

from pgtasks.utils.log import get_logger

__all__ = ("AUTOSCALE_KEEPALIVE", "Autoscaler")

logger = get_logger("celery.worker.autoscale")

#: Seconds without need before a process goes.
AUTOSCALE_KEEPALIVE = float(os.environ.get("AUTOSCALE_KEEPALIVE", 30))


class Autoscaler:
    """Keeps the number of a worker's processes between two bounds.

    It grows when every process is busy and more tasks wait in the queues, to twice as many each time it looks, once a
    second. One process stays in any case: who else should notice that there is work?
    """

    def __init__(self, worker: Any, max_concurrency: int, min_concurrency: int = 0) -> None:
        self._worker = worker
        self.max_concurrency, self.min_concurrency = max(1, max_concurrency), min_concurrency
        self.keepalive = AUTOSCALE_KEEPALIVE
        self._needed_at = time.monotonic()

    @property
    def processes(self) -> int:
        count: int = self._worker.crew.options.children
        return count

    @property
    def qty(self) -> int:
        """How many tasks are in the worker's hands."""
        busy: int = self._worker.crew.busy()
        return busy

    def looked(self, has_ready: bool) -> None:
        """Decide, knowing whether tasks wait in the queues."""
        busy, processes = self.qty, self.processes
        if busy >= processes:
            self._needed_at = time.monotonic()
            waiting = self.max_concurrency if has_ready else busy
            self._resize(min(self.max_concurrency, waiting, 2 * processes) - processes)
        elif time.monotonic() - self._needed_at > self.keepalive:
            self._resize(max(busy, self._fewest) - processes)

    @property
    def _fewest(self) -> int:
        return max(1, self.min_concurrency)

    def _resize(self, by: int) -> None:
        if by:
            logger.info("Scaling %s %s processes.", "up" if by > 0 else "down", abs(by))
            self._worker.resize(by)

    def update(self, max: int | None = None, min: int | None = None) -> tuple[int, int]:
        """Change the bounds, and keep them at once; gives them."""
        if max is not None:
            self.max_concurrency = max
        if min is not None:
            self.min_concurrency = min
        bounded = sorted((self._fewest, self.processes, self.max_concurrency))[1]
        self._resize(bounded - self.processes)
        return self.max_concurrency, self.min_concurrency

    def info(self) -> dict[str, int]:
        return {
            "max": self.max_concurrency,
            "min": self.min_concurrency,
            "current": self.processes,
            "qty": self.qty,
        }
