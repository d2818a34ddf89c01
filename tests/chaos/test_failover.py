"""The loss of a primary that has a synchronous standby costs a moment, and nothing that was acknowledged."""

from __future__ import annotations

import pytest

from tests.chaos.pair import Pair

#: Run by `pytest -m chaos`, not by default.
long = pytest.mark.chaos


def test_a_primary_that_is_lost_under_load_takes_nothing_acknowledged_along() -> None:
    with Pair(seed=1) as pair:
        pair.start_workers(2)
        pair.start_producers(1, through_proxy=False)
        ended = pair.ended()
        pair.wait_for(lambda: pair.ended() > ended + 20, "work to go on before the primary is lost")

        pair.fail_over()

        ended = pair.ended()
        pair.wait_for(lambda: pair.ended() > ended + 20, "work to go on after it was lost")
        assert pair.judge() == []


@long
@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(["fail_over"], id="primaries that are lost"),
        pytest.param(["switch_over"], id="primaries that hand over"),
        pytest.param(["outlive"], id="primaries that stand still, and do not know that they were replaced"),
        pytest.param(["fail_over", "switch_over", "outlive", "kill", "kill_child", "terminate", "freeze"], id="all of it"),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_promise_is_kept_while_servers_change_places(faults: list[str], seed: int) -> None:
    with Pair(seed) as pair:
        pair.start_workers(2)
        pair.start_producers(2, through_proxy=False)

        pair.torment(faults, seconds=12, pause_s=2.0)

        assert pair.judge() == [], f"seed {pair.seed}, faults {pair.faults}"
