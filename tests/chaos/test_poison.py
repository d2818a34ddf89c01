"""Tasks that kill what runs them: they end after their deliveries, and cost their neighbours nothing."""

from __future__ import annotations

import pytest

from tests.chaos.arena import Arena

DELIVERIES = 3


@pytest.mark.parametrize("kills", ["child", "worker"])
def test_poison_fails_after_its_deliveries_and_its_neighbours_in_the_same_batch_are_not_charged(kills: str) -> None:
    with Arena(lease_s=1.0, concurrency=1, task_max_deliveries=DELIVERIES) as arena:
        batch = [("plain", {})] * 3 + [("poison", {"kills": kills})] + [("plain", {})] * 3
        ids = [task_id for (task_id,) in arena.requests(batch)]
        poison, neighbours = ids[3], ids[:3] + ids[4:]
        arena.start_worker(through_proxy=False)

        arena.settle_down(replacing=True)

        with arena.connect() as conn:
            states = dict(conn.execute("SELECT id::text, state FROM pgtasks.result").fetchall())
        assert states.pop(poison) == "FAILURE"
        assert states == dict.fromkeys(neighbours, "SUCCESS")
        assert len(arena.begun(poison)) == DELIVERIES
        # The first time they may have ended, one after the other, without having been heard of.
        assert max(len(arena.begun(each)) for each in neighbours) <= 2
