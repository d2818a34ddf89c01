"""Rate limits: how often tasks of a type begin in one worker.

    claim -> admit -+-> runs now
                    +-> held here, when its turn is near
                    +-> back to the queue until about its turn: neither a slot nor a place ahead is taken

A type has a bucket of one token that fills at the rate of the limit, as in Celery. What goes back is put in a line: each
gets a moment of its own, so that a thousand of them do not return at once. The moments are estimates, only the token
decides: another worker may claim what comes back, and runs it at its own rate.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pgtasks.message import Claim, Outcome
from pgtasks.utils.time import rate

__all__ = ("Throttle",)

#: Claims whose turn comes within this many seconds are held; a second claim would cost more than the place.
HOLD_S = 2.0


class Bucket:
    """The token of one type of task, those who wait for it here, and the line of those who were sent back."""

    def __init__(self, per_second: float) -> None:
        self.interval_s = 1 / per_second
        self.token_at = 0.0
        self.held: deque[Claim] = deque()
        self._line_ends_at = 0.0

    def next_turn_s(self, now: float) -> float:
        """Seconds until a claim that is held from now on could begin."""
        return max(0.0, self.token_at - now) + len(self.held) * self.interval_s

    def has_token(self, now: float) -> bool:
        return now >= self.token_at

    def take_token(self, now: float) -> None:
        self.token_at = now + self.interval_s

    def has_line(self, now: float) -> bool:
        return self._line_ends_at > now

    def queue_up(self, now: float) -> float:
        """Take a place at the end of the line; gives the seconds until its turn."""
        turn_at = max(self._line_ends_at, now + self.next_turn_s(now))
        self._line_ends_at = turn_at + self.interval_s
        return turn_at - now


class Throttle:
    """Decides which claims may run now; remembers those it holds."""

    def __init__(self, tasks: Mapping[str, Any], *, is_disabled: bool = False) -> None:
        self._tasks = tasks
        self._is_disabled = is_disabled
        self._buckets: dict[str, Bucket] = {}
        self._sent_back: list[Outcome] = []
        self.reset()

    @property
    def has_limits(self) -> bool:
        """Is there any task whose rate is limited here?"""
        return bool(self._buckets)

    def reset(self) -> None:
        """Read the rate limits of all tasks again, and apply the new rates to what is held."""
        before, self._buckets = self._buckets, {}
        if self._is_disabled:
            return
        for name, task in self._tasks.items():
            if per_second := rate(task.rate_limit):
                self._buckets[name] = Bucket(per_second)
                if name in before:
                    self._buckets[name].held = before[name].held
        for name in before.keys() - self._buckets.keys():
            self._sent_back.extend(_sent_back(claim, 0.0) for claim in before[name].held)

    def admit(self, claims: list[Claim]) -> list[Claim]:
        """Those of the claims that may run now; the others are held or sent back."""
        if not self._buckets:
            return claims
        now = time.monotonic()
        return [claim for claim in claims if claim.fate != "live" or self._may_run(claim, now)]

    def _may_run(self, claim: Claim, now: float) -> bool:
        bucket = self._buckets.get(claim.name)
        if bucket is None:
            return True
        # One that has not waited yet goes to the end of the line, not past those who come back from it.
        may_not_overtake = claim.delivery == 1 and bucket.has_line(now)
        if not may_not_overtake and not bucket.held and bucket.has_token(now):
            bucket.take_token(now)
            return True
        if not may_not_overtake and bucket.next_turn_s(now) <= HOLD_S:
            bucket.held.append(claim)
        else:
            self._sent_back.append(_sent_back(claim, bucket.queue_up(now)))
        return False

    def release(self) -> list[Claim]:
        """Those of the claims held whose turn has come."""
        now = time.monotonic()
        released = []
        for bucket in self._buckets.values():
            if bucket.held and bucket.has_token(now):
                bucket.take_token(now)
                released.append(bucket.held.popleft())
        return released

    def next_release_at(self) -> float | None:
        """When, by the monotonic clock, the next turn comes."""
        return min((bucket.token_at for bucket in self._buckets.values() if bucket.held), default=None)

    def held(self) -> Iterator[Claim]:
        for bucket in self._buckets.values():
            yield from bucket.held

    def take_back(self) -> list[Claim]:
        """Take all claims that are held."""
        claims = list(self.held())
        for bucket in self._buckets.values():
            bucket.held.clear()
        return claims

    def withdraw(self, claim_id: Any) -> Claim | None:
        """Take one claim out of those that are held."""
        for bucket in self._buckets.values():
            for claim in bucket.held:
                if claim.id == claim_id:
                    bucket.held.remove(claim)
                    return claim
        return None

    def take_outcomes(self) -> Iterable[Outcome]:
        """Outcomes to settle for the claims that were sent back."""
        outcomes, self._sent_back = self._sent_back, []
        return outcomes


def _sent_back(claim: Claim, delay_s: float) -> Outcome:
    return Outcome(
        id=claim.id,
        delivery=claim.delivery,
        kind="back",
        retries=claim.retries,
        losses=claim.losses,
        delay_s=delay_s or None,
    )
