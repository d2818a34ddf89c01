"""Where a worker looks for ready tasks: from a cursor per queue and priority, now and then everywhere.

Cursors keep claims off a backlog and off what an old snapshot keeps dead. What lands behind a cursor (a transaction that
committed late) or under a priority not seen before is found by a sweep from the start.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from pgtasks.message import Claim
from pgtasks.store.tasks import Lane

__all__ = ("Lanes",)

#: Sweeps may take a twentieth of a worker's time, however long one takes.
_SWEEP_SHARE = 20
_SWEEP_EVERY_S = 1.0


class Lanes:
    """The cursors of one worker."""

    def __init__(self) -> None:
        #: Queues that may be claimed from freely.
        self.queues: Sequence[str] = ()
        self._cursors: dict[tuple[str, int], int] = {}
        self._turn = 0
        self._swept_at = -math.inf
        self._sweep_cost_s = 0.0

    def limit(self, queues: Sequence[str]) -> None:
        """Look in these queues only."""
        self.queues = queues
        self._cursors = {lane: seq for lane, seq in self._cursors.items() if lane[0] in queues}

    def forget(self) -> None:
        """Look everywhere the next time."""
        self._cursors.clear()

    def ahead(self) -> list[Lane]:
        """Every queue and priority seen so far, from its cursor; the most urgent first, queues taking turns."""
        self._turn += 1
        ordered = sorted(self._cursors.items(), key=lambda item: (item[0][1], hash((item[0][0], self._turn))))
        return [Lane(queue, rank, seq, rank) for (queue, rank), seq in ordered]

    def must_sweep(self) -> bool:
        """Is it time to look everywhere first?"""
        return not self._cursors or self._since_sweep_s() > max(_SWEEP_EVERY_S, _SWEEP_SHARE * self._sweep_cost_s)

    def may_sweep(self) -> bool:
        """Would a look everywhere, since nothing was found ahead, keep within the share of time?"""
        return self._since_sweep_s() >= _SWEEP_SHARE * self._sweep_cost_s

    def _since_sweep_s(self) -> float:
        return time.monotonic() - self._swept_at

    @contextmanager
    def sweep(self) -> Iterator[list[Lane]]:
        """Every queue from its start, queues taking turns, for a look that is timed."""
        self._turn += 1
        at = self._turn % max(1, len(self.queues))
        self._swept_at = time.monotonic()
        yield [Lane(queue) for queue in (*self.queues[at:], *self.queues[:at])]
        self._sweep_cost_s = self._since_sweep_s()

    def advance(self, claims: Iterable[Claim]) -> None:
        """These have been claimed: look behind them from now on."""
        for claim in claims:
            lane = claim.queue, claim.rank
            self._cursors[lane] = max(self._cursors.get(lane, 0), claim.seq)
