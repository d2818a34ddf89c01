"""Limit what a worker's tick scans, so that dead rows kept by an old snapshot do not make it expensive."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ("Lookout",)


class Lookout:
    """How far a worker looks around: everywhere, unless that took long, as with an old snapshot open, and was not long ago."""

    #: Looks everywhere may take a twentieth of the time.
    SHARE = 20
    #: A due time so long before the last look may have been written after it.
    MARGIN_S = 5.0

    def __init__(self) -> None:
        self._looked_at = -math.inf
        self._took_s = 0.0

    @contextmanager
    def back_s(self, now: float) -> Iterator[float | None]:
        """Say how many seconds to look back; None is for everything, of which the time is taken."""
        since_s = now - self._looked_at
        if since_s < self.SHARE * self._took_s:
            yield since_s + self.MARGIN_S
            return
        yield None
        self._looked_at, self._took_s = now, time.monotonic() - now
