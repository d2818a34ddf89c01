"""Claiming from a queue that is limited: ask how many, claim them and count them, in one transaction.

The claims themselves are the places: a task that is claimed is counted, whoever holds it, until it is settled or taken back
from a dead worker. So no place can be lost, and none outlives its task.
"""

from __future__ import annotations

from uuid import UUID

from pgtasks.message import Claim
from pgtasks.store import flows, tasks
from pgtasks.store.database import Database

__all__ = ("claim_limited",)


def claim_limited(database: Database, worker: UUID, queue: str, wanted: int, max_deliveries: int) -> list[Claim]:
    """Claim up to so many tasks of a limited queue, if its limits leave room."""
    granted, *answers = database.run_in_turn(
        flows.reserve(queue, worker, wanted),
        lambda room: tasks.claim(worker, [tasks.Lane(queue)], room, max_deliveries=max_deliveries),
        lambda claimed: flows.count_claims(queue, [claim.id for claim in claimed]),
    )
    claims: list[Claim] = answers[0] if granted else []
    return claims
