"""A crew with rate limits: it holds some of its claims back, see `throttle`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from pgtasks.concurrency.base import Job
from pgtasks.concurrency.line import Ended
from pgtasks.message import Claim
from pgtasks.worker.crew import Crew
from pgtasks.worker.throttle import Throttle

__all__ = ("PacedCrew",)


class PacedCrew(Crew):
    """What is held by the throttle is in the crew's hands as well, and is revoked, recalled and told of with the rest."""

    #: How long tasks ran, by id, noted while somebody wants to know.
    runtimes: dict[UUID, float] | None = None

    def __init__(self, *args: Any, throttle: Throttle, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.throttle = throttle
        #: What it was told to terminate lately, and had: by its row or by a letter, whichever came first.
        self.terminated: deque[UUID] = deque(maxlen=1000)

    def _hear_ended(self, reports: Sequence[Ended]) -> None:
        super()._hear_ended(reports)
        if self.runtimes is not None:
            self.runtimes.update((report.outcome.id, report.ran_s) for report in reports)

    def admit(self, claims: list[Claim]) -> list[Claim]:
        """Those of the claims that may run now; the others are held, or go back to their queues until their turn."""
        admitted = self.throttle.admit(claims)
        if len(admitted) < len(claims):
            self._outcomes.extend(self.throttle.take_outcomes())
        return admitted

    def release(self) -> list[Claim]:
        """Those of the claims that were held whose turn has come."""
        return self.throttle.release()

    def reset_rate_limits(self) -> None:
        """Read the limits of all tasks again."""
        self.throttle.reset()
        self._outcomes.extend(self.throttle.take_outcomes())

    def in_hand(self) -> list[Claim]:
        return [*super().in_hand(), *self.throttle.held()]

    def next_deadline(self) -> float | None:
        times = (super().next_deadline(), self.throttle.next_release_at())
        return min((at for at in times if at is not None), default=None)

    def revoke(self, claim_id: Any, signal_name: str) -> None:
        if signal_name and any(claim.id == claim_id for claim in self.in_hand()):
            self.terminated.append(claim_id)
        if (claim := self.throttle.withdraw(claim_id)) is not None:
            self.accept([claim._replace(fate="revoked")])
        else:
            super().revoke(claim_id, signal_name)

    def whereabouts(self) -> Iterator[tuple[Claim, int | None, float | None]]:
        yield from super().whereabouts()
        for claim in list(self.throttle.held()):
            yield claim, None, None

    def recall(self) -> None:
        self.backlog.extend(self.throttle.take_back())
        super().recall()

    def kill(self) -> list[Job]:
        self.backlog.extend(self.throttle.take_back())
        return super().kill()
