"""Removing what has had its time: old results, and letters, events and marks that nobody came for."""

from __future__ import annotations

import time

from pgtasks.store import events, fleet, flows, letters, mail, tasks
from pgtasks.store.database import Database

__all__ = ("Retention",)

#: Seconds between two looks, and after one that found much to remove.
EVERY_S, AGAIN_S = 60.0, 0.5

_SWEEPS = (letters.sweep, events.sweep, mail.sweep, fleet.sweep_waiters, tasks.sweep_revoked, flows.sweep_keys)


class Retention:
    """Removes a batch of old results at a time, and sweeps the rest when there are none left."""

    def __init__(self, database: Database, expires_s: int | None) -> None:
        self._database = database
        #: Seconds that results are kept; for ever if None or 0.
        self._expires_s = expires_s
        self._next_at = time.monotonic() + AGAIN_S

    def mind(self, now: float) -> None:
        """Do it if it is time."""
        if now < self._next_at:
            return
        removed = self._database.run(tasks.expire(self._expires_s)) if self._expires_s else 0
        self._next_at = now + (AGAIN_S if removed else EVERY_S)
        if not removed:
            for sweep in _SWEEPS:
                self._database.run(sweep())
