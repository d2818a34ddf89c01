"""Canvases whose workers die: each task runs until it has ended, each body once, whatever crashes and however often it is told.

The small ones run by default, `pytest -m chaos` runs the large ones.
"""

from __future__ import annotations

import pytest

from tests.chaos.arena import Arena
from tests.chaos.shapes import CANVASES

#: Run by `pytest -m chaos`, not by default.
long = pytest.mark.chaos


def test_every_kind_of_canvas_ends_as_it_should_though_each_of_its_tasks_kills_its_process_once() -> None:
    with Arena(lease_s=2.0, concurrency=3) as arena:
        arena.start_worker(through_proxy=False)

        arena.requests([(shape, {"crash": "child"}) for shape in (*CANVASES, "family")])

        assert arena.judge() == []


@pytest.mark.parametrize(
    ("size", "crash"),
    [
        pytest.param(2, "worker", id="2 deaths of workers"),
        pytest.param(20, "worker", id="20 deaths of workers", marks=long),
        pytest.param(100, "child", id="100 deaths of children", marks=long),
    ],
)
def test_a_chain_survives_a_crash_at_each_of_its_links(size: int, crash: str) -> None:
    with Arena(lease_s=1.0, concurrency=1) as arena:
        arena.start_worker(through_proxy=False)

        arena.requests([("chain", {"size": size, "crash": crash})])

        arena.settle_down(size * 10 + 60, replacing=True)
        assert arena.judge() == []


@pytest.mark.parametrize(
    ("chords", "workers", "deaths"),
    [pytest.param(60, 2, 1, id="60 chords"), pytest.param(1000, 6, 12, id="1,000 chords", marks=long)],
)
def test_each_body_of_many_chords_runs_once_though_completions_come_twice_and_workers_die(
    chords: int, workers: int, deaths: int
) -> None:
    with Arena(mutant="stutter", lease_s=2.0) as arena:
        for _ in range(workers):
            arena.start_worker(through_proxy=False)
        sent = 0
        for share in range(deaths + 1):
            arena.requests([("chord", {"size": 3 + n % 5}) for n in range(sent, (share + 1) * chords // (deaths + 1))])
            sent = (share + 1) * chords // (deaths + 1)
            if share < deaths:
                arena.torment(["kill"], 0.01)

        assert arena.judge(180) == []
