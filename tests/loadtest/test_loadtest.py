"""The load tests work, and judge fairly; how fast anything is, is no business of a test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from loadtest import bench, capacity, halves, probes, scale, sweep
from loadtest.page import Line, glance, page, plot
from loadtest.rivals import __main__ as rivals
from loadtest.rivals import contenders
from loadtest.verdict import busiest, verdict

ROOT = Path(bench.__file__).parents[1]

needs_locust = pytest.mark.skipif(find_spec("locust") is None, reason="Locust is not installed: pgtasks[loadtest]")


def point(**changes: Any) -> dict[str, Any]:
    """What the watch sees in one second of a server that is not busy."""
    return {
        "t": 1.0, "users": 4, "sent_per_s": 100.0, "ended_per_s": 100.0, "steps_per_s": 0.0, "ready": 0, "claimed": 0,
        "sent_in": 1.0, "settled_in": 10.0,
        "queue_ms": [1.0, 2.0, 3.0], "run_ms": [1.0, 2.0, 3.0], "total_ms": [2.0, 4.0, 6.0], "wal_per_s": 1e5,
        "server_cores": 0.2, "server_busiest": 0.1, "dead_rows": 0.0, "database_bytes": 10**7, "worker_bytes": 10**8,
        "worker_cores": 0.2, "worker_busiest": 0.1, "generator_cores": 0.1, "generator_busiest": 0.1,
        "machine_cores": 0.5, "waits": {"cpu": 0.2, "wal": 0.1}, **changes,
    }  # fmt: skip


def ceiling(**rates: float) -> dict[str, Any]:
    sizes = {"enqueue": 1, "bulk": 1000, "drain10": 10, "drain100": 100, "step": 1}
    points = [
        {"what": name.rstrip("01"), "clients": 1, "batch": sizes[name], "tasks_per_s": rate, "wal_bytes": 500.0,
         "server_us": 100.0}
        for name, rate in rates.items()
    ]  # fmt: skip
    settings = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    return {"points": points, "settings": settings, "machine": {}, "fsyncs_per_s": 1000.0}


# -- the verdict


def test_what_the_server_does_for_a_task_at_both_ends_of_its_life_adds_up() -> None:
    measured = ceiling(enqueue=1000, bulk=50_000, drain10=1000, drain100=20_000)

    half = verdict([point(sent_per_s=250, ended_per_s=250)], measured, 2)
    only_sent = verdict([point(sent_per_s=250, ended_per_s=0)], measured, 2)

    assert half.ceiling_per_s == pytest.approx(500)
    assert half.percent == pytest.approx(50)
    assert only_sent.percent == pytest.approx(25)


def test_a_batch_between_two_that_were_measured_takes_what_lies_between() -> None:
    points = ceiling(drain10=1000, drain100=10_000)["points"]  # both take 10 ms per statement

    assert sweep.seconds_per_task(points, sweep.ENDING, 55) == pytest.approx(0.01 / 55)
    assert sweep.seconds_per_task(points, sweep.ENDING, 2) == pytest.approx(0.001)  # not less than was measured
    assert sweep.seconds_per_task(points, sweep.SENDING, 2) is None


@pytest.mark.parametrize(
    ("seen", "limit"),
    [
        ({"generator_busiest": 0.97, "machine_cores": 2.0}, "load generator CPU"),
        ({"machine_cores": 1.95, "server_cores": 1.2}, "server CPU"),
        ({"machine_cores": 1.95, "worker_cores": 1.2}, "worker CPU"),
        ({"machine_cores": 1.95}, "other work on this machine"),
        ({"machine_cores": 1.95, "waits": {"cpu": 1.0, "lock": 3.0}}, "lock wait"),
        ({"machine_cores": 1.95, "server_cores": 1.2, "waits": {"cpu": 1.0, "lock": 3.0}}, "server CPU"),
        ({"ready": 5000, "worker_busiest": 0.95}, "worker CPU"),
        ({"waits": {"cpu": 1.0, "wal": 3.0}}, "WAL fsync"),
        ({"waits": {"cpu": 1.0, "lock": 3.0}}, "lock wait"),
        ({"waits": {"cpu": 0.5}}, "the load, since no more was sent"),
        ({"waits": {"cpu": 1.0}}, "waits that the server does not name"),
        ({"waits": {"cpu": 3.0}, "server_cores": 1.2}, "the server, which is at work all the time"),
        ({"waits": {"cpu": 1.0}, "server_cores": 0.95, "server_busiest": 0.93}, "server CPU, of one connection"),
        ({"server_cores": None, "machine_cores": 1.95}, "other work on this machine, if that is not the server"),
        # Of a server that mostly waits for its callers no wait is the limit.
        ({"waits": {"cpu": 0.1, "wal": 0.3}}, "the load, since no more was sent"),
        ({"waits": {"cpu": 0.1, "wal": 0.3}, "machine_cores": 1.6}, "other work on this machine"),
    ],
)
def test_the_limit_is_what_had_no_more_to_give(seen: dict[str, Any], limit: str) -> None:
    said = verdict([point(**seen)], None, 2)

    assert said.limit == limit
    assert any("LOAD GENERATOR" in warning for warning in said.warnings) is (limit == "load generator CPU")


def test_the_seconds_that_count_are_those_in_which_most_was_done() -> None:
    points = [point(t=at, sent_per_s=rate) for at, rate in enumerate([10, 900, 20, 800, 30, 40])]

    assert [each["sent_per_s"] for each in busiest(points)] == [900, 800]


def test_seconds_in_which_many_waited_and_nothing_was_done_are_told_of_though_others_count() -> None:
    busy, still = point(waits={"cpu": 2.0, "lock": 0.1}), point(sent_per_s=0.0, ended_per_s=None, waits={"lock": 4.0})
    idle = point(sent_per_s=0.0, ended_per_s=0.0, waits={"lock": 0.1})

    said = verdict([busy, busy, busy, still, still, idle], None, 2)

    assert said.limit != "lock wait"
    assert any("In 2 of 6 seconds next to nothing was done" in warning and "lock wait" in warning for warning in said.warnings)
    assert not any("next to nothing" in warning for warning in verdict([busy, idle], None, 2).warnings)


def test_a_run_without_a_ceiling_says_so() -> None:
    said = verdict([point()], None, 2)

    assert said.percent is None
    assert said.sentence.startswith("Without a measured ceiling")
    assert any("No ceiling was measured" in warning for warning in said.warnings)


def test_steps_of_a_workflow_are_a_part_of_what_the_server_does() -> None:
    measured = ceiling(enqueue=1000, bulk=50_000, drain10=1000, drain100=20_000, step=400)

    plain = verdict([point()], measured, 2).percent
    with_steps = verdict([point(steps_per_s=100)], measured, 2).percent

    assert plain is not None
    assert with_steps == pytest.approx(plain + 25)


# -- the page


def test_the_page_shows_what_it_was_given_and_loads_nothing_from_elsewhere() -> None:
    points = [point(t=float(at), queue_ms=None if at == 2 else [1.0, 2.0, 3.0]) for at in range(5)]
    measured = ceiling(enqueue=1000, bulk=50_000, drain10=1000, drain100=20_000)

    text = page("<b>title</b>", verdict(points, measured, 2), points, measured, {"cpu": "a <fast> one"})

    assert "&lt;b&gt;title" in text
    assert verdict(points, measured, 2).sentence in text
    assert text.count("<svg") == 9
    assert "a &lt;fast&gt; one" in text
    assert not re.search(r"(src|href)=|url\(|@import", text)


def test_the_page_says_what_more_users_have_brought() -> None:
    points = [point(t=float(at), users=users, ended_per_s=50.0 * users) for at, users in enumerate((1, 1, 2, 4, 4))]

    text = page("t", verdict(points, None, 2), points, None, {})

    assert "By the number of users" in text
    assert "<td>4</td><td>2</td><td>100</td><td>200</td><td>2</td>" in text
    assert "By the number of users" not in page("t", verdict(points[:2], None, 2), points[:2], None, {})


def test_the_frame_in_locusts_page_has_the_verdict_and_the_ceiling_and_says_when_there_is_nothing_yet() -> None:
    measured = ceiling(enqueue=1000, bulk=50_000, drain10=1000, drain100=20_000)
    points = [point(t=float(at), steps_per_s=5.0) for at in range(5)]

    text = glance(verdict(points, measured, 2), points)

    assert verdict(points, measured, 2).sentence in text
    assert text.count("<polyline") == 4
    assert "stroke-dasharray" in text
    assert "once a run has begun" in glance(verdict([], measured, 2), [])


def test_a_plot_leaves_out_what_is_not_known() -> None:
    (known,) = re.findall(r'points="([^"]*)"', plot("p", [0.0, 1.0, 2.0], [Line("a", [1.0, None, 3.0])]))
    assert len(known.split()) == 2
    assert '<polyline points="' in plot("p", [], [Line("a", [])])


# -- Locust


@needs_locust
def test_one_command_does_everything_and_leaves_a_report(server_url: str, tmp_path: Path) -> None:
    report, figures = tmp_path / "report.html", tmp_path / "figures.json"
    command = [sys.executable, "-m", "loadtest", "Single", "Bulk", "--url", server_url, "--users", "2"]
    command += ["--seconds", "5", "--ceiling", "none", "--html", str(report), "--json", str(figures)]
    command += ["--", "--csv", str(tmp_path / "l"), "--bulk-size", "50"]

    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})

    assert said.returncode == 0, said.stderr
    found = json.loads(figures.read_text())
    assert sum(each["ended_per_s"] for each in found["points"]) > 0
    assert found["verdict"]["sentence"] in report.read_text()
    stats = (tmp_path / "l_stats.csv").read_text()
    assert all(name in stats for name in ("SEND,delay,", "SEND,delay_many of 50,"))
    assert [line.split(",")[3] for line in stats.splitlines()[1:]] == ["0"] * (len(stats.splitlines()) - 1)


@needs_locust
def test_a_gate_below_its_percentage_fails(server_url: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "loadtest",
        "Single",
        "--url",
        server_url,
        "--users",
        "1",
        "--seconds",
        "2",
    ]
    command += ["--workers", "0", "--ceiling", "none", "--html", str(tmp_path / "r.html"), "--at-least", "1"]

    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})

    assert said.returncode == 1
    assert "Without a measured ceiling" in said.stdout


@needs_locust
def test_shapes_end_when_there_is_no_more_to_learn() -> None:
    # In a process of its own: Locust makes greenlets of the threads of whoever imports it.
    program = """
from types import SimpleNamespace
from loadtest.shapes import SHAPES

def users(name, rates, ready, seconds=100):
    now, options = [0], SimpleNamespace(num_users=64, run_time=10, step_seconds=1)
    shape = SHAPES[name](options, lambda: (rates[min(now[0], len(rates) - 1)], ready[min(now[0], len(ready) - 1)]))
    shape.get_run_time = lambda: now[0]
    ticks = []
    while (tick := shape.tick()) is not None and now[0] < seconds:
        ticks.append(tick[0])
        now[0] += 1
    return ticks

print(users("steps", [0, 100, 190, 195, 196], [0]))
print(users("steps", [2 ** n for n in range(20)], [0]))
print(users("spike", [0], [0]))
print(users("drain", [0], [9] * 12 + [0]))
print(len(users("drain", [0], [9])), len(users("soak", [0], [9])))

from loadtest import __main__ as command
from loadtest.users import USERS
assert command.SHAPES == ("none", *SHAPES) and command.USERS == tuple(user.__name__ for user in USERS)
"""

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)

    assert said.stdout.splitlines() == [
        "[1, 2, 4, 8]",
        "[1, 2, 4, 8, 16, 32, 64]",
        "[6, 6, 6, 6, 64, 64, 6, 6, 6, 6]",
        "[64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0]",
        "45 10",
    ]


# -- rivals


def test_a_rival_that_is_missing_is_not_run_and_never_zero() -> None:
    found = {
        "machine": {"cpu": "c", "cores": 2, "load_average": 0.1}, "settings": {"server_version": "18"}, "crowding": 1.0,
        "scale": {"rounds": 2}, "not_run": {"DBOS": "its packages cannot be installed"},
        "rounds": [
            {"pgtasks": {"drain": 1000.0, "trip": 2.0}, "Celery on Redis": {"drain": 100.0, "trip": 5.0}},
            {"pgtasks": {"drain": 3000.0, "trip": 3.0}, "Celery on Redis": {"drain": 200.0}},
        ],
    }  # fmt: skip

    said = rivals.text(found)

    assert rivals.medians(found, "Celery on Redis", "drain") == (150.0, 12.5)
    assert rivals.medians(found, "Celery on Redis", "trip") == (5.0, 2.5)
    assert rivals.medians(found, "DBOS", "drain") is None
    assert "not run: DBOS: its packages cannot be installed" in said
    assert " 0" not in re.sub(r"0\.1", "", said)


def test_a_drain_in_which_a_task_ran_twice_or_that_nobody_could_time_does_not_count(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ledger.write_bytes(bytes([1] * 9 + [2]))
    with pytest.raises(contenders.NotRun, match="1 of 10 tasks ran more than once"):
        rivals._verify(ledger, 10)

    ledger.write_bytes(bytes([1] * 10))
    rivals._verify(ledger, 10)
    assert rivals._drained(ledger, 10) is None


_FORGETFUL = """
import os, sys, time
if sys.argv[1] == "worker":
    with open(os.environ["RIVALS_LEDGER"], "r+b") as ledger:
        time.sleep(0.2)
        ledger.write(bytes([1] * (int(os.environ["TASKS"]) - 1)))
    time.sleep(600)
print('{"seconds": 0.1}')
"""


def test_a_contender_that_drops_one_task_has_no_figure_and_is_said_not_to_have_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "forgetful.py").write_text(_FORGETFUL)
    monkeypatch.setattr(contenders, "PROGRAMS", tmp_path)
    monkeypatch.setattr(rivals, "_PATIENCE_S", 1.0)
    one = contenders.Contender("Forgetful", "forgetful", (), "postgres", ("bulk", "drain"))
    ready = [contenders.Ready(one, Path(sys.executable), {"TASKS": str(rivals.SMOKE.drains)}, tmp_path)]
    not_run: dict[str, str] = {}

    found = rivals._round(ready, rivals.SMOKE, 0, not_run, ["bulk", "drain"])

    assert found == {"Forgetful": {}}
    assert ready == []
    assert not_run.keys() == {"Forgetful, from bulk, drain of round 1 on"}
    (why,) = not_run.values()
    assert re.search(r"\d+ of 20 tasks have not run within 1 s", why)


def test_a_service_that_is_not_installed_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(contenders.NotRun, match="apt-get install redis-server"), contenders.redis(tmp_path):
        pass


def test_pgtasks_does_every_workload_of_the_comparison(database_url: str, tmp_path: Path) -> None:
    us = contenders.CONTENDERS[0]
    ready = contenders.Ready(us, Path(sys.executable), {"RIVALS_DATABASE_URL": database_url}, tmp_path)
    smoke = rivals.SMOKE._replace(drains=1500, flows=200)

    figures: dict[str, float] = {}
    for each_pass in rivals.PASSES:
        figures |= rivals.measure(ready, each_pass, smoke)

    assert set(figures) == set(rivals.WORKLOADS)
    assert all(figure > 0 for figure in figures.values())


def test_a_pass_that_fails_takes_its_contender_out_of_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def measure(ready: Any, wanted: Any, scale: Any) -> dict[str, float]:
        done.append(f"{ready.contender.name}: {' '.join(wanted)}")
        if ready.contender.name == "DBOS" and "drain" in wanted:
            raise contenders.NotRun("7 of 20 tasks have not run")
        return dict.fromkeys(wanted, 1.0)

    monkeypatch.setattr(rivals, "measure", measure)
    ready = [contenders.Ready(each, Path(), {}, Path()) for each in contenders.CONTENDERS if each.service == "postgres"]
    not_run: dict[str, str] = {}

    found = rivals._round(ready, rivals.SMOKE, 0, not_run, ["bulk", "drain", "flows"])

    assert "DBOS: bulk drain" in done
    assert "DBOS: flows" not in done
    assert found["DBOS"] == {}
    assert found["pgtasks"] == {"bulk": 1.0, "drain": 1.0, "flows": 1.0}
    assert not_run == {"DBOS, from bulk, drain of round 1 on": "7 of 20 tasks have not run"}


# -- what to plan with


def test_the_table_to_plan_with_tells_what_was_measured_from_what_follows_from_it() -> None:
    measured = ceiling(enqueue=1000, bulk=50_000, drain10=1000, drain100=20_000, step=400)
    found = measured | {
        "machine": {"cpu": "c", "cores": 2, "system": "s", "python": "3", "load_average": 0.1}, "crowding": 1.0, "tasks": 9,
        "drain": {"worker_us": 300.0}, "idle": {"statements_per_s": None}, "connections": 1, "waiting_bytes": 300.0,
        "ended_bytes": {"message": 200.0, "result": 140.0},
    }  # fmt: skip
    found["settings"] = {**found["settings"], "server_version": "18.4"}

    rows = {row.what: row for row in capacity.rows(found)}

    assert rows["tasks/s per vCPU of the server, by `.delay()`"][1:3] == ("5,000", "derived")
    assert rows["tasks/s per vCPU that server and worker share"].figure == "2,000"
    assert rows["disk per million tasks that have ended"].figure == "340 MB"
    assert rows["WAL of a task, sent by `.delay()`"][1:3] == ("1,000 bytes", "measured")
    assert rows["statements of an idle worker"].figure == "not measured here"
    assert capacity.written(f"a\n{capacity.BEGIN}\nold\n{capacity.END}\nb", "new").split() == [
        "a", *capacity.BEGIN.split(), "new", *capacity.END.split(), "b",
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="no place for the table"):
        capacity.written("a page", "new")


# -- scale


def test_the_time_of_a_claim_is_measured_at_every_size(server_url: str) -> None:
    small = scale.Scale(ready=(500, 1500), finished=(0, 1000), queues=5, batches=4, churned=10_000)
    found = scale.run(server_url, small)

    assert [(row["ready"], row["finished"], row["pinned"]) for row in found["rows"][:-1]] == [
        (ready, finished, pinned) for finished in (0, 1000) for ready in (500, 1500) for pinned in (False, True)
    ]
    assert found["rows"][-1]["queues"] == 5
    assert all(row["claim_clock_us"] > 0 for row in found["rows"])
    assert found["disk_bytes_per_task"] == found["disk_bytes_per_message"] + found["disk_bytes_per_result"] > 0
    assert {row["statement"] for row in found["statements"]} == set(probes.PROBES)
    assert [row["pinned"] for row in found["churn"]] == [False, True]
    assert all(row["wal_bytes_per_task"] > 0 for row in found["churn"])


def test_a_claim_and_a_settle_are_measured_alone_and_together(server_url: str) -> None:
    found = halves.run(server_url, rounds=1)

    assert set(found) == set(halves.BATCHES)
    assert all(set(figures) == {"claim", "settle", "both"} for figures in found.values())


def test_growth_is_that_of_the_worst_size_and_of_the_cpu() -> None:
    rows = [{"claim_cpu_us": cpu_us} for cpu_us in (100.0, 150.0, 120.0)]

    assert scale.growth(rows) == 1.5
    assert scale.growth([{"claim_cpu_us": None}]) is None


# -- the sweep


def test_capacity_is_what_a_task_costs_the_server_at_both_ends_of_its_life() -> None:
    rows = sweep.capacity(ceiling(enqueue=1000, bulk=50_000, drain10=1000, drain100=20_000)["points"])

    assert [row["what"] for row in rows] == ["sent alone", "sent in bulk"]
    assert rows[0]["per_core"] == pytest.approx(5000)
    assert rows[0]["wal_bytes"] == 1000
