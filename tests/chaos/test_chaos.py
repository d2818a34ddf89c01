"""Faults of every kind, alone and together, thrown at real workers; the judge says whether every promise was kept.

The short ones run by default, `pytest -m chaos` runs the others, and `python -m tests.chaos --seconds 3600` goes on for as
long as one likes.
"""

from __future__ import annotations

import pytest

from tests.chaos.arena import LEASE_S, Arena

#: Run by `pytest -m chaos`, not by default.
long = pytest.mark.chaos


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(
            ["kill", "kill_child", "freeze", "cut", "terminate", "restart", "partition", "stop"], id="everything"
        ),
        pytest.param(["kill", "kill_parent", "kill_child"], id="deaths of workers and children", marks=long),
        pytest.param(["freeze"], id="workers that freeze for longer than their lease", marks=long),
        pytest.param(["cut", "refuse", "partition", "terminate"], id="connections that break or hang", marks=long),
        pytest.param(["restart"], id="crashes of the server", marks=long),
        pytest.param(["stop"], id="rolling restarts", marks=long),
    ],
)
def test_every_promise_is_kept_under(faults: list[str]) -> None:
    with Arena(seed=1) as arena:
        arena.start_workers(2)
        arena.start_producers(1)

        arena.torment(faults, seconds=5)

        assert arena.judge() == [], f"seed {arena.seed}, faults {arena.faults}"


def test_a_server_that_crashes_while_tasks_are_claimed_and_settled_loses_nothing() -> None:
    with Arena(lease_s=3.0) as arena:
        arena.start_workers(2)
        arena.start_producers(1, pause_s=0.005, through_proxy=False)
        for crash in range(2):
            ended = arena.ended()
            arena.wait_for(lambda ended=ended: arena.ended() > ended + 20, f"work goes on before crash {crash}")

            arena.restart()

        assert arena.judge() == []


@long
def test_workers_that_start_at_once_on_an_empty_database_agree_on_one_schema() -> None:
    with Arena(migrated=False) as arena:
        workers = [arena.start_worker(through_proxy=False, concurrency=1) for _ in range(20)]
        for worker in workers:
            worker.await_ready()

        with arena.connect() as conn:
            assert conn.execute("SELECT count(*), count(DISTINCT version) FROM pgtasks.migration").fetchone() == (
                len(arena.migrations()), len(arena.migrations()),
            )  # fmt: skip
            arena.audit(conn)
        for shape in ("plain", "chain", "chord"):
            arena.request(shape)
        assert arena.judge() == []


@long
def test_idle_workers_ask_the_database_for_next_to_nothing() -> None:
    """Fifty workers may send fifty statements a second between them."""
    seconds, count = 5, 4
    with Arena(lease_s=30) as arena:
        with arena.connect() as conn:
            # Its transactions count as ours do.
            conn.execute("ALTER SYSTEM SET autovacuum = off")
            conn.execute("SELECT pg_reload_conf()")
        for _ in range(count):
            arena.start_worker("-Q", ",".join(f"q{n}" for n in range(20)), through_proxy=False, concurrency=1)
        for worker in arena.workers:
            worker.await_ready()
        arena.wait_for(lambda: arena.idle() == count)
        # A session tells what it has done once a second or later: in a short look nothing may have been told yet.
        arena.wait_for(lambda: arena.statements_in(4) <= 6 * count, "they have looked again, and sleep")

        sent = arena.statements_in(seconds)

    # A look around a second, and one for the dead now and then.
    assert sent <= count * seconds * 1.5, f"{sent} statements by {count} workers in {seconds} s"


def test_a_worker_that_dies_is_taken_over_within_its_lease_and_a_little(seed: int = 3) -> None:
    with Arena(seed) as arena:
        doomed, heir = arena.start_worker(through_proxy=False), arena.start_worker(through_proxy=False)
        for worker in (doomed, heir):
            worker.await_ready()
        gate = arena.directory / "gate"
        (task_id,) = arena.request("plain", gate=str(gate))
        (run,) = arena.wait_for(lambda: arena.begun(task_id))
        victim = doomed if run["parent"] == doomed.pid else heir
        victim.kill()
        gate.touch()

        with arena.connect() as conn:
            arena.wait_for(lambda: len(arena.begun(task_id)) == 2)
            waited = conn.execute(
                "SELECT extract(epoch FROM max(at) - min(at)) FROM audit.event WHERE what = 'grant'"
            ).fetchone()
        assert waited is not None
        assert float(waited[0]) < LEASE_S * 10
        assert arena.judge() == []
