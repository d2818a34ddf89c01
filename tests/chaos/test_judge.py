"""The judge itself: it must find every kind of violation, in made-up histories and in runs with real defects."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from pgtasks.message import new_id
from tests.chaos.arena import Arena
from tests.support import history
from tests.support.history import Event, Tables, violations
from tests.support.workers import eventually

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Story:
    """A made-up history: one request of three tasks, all of which went well."""

    def __init__(self, shape: str = "plain", size: int = 1) -> None:
        self.request = "r"
        self.ids = [new_id() for _ in range(size)]
        names = [str(each) for each in self.ids]
        # A chain, in which each sees the one before; or a chord, whose body, the last one, sees all of the header.
        preds = {n: [n - 1] if shape == "chain" else list(range(n)) for n in range(1, size)}
        if shape == "chord":
            preds = {size - 1: preds[size - 1]}
        self.sees = {n: seen if shape == "chain" else [seen] for n, seen in preds.items()}
        self.lines: list[dict[str, Any]] = [
            {
                "event": "try",
                "request": "r",
                "shape": shape,
                "ids": names,
                "after": {names[n]: [names[pred] for pred in found] for n, found in preds.items()},
                "sees": {names[n]: seen for n, seen in self.sees.items()},
            },
            {"event": "acked", "request": "r"},
        ]
        self.tables = Tables()
        self.tables.requests["r"] = set(self.ids)
        self.worker = uuid4()
        for n, task_id in enumerate(self.ids):
            self.run(task_id, n)

    def run(self, task_id: UUID, n: int = 0) -> None:
        token = uuid4().hex
        self.lines.append({"event": "begin", "id": str(task_id), "token": token, "parent": 7})
        value = {"token": token, "n": n, "seen": self.sees.get(n, [])}
        self.tell("grant", task_id, pid=7, delivery=1)
        self.tell("release", task_id, delivery=1)
        self.tell("end", task_id, delivery=1, state="SUCCESS", value=json.dumps(value))
        self.tables.standing[task_id] = ["SUCCESS"]

    def tell(self, what: str, task_id: UUID, **facts: Any) -> None:
        n = len(self.tables.audit)
        self.tables.audit.append(Event(n, NOON + timedelta(seconds=n), what, task_id, self.worker, **facts))

    def guilty_of(self) -> set[str]:
        return {violation.invariant for violation in violations(self.lines, self.tables)}


@pytest.mark.parametrize(("shape", "size"), [("plain", 1), ("once", 1), ("chain", 4), ("chord", 5)])
def test_a_history_in_which_all_went_well_is_innocent(shape: str, size: int) -> None:
    assert Story(shape, size).guilty_of() == set()


def test_an_acked_task_that_is_nowhere_is_found() -> None:
    story = Story()
    story.tables.standing.clear()
    story.tables.requests.clear()

    assert "I1" in story.guilty_of()


def test_an_acked_task_that_never_ends_is_found() -> None:
    story = Story()
    story.tables.standing[story.ids[0]] = ["waiting"]

    assert story.guilty_of() == {"I1"}


def test_a_failure_of_a_task_that_does_not_fail_is_found() -> None:
    story = Story()
    story.tables.standing[story.ids[0]] = ["FAILURE"]

    assert story.guilty_of() == {"I1"}


def test_a_task_that_nobody_sent_is_found() -> None:
    story = Story()
    story.lines.append({"event": "begin", "id": str(new_id()), "token": "t", "parent": 7})

    assert "I2" in story.guilty_of()


def test_a_request_that_is_there_twice_or_in_part_is_found() -> None:
    twice, part = Story(), Story("chain", 4)
    twice.tables.requests["r"].add(new_id())
    part.tables.requests["r"].pop()

    assert twice.guilty_of() == {"I2"}
    assert part.guilty_of() == {"I2"}


def test_a_second_end_and_a_second_place_are_found() -> None:
    ended, placed = Story(), Story()
    ended.tell("end", ended.ids[0], delivery=1, state="SUCCESS", value="{}")
    placed.tables.standing[placed.ids[0]] = ["SUCCESS", "ready"]

    assert "I3" in ended.guilty_of()
    assert "I3" in placed.guilty_of()


def test_the_value_of_a_run_in_other_hands_is_found() -> None:
    story = Story()
    story.lines[2]["parent"] = 8

    assert story.guilty_of() == {"I3"}


def test_more_runs_than_deliveries_are_found() -> None:
    story = Story()
    story.lines.append({**story.lines[2], "token": "another"})

    assert story.guilty_of() == {"I5"}


def test_a_claim_that_a_crash_of_the_server_has_undone_may_cost_one_more_run_and_no_second_one() -> None:
    story = Story()
    story.lines += [{"event": "crash"}, {**story.lines[2], "token": "another"}]

    assert story.guilty_of() == set()
    story.lines.append({**story.lines[2], "token": "one too many"})
    assert story.guilty_of() == {"I5"}


def test_a_delivery_number_used_twice_is_found() -> None:
    story = Story()
    story.tables.audit.insert(0, story.tables.audit[0])
    story.tables.audit.insert(1, story.tables.audit[2])

    assert story.guilty_of() == {"I5"}


def test_a_second_run_of_an_at_most_once_task_is_found() -> None:
    story = Story("once")
    story.tables.audit.insert(0, story.tables.audit[0]._replace(delivery=2))
    story.tables.audit.insert(1, story.tables.audit[2])
    for line in (story.lines[2], {**story.lines[2], "token": "another"}):
        line["once"] = True
        story.lines.append(line)

    assert "I5" in story.guilty_of()


def test_two_holders_at_once_are_found() -> None:
    story = Story()
    story.tables.audit.insert(0, story.tables.audit[0]._replace(delivery=2))

    assert story.guilty_of() == {"I6"}


def test_a_delivery_after_the_end_is_found() -> None:
    story = Story()
    story.tell("grant", story.ids[0], pid=7, delivery=2)

    assert story.guilty_of() == {"I7"}


@pytest.mark.parametrize(("shape", "invariant"), [("chain", "I8"), ("chord", "I9")])
def test_a_successor_that_comes_too_early_or_sees_the_wrong_values_is_found(shape: str, invariant: str) -> None:
    early, blind = Story(shape, 4), Story(shape, 4)
    early.tables.audit = [
        event._replace(at=NOON - timedelta(days=1)) if event.id == early.ids[-1] else event
        for event in early.tables.audit
    ]
    last = blind.tables.audit[-1]
    value = {**json.loads(last.value or ""), "seen": [[1, 0, 2]]}
    blind.tables.audit[-1] = last._replace(value=json.dumps(value))

    assert early.guilty_of() == {invariant}
    assert blind.guilty_of() == {invariant}


class Undone(Story):
    """A chain of three, the last of which fails; the others are undone in this order."""

    def __init__(self, *undone: int) -> None:
        super().__init__("chain", 3)
        self.lines[0] |= {"ends": {str(self.ids[2]): "FAILURE"}, "undone": [1, 0]}
        self.tables.audit[-1] = self.tables.audit[-1]._replace(state="FAILURE", value="{}")
        self.tables.standing[self.ids[2]] = ["FAILURE"]
        for number in undone:
            task_id = new_id()
            self.tables.undos["r"].append(task_id)
            self.tell("end", task_id, delivery=1, state="SUCCESS", value=json.dumps({"undone": number}))


def test_a_canvas_that_is_undone_too_seldom_too_often_or_in_the_wrong_order_is_found() -> None:
    assert Undone(1, 0).guilty_of() == set()
    assert Undone(1).guilty_of() == {"I10"}
    assert Undone(1, 0, 0).guilty_of() == {"I10"}
    assert Undone(0, 1).guilty_of() == {"I10"}


def test_an_undo_that_has_not_ended_is_found() -> None:
    story = Undone(1, 0)
    story.tables.audit[-1] = story.tables.audit[-1]._replace(state="FAILURE")

    assert story.guilty_of() == {"I10"}


def test_the_torn_line_of_a_killed_process_is_left_out(tmp_path: Path) -> None:
    history.note(tmp_path / "h", "begin", id="1")
    with (tmp_path / "h").open("a") as file:
        file.write('{"event": "be')

    assert [line["event"] for line in history.notes(tmp_path / "h")] == ["begin"]


# -- real defects


def zombie(arena: Arena) -> None:
    """A worker's result is held up on its way until another worker has taken the task over and runs it."""
    gate = arena.directory / "gate"
    held, let_go = threading.Event(), threading.Event()
    doomed = arena.start_worker(concurrency=1)
    doomed.await_ready()
    (task_id,) = arena.request("plain", gate=str(gate))
    eventually(lambda: len(arena.begun(task_id)) == 1, "it runs")

    # The statement that settles it.
    arena.proxies[doomed.pid].before(b"json_build_array", lambda: (held.set(), let_go.wait(60)))
    gate.touch()
    assert held.wait(60), "it has ended, and is about to be settled"
    gate.unlink()
    arena.start_worker(concurrency=1, through_proxy=False)
    eventually(lambda: len(arena.begun(task_id)) == 2, "the heir runs it too")
    let_go.set()
    doomed.await_output("starts over")
    gate.touch()


def test_a_worker_that_comes_back_from_the_dead_is_refused_and_without_the_fence_it_is_not() -> None:
    with Arena() as arena:
        zombie(arena)
        assert arena.judge() == []
    with Arena(mutant="unfenced") as arena:
        zombie(arena)
        assert "I3" in {violation.invariant for violation in arena.judge()}


def test_a_producer_that_tries_again_under_another_id_is_found_out() -> None:
    for mutant, guilt in ((None, set()), ("newid", {"I2"})):
        with Arena(mutant=mutant) as arena:
            arena.start_worker(through_proxy=False)
            arena.start_producers(1, patience_s=0)
            for _ in range(2):
                assert arena.proxies[-1].cut_after(b"INSERT INTO pgtasks.message").wait(60)
            assert {violation.invariant for violation in arena.judge()} == guilt


def test_a_takeover_that_loses_what_it_takes_is_found_out() -> None:
    with Arena(mutant="forgetful") as arena:
        doomed = arena.start_worker(through_proxy=False)
        (task_id,) = arena.request("plain", gate=str(arena.directory / "gate"))
        eventually(lambda: len(arena.begun(task_id)) == 1, "it runs")
        doomed.kill()
        arena.start_worker(through_proxy=False)

        assert {violation.invariant for violation in arena.judge()} == {"I1"}


@pytest.mark.parametrize(
    ("mutant", "shape", "guilt"),
    [
        pytest.param("hasty", "chord", {"I9"}, id="a body that does not wait for all of its header"),
        pytest.param("undo_anew", "undone", {"I10"}, id="undos that are sent twice under different ids"),
    ],
)
def test_what_is_wrong_with_a_canvas_is_found_out(mutant: str, shape: str, guilt: set[str]) -> None:
    with Arena(mutant=mutant) as arena:
        arena.start_worker(through_proxy=False)
        arena.request(shape, crash="child")

        assert {violation.invariant for violation in arena.judge()} == guilt
