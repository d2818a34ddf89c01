"""The benchmark works and believes nothing; how fast anything is, is no business of a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest import bench, ceiling, report
from loadtest.bench_worker import BenchWorker
from pgtasks.message import Message, new_id

ROOT = Path(bench.__file__).parents[1]


@pytest.fixture
def measured(server_url: str, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """What a tiny run prints, and the JSON it writes."""
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "loadtest.bench", "--smoke", "--url", server_url, "--json", str(path)]

    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})

    assert said.returncode == 0, said.stderr
    return said.stdout, json.loads(path.read_text())


def test_a_tiny_run_measures_every_figure_and_admits_that_the_server_is_not_durable(
    measured: tuple[str, dict[str, Any]],
) -> None:
    printed, found = measured

    missing = [row["name"] for row in found["table"] if row["value"] is None]
    assert missing == ["statements while idle"]  # known only where the server is the benchmark's own
    assert "NOT DURABLE" in printed
    assert all(row["name"] in printed for row in found["table"])
    assert found["rounds"][0]["drain"]["statements"] < 1
    assert found["rounds"][0]["enqueue 1"]["statements"] == 1


def test_a_task_that_ran_twice_is_found_out_though_its_result_is_right(database_url: str, tmp_path: Path) -> None:
    scale = bench.Scale(tasks=10)
    measuring = bench.Bench(database_url, None, scale, tmp_path)
    measuring.empty()
    worker = BenchWorker(measuring.conn, tmp_path, 1, scale.tasks)
    try:
        with worker.frozen():
            measuring.fill(scale.tasks)
            (tmp_path / "ledger").write_bytes(bytes([1, *[0] * 9]))
        worker.await_runs(scale.tasks)
        with pytest.raises(bench.NotVerified, match="1 did not run exactly once"):
            measuring._verify(worker, scale.tasks)
    finally:
        worker.stop()
        bench.app.close()
        measuring.conn.close()


def test_a_figure_beyond_its_budget_is_not_met_and_one_that_is_not_known_is_neither() -> None:
    assert report.Row("s", "n", 2.0, at_most=1).is_met is False
    assert report.Row("s", "n", 1.0, at_most=1).is_met is True
    assert report.Row("s", "n", 1.0, at_least=2).is_met is False
    assert report.Row("s", "n", None, at_most=1).is_met is None
    assert report.Row("s", "n", 1.0).is_met is None


def test_no_parameter_of_our_statements_is_left_for_pgbench_to_trip_over() -> None:
    message = Message(id=new_id(), name="it's", payload=b"[[],{},{}]", options=b"{}")

    scripts = [ceiling.enqueue_one(message), ceiling.enqueue_many(message, 10), ceiling.drain("celery", 10)]

    assert not any("%(" in script for script in scripts)
    assert "'it''s'" in scripts[0]
