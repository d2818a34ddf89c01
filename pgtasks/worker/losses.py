"""Return a claim to its queue: unchanged, or with one more loss if its process died or was killed for it."""

from __future__ import annotations

import signal
from typing import Any

from pgtasks.message import NEVER_AGAIN, Claim, Outcome
from pgtasks.utils.log import get_logger

__all__ = ("after_timeout", "delivered_again", "described", "returned")

logger = get_logger("celery.worker.request")

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


def after_timeout(app: Any, claim: Claim, limit_s: Any, max_deliveries: int) -> Outcome | None:
    """Back to the queue after a hard time limit, if its task wants that; as often as after the death of a worker."""
    task = app.tasks.get(claim.name)
    runs_again = task is not None and task.acks_late and not task.acks_on_timeout
    if not runs_again or claim.losses + 1 >= max_deliveries:
        return None
    logger.error(
        "Hard time limit (%ss) exceeded for %s[%s]. It will be run again, since its acks_on_timeout is False.",
        limit_s,
        claim.name,
        claim.public_id,
    )
    return delivered_again(claim)


def returned(claim: Claim, *, must_not_run: bool = False) -> Outcome:
    """Back to the queue as it was; or with so many losses that its next claimer fails it instead."""
    losses = NEVER_AGAIN if must_not_run else claim.losses
    return Outcome(id=claim.id, delivery=claim.delivery, kind="back", retries=claim.retries, losses=losses)


def described(status: int) -> str:
    """How a process ended, in words, by its exit code: minus the number of a signal, if that was it."""
    if status < 0:
        return f"signal {-status} ({signal.Signals(-status).name})"
    return f"exitcode {status}"
