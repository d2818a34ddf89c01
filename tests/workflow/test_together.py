"""Steps of several runs in one statement: in the runs of one prefork child, of threads, of one event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

import pytest

from pgtasks.concurrency.base import Ended, Report
from pgtasks.concurrency.prefork import AlarmLimits
from pgtasks.concurrency.weaving import Weaver
from pgtasks.execution import Site
from pgtasks.message import Claim, id_of
from pgtasks.store import records, workflows
from pgtasks.store.records import CoroutineRecords, SharedRecords, record_together
from pgtasks.store.workflows import Hold, Place, Step
from tests.support.hands import Hand
from tests.workflow import flows
from tests.workflow.conftest import Desk
from tests.workflow.test_crash_points import Died, Wire


class Line:
    """The child's end of a line whose tickets are all there."""

    def __init__(self, claims: Iterable[Claim]) -> None:
        self.claims = deque(enumerate(claims, 1))
        self.reports: list[Ended] = []

    def take(self, *, wait: bool = True) -> tuple[int, Claim] | None:
        if self.claims:
            return self.claims.popleft()
        if not wait:
            raise BlockingIOError
        return None

    def report(self, report: Report) -> None:
        assert isinstance(report, Ended)
        self.reports.append(report)


class Loom:
    """A child that weaves what a desk has claimed."""

    def __init__(self, desk: Desk, claims: list[Claim]) -> None:
        self.desk = desk
        self.line = Line(claims)
        limits = AlarmLimits(self.line.report)  # type: ignore[arg-type]
        self.weaver = Weaver(self.line, Site(desk.app, desk.hand.id, "loom").opened(limits), limits)  # type: ignore[arg-type]
        for name in ("tests.workflow.flows.five", "tests.workflow.flows.everything"):
            self.weaver._mean_s[name] = 0.0  # known to be short

    def run(self, most: int | None = None) -> tuple[int, Any]:
        taken = self.line.take()
        assert taken is not None
        return self.weaver.run(*taken, most)

    def settle(self) -> None:
        for report in self.line.reports:
            self.desk.settle(report.outcome)


def moments(desk: Desk) -> tuple[int, int]:
    """How many steps there are, and how many statements recorded them."""
    row = desk.conn.execute("SELECT count(*), count(DISTINCT at) FROM pgtasks.step").fetchone()
    assert row is not None
    return row[0], row[1]


def test_runs_of_one_child_record_their_steps_together_and_none_gets_those_of_another(desk: Desk) -> None:
    results = [flows.five.delay(10 * n) for n in range(8)]
    loom = Loom(desk, desk.claim())

    assert loom.run() == (8, None)

    loom.settle()
    assert [result.get(timeout=0) for result in results] == [10 * n + 5 for n in range(8)]
    assert moments(desk) == (40, 5)


def test_a_run_whose_workflow_is_not_known_to_be_short_begins_alone(desk: Desk) -> None:
    results = [flows.five.delay(0), flows.inline.delay(1), flows.inline.delay(2)]
    loom = Loom(desk, desk.claim())

    ran, left = loom.run()

    assert ran == 1, "what is not known may hold up the others"
    assert left is not None
    assert left[1].id == id_of(results[1].id)


def test_a_child_that_shall_leave_begins_no_more_runs_than_it_may(desk: Desk) -> None:
    for n in range(5):
        flows.five.delay(n)
    loom = Loom(desk, desk.claim())

    assert loom.run(most=2) == (2, None)
    assert len(loom.line.claims) == 3


def test_a_task_that_is_no_workflow_waits_only_for_runs_under_way(desk: Desk) -> None:
    flows.five.delay(1)
    flows.add.delay(1, 2)
    flows.five.delay(2)
    loom = Loom(desk, desk.claim())

    ran, left = loom.run()

    assert ran == 1
    assert left is not None
    assert left[1].name == "tests.workflow.flows.add"


def test_one_lost_run_among_others_is_left_and_the_others_go_on(desk: Desk) -> None:
    results = [flows.five.delay(0), flows.five.delay(100)]
    claims = desk.claim()
    desk.conn.execute("DELETE FROM pgtasks.claim WHERE id = %s", [claims[0].id])
    loom = Loom(desk, claims)

    loom.run()

    assert [report.outcome.kind for report in loom.line.reports] == ["gone", "done"]
    loom.settle()
    assert results[1].get(timeout=0) == 105
    assert desk.conn.execute("SELECT count(*) FROM pgtasks.step WHERE run = %s", [claims[0].id]).fetchone() == (0,)


def test_a_run_with_a_time_limit_is_never_parked_beside_others(desk: Desk) -> None:
    flows.five.delay(100)
    flows.five.apply_async([0], soft_time_limit=60)
    loom = Loom(desk, desk.claim())

    loom.run()

    assert [report.outcome.value for report in loom.line.reports] == [b"5", b"105"]
    assert moments(desk) == (10, 10)


def test_what_is_parked_behind_a_long_step_goes_to_another_worker(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgtasks.concurrency.weaving.LONG_S", 0.05)
    results = [flows.five.delay(0), flows.five.delay(100)]
    claims = desk.claim()
    loom = Loom(desk, claims)
    given_back = threading.Event()
    reports = loom.line.report
    loom.line.report = lambda report: (reports(report), given_back.set())  # type: ignore[method-assign, func-returns-value, assignment]
    effect = flows.effect

    def long_for_one(name: str, *values: Any) -> Any:
        if values[0] == 102:
            assert given_back.wait(60), "nothing was given up"
        return effect(name, *values)

    monkeypatch.setattr(flows, "effect", long_for_one)

    loom.run()

    assert [report.outcome.kind for report in loom.line.reports] == ["back", "done"]
    loom.settle()
    assert results[1].get(timeout=0) == 105
    assert desk.get(results[0]) == 5
    row = desk.conn.execute("SELECT losses FROM pgtasks.ready WHERE id = %s", [claims[0].id]).fetchone()
    assert row is None
    assert desk.effects().count("step 0") == 2, "what it had done is not done again"


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(5))
def test_a_child_that_dies_at_any_record_of_several_runs_is_survived_by_all_of_them(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, at: int, is_after: bool
) -> None:
    results = [flows.five.delay(10 * n) for n in range(3)]
    wire = Wire(desk)
    wire.breaks_at, wire.is_after = at, is_after

    loom = Loom(desk, desk.claim())
    with wire.tapped(monkeypatch), pytest.raises(Died):
        loom.run()
    desk.die()
    desk.travel(61)
    desk.drain()

    assert wire.sent == ["remember_all"] * (at + 1)
    assert [result.get(timeout=0) for result in results] == [10 * n + 5 for n in range(3)]
    assert moments(desk)[0] == 15, "each step is recorded once"
    effects = Counter((line["name"], line["key"]) for line in desk.stage.lines("effect"))
    assert sum(effects.values()) == 15 + (0 if is_after else 3), "only what was not recorded ran again"


def remembering(hand: Hand, claim: Claim, ordinal: int, worker: Any = None) -> Any:
    hold = Hold(claim.id, worker or hand.id, claim.delivery)
    return workflows.remember(hold, Step(place=Place("s", ordinal, ordinal + 1), kind="step", value=b"%d" % ordinal))


def test_a_step_that_is_there_already_does_not_keep_others_from_being_recorded(desk: Desk) -> None:
    for _ in range(3):
        flows.five.delay(0)
    claims = desk.claim()
    run = desk.app.database.run
    run(remembering(desk.hand, claims[1], 0))

    answers = record_together(run, [remembering(desk.hand, claim, 0) for claim in claims])

    assert [answers[0], answers[2]] == [False, False]
    assert isinstance(answers[1], Exception)
    assert moments(desk)[0] == 3


def test_a_cancelled_run_is_told_so_among_others(desk: Desk) -> None:
    for _ in range(2):
        flows.five.delay(0)
    claims = desk.claim()
    desk.conn.execute("UPDATE pgtasks.claim SET revoke_signal = '' WHERE id = %s", [claims[0].id])

    answers = record_together(desk.app.database.run, [remembering(desk.hand, claim, 0) for claim in claims])

    assert answers == [True, False]


def test_threads_that_record_at_the_same_time_share_statements(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    flows.five.delay(0)
    (claim,) = desk.claim()
    shared = SharedRecords(desk.app.database)
    run, is_first, may_go = desk.app.database.run, threading.Event(), threading.Event()

    def held_up(query: Any, conn: Any = None) -> Any:
        if not is_first.is_set():
            is_first.set()
            assert may_go.wait(60)
        return run(query, conn)

    monkeypatch.setattr(desk.app.database, "run", held_up)
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(shared.record(remembering(desk.hand, claim, n))))  # type: ignore[misc]
        for n in range(6)
    ]
    threads[0].start()
    assert is_first.wait(60)
    for thread in threads[1:]:
        thread.start()
    while len(shared._waiting) < 5:
        threads[5].join(0.01)

    may_go.set()

    for thread in threads:
        thread.join(30)
    assert answers == [False] * 6
    assert moments(desk) == (6, 2)


def test_coroutines_that_record_at_the_same_time_share_statements(desk: Desk) -> None:
    flows.five.delay(0)
    (claim,) = desk.claim()
    shared = CoroutineRecords(desk.app.database)

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(
            *(shared.arecord(remembering(desk.hand, claim, n)) for n in range(6)),
            shared.arecord(remembering(desk.hand, claim, 3)),
            return_exceptions=True,
        )

    *answers, twice = asyncio.run(all_at_once())

    assert answers == [False] * 6
    assert isinstance(twice, Exception), "each gets its own answer"
    assert moments(desk)[0] == 6


def test_only_plain_successes_go_together(desk: Desk) -> None:
    hold = Hold(desk.hand.id, desk.hand.id, 1)
    place = Place("s", 0, 1)

    plain = Step(place=place, kind="step", value=b"1")
    failed = Step(place=place, kind="step", state="FAILURE", value=b"1")
    packed = Step(place=place, kind="step", value=b"1", content_type="application/x-python-serialize")

    shares = [workflows.may_share(workflows.remember(hold, step)) for step in (plain, failed, packed)]
    assert shares == [True, False, False]
    assert records.MOST > 1
