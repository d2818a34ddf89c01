"""What becomes of a claim that was not run to its end: it goes back to its queue, unchanged or with one more loss, or it ends."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from typing import Any

from pgtasks.exceptions import EncodeError
from pgtasks.message import NEVER_AGAIN, Casualty, Claim, Outcome
from pgtasks.serialization import encode, encode_exception
from pgtasks.utils.log import get_logger

__all__ = ("after_timeout", "delivered_again", "fate_after_death", "returned", "unstorable")

logger = get_logger("celery.worker.request")
process_logger = get_logger("celery.concurrency")

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


def fate_after_death(
    claim: Claim, task: Any, pid: int, status: int, *, is_at_most_once: bool, max_deliveries: int
) -> str | None:
    """The fate of a claim whose process died with this exit code; None if it goes back to be `delivered_again`."""
    losses, is_over = claim.losses + 1, claim.losses + 1 >= max_deliveries
    must_retry = task is not None and task.retry_on_worker_lost
    must_not_run = is_at_most_once or (task is not None and task.reject_on_worker_lost is False)
    if must_retry:
        verdict = "is retried, if it has not run out of retries"
    elif must_not_run:
        verdict = "must not run twice and has failed"
    elif is_over:
        verdict = f"has failed for good after {losses} such deaths"
    else:
        verdict = "will be run again"
    how = _described(status)
    process_logger.error("Process %s with %s[%s] ended: %s. It %s.", pid, claim.name, claim.public_id, how, verdict)
    if must_retry or must_not_run or is_over:
        reason = f"Worker exited prematurely: {how} Job: {claim.public_id}."
        return f"{'retry' if must_retry else 'lost'}:{reason}"
    return None


def returned(claim: Claim, *, must_not_run: bool = False) -> Outcome:
    """Back to the queue as it was; or with so many losses that its next claimer fails it instead."""
    losses = NEVER_AGAIN if must_not_run else claim.losses
    return Outcome(id=claim.id, delivery=claim.delivery, kind="back", retries=claim.retries, losses=losses)


def unstorable(outcome: Outcome, error: Exception, successors: Iterable[Any]) -> Outcome:
    """The failure of a task whose outcome the database refuses, and of all that waits for it."""
    value = encode(encode_exception(EncodeError(f"The outcome {outcome.state!r} cannot be stored: {error}"))).body
    return Outcome(
        id=outcome.id,
        delivery=outcome.delivery,
        state="FAILURE",
        value=value,
        has_successors=outcome.has_successors,
        fails=tuple(Casualty(id=each.id, state="FAILURE", value=value) for each in successors),
    )


def _described(status: int) -> str:
    """How a process ended, in words, by its exit code: minus the number of a signal, if that was it."""
    if status < 0:
        return f"signal {-status} ({signal.Signals(-status).name})"
    return f"exitcode {status}"
