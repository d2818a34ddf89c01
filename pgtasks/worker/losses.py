"""How a claim goes back to the queue: as it was, or with one loss more, after its process died or was killed for it."""

from __future__ import annotations

import signal

from pgtasks.message import NEVER_AGAIN, Claim, Outcome

__all__ = ("delivered_again", "described", "returned")

#: A claim whose child died is run again at once, then after this many seconds, doubling with every further death.
REST_AFTER_DEATH_S = 1.0


def delivered_again(claim: Claim) -> Outcome:
    """Back to the queue, with one loss more; after the first, not at once."""
    losses = claim.losses + 1
    rest_s = REST_AFTER_DEATH_S * 2 ** (losses - 1) - REST_AFTER_DEATH_S
    return Outcome(
        id=claim.id,
        delivery=claim.delivery,
        kind="back",
        retries=claim.retries,
        losses=losses,
        delay_s=rest_s or None,
    )


def returned(claim: Claim, *, must_not_run: bool = False) -> Outcome:
    """Back to the queue as it was; or with so many losses that its next claimer fails it instead."""
    losses = NEVER_AGAIN if must_not_run else claim.losses
    return Outcome(id=claim.id, delivery=claim.delivery, kind="back", retries=claim.retries, losses=losses)


def described(status: int) -> str:
    """How a process ended, in words, by its exit code: minus the number of a signal, if that was it."""
    if status < 0:
        return f"signal {-status} ({signal.Signals(-status).name})"
    return f"exitcode {status}"
