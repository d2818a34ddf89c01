"""`worker.timer`: calls that a project's bootsteps schedule, once or repeatedly, in the worker's own loop.

    self.tref = worker.timer.call_repeatedly(1.0, beat_file.touch)      ...      self.tref.cancel()

This is how liveness probes are written: a loop that hangs no longer touches the file. The interface is that of kombu's
timer; exceptions are logged. Any thread may schedule a call; the loop sees it at its next turn, within a second.
"""

from __future__ import annotations

from heapq import heappop

from kombu.asynchronous.timer import Timer as _Timer

__all__ = ("Timer",)


class Timer(_Timer):
    """Calls to be made, the next first, until `mind` makes them."""

    def mind(self, now: float) -> None:
        """Make the calls that are due by the monotonic clock; those they add have to wait for the next time."""
        while self._queue and self._queue[0].eta <= now:
            entry = heappop(self._queue).entry
            if not entry.canceled:
                self.apply_entry(entry)  # type: ignore[no-untyped-call]  # kombu has few types

    @property
    def next_at(self) -> float | None:
        at: float | None = self._queue[0].eta if self._queue else None
        return at
