"""The worker's part in workflows: pass the hold to the run, and end the claim when a run suspended or gave up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pgtasks.exceptions import RunCancelled, RunInterrupted, Unwound
from pgtasks.execution.ending import condemn
from pgtasks.execution.site import Site
from pgtasks.message import Claim, Outcome
from pgtasks.store import flows
from pgtasks.store.workflows import Hold

__all__ = ("hold", "is_resumable", "leave")

#: Fates under which a run is replayed once more, to be undone.
_UNDOABLE = ("revoked", "terminated", "timeout")


def is_resumable(claim: Claim) -> bool:
    """May the code of a task that remembers be run under this claim?

    It expires only before it has begun, and one that was stopped from outside has something to undo only if it had begun.
    """
    fate = claim.fate.partition(":")[0]
    if fate == "live":
        return True
    has_begun = claim.delivery > 1 or fate in ("terminated", "timeout")
    return has_begun and (fate == "expired" or fate in _UNDOABLE)


def hold(site: Site, claim: Claim, is_loop_shared: bool) -> Hold:
    """The hold of a claim: the fence of everything the run writes."""
    is_cancelled = claim.fate.partition(":")[0] in _UNDOABLE
    return Hold(claim.id, site.worker, claim.delivery, is_loop_shared, is_cancelled, site.recorder)


def leave(site: Site, claim: Claim, task: Any, request: Mapping[str, Any], unwound: Unwound) -> Outcome:
    """Return the outcome of a claim whose code was left by `Unwound`; a suspended run has settled itself."""
    site.limits.disarm()
    if isinstance(unwound, RunCancelled):
        fate = "revoked" if claim.fate in ("live", "expired") else claim.fate
        return condemn(site, claim._replace(fate=fate), task, request)
    if isinstance(unwound, RunInterrupted):
        return Outcome(
            id=claim.id, delivery=claim.delivery, kind="back", retries=claim.retries, losses=claim.losses, delay_s=1.0
        )
    if task.flow is not None:
        site.app.database.run(flows.leave([claim.id]))
    return Outcome(id=claim.id, delivery=claim.delivery, kind="gone")
