"""What runs of one prefork child, of threads, or of one event loop record and wait for, in one transaction."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from pgtasks.concurrency.line import Ended, Report
from pgtasks.concurrency.prefork import AlarmLimits
from pgtasks.concurrency.weaving import Weaver
from pgtasks.execution import Site
from pgtasks.message import Claim, Message, id_of, new_id
from pgtasks.store import records, tasks, workflows
from pgtasks.store.records import CoroutineRecords, SharedRecords, record_together
from pgtasks.store.sql import Query, Statement
from pgtasks.store.workflows import Hold, Place, Step, Together
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
        for flow in (flows.five, flows.everything, flows.sleeper, flows.waits, flows.outer, flows.waiter):
            self.weaver._mean_s[flow.name] = -1e6  # known to be short, however long it takes on a busy machine

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

    answers = record_together(desk.app.database, [remembering(desk.hand, claim, 0) for claim in claims])

    assert [answers[0], answers[2]] == [False, False]
    assert isinstance(answers[1], Exception)
    assert moments(desk)[0] == 3


def test_a_cancelled_run_is_told_so_among_others(desk: Desk) -> None:
    for _ in range(2):
        flows.five.delay(0)
    claims = desk.claim()
    desk.conn.execute("UPDATE pgtasks.claim SET revoke_signal = '' WHERE id = %s", [claims[0].id])

    answers = record_together(desk.app.database, [remembering(desk.hand, claim, 0) for claim in claims])

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

    shares = [workflows.is_plain(workflows.remember(hold, step)) for step in (plain, failed, packed)]
    assert shares == [True, False, False]
    assert records.MOST > 1


def transactions(desk: Desk, table: str) -> int:
    """In how many transactions the rows of a table were written."""
    row = desk.conn.execute(f"SELECT count(DISTINCT xmin::text) FROM pgtasks.{table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def woven(desk: Desk) -> list[str]:
    """Run what is ready in one child; gives how each run was left."""
    loom = Loom(desk, desk.claim())
    if loom.line.claims:
        loom.run()
        loom.settle()
    return [report.outcome.kind for report in loom.line.reports]


def test_runs_of_one_child_fall_asleep_in_one_transaction(desk: Desk) -> None:
    results = [flows.sleeper.delay(60) for _ in range(8)]

    assert woven(desk) == ["gone"] * 8

    assert transactions(desk, "scheduled") == 1
    desk.travel(61)
    assert woven(desk) == ["done"] * 8
    assert [result.get(timeout=0) for result in results] == ["rested"] * 8


def test_runs_of_one_child_take_their_signals_in_one_transaction_and_none_takes_anothers(desk: Desk) -> None:
    results = [flows.waits.delay(["go"]) for _ in range(4)]
    woven(desk)
    for n, result in enumerate(results):
        result.signal("go", n)

    assert woven(desk) == ["done"] * 4

    assert transactions(desk, "step") == 1
    assert [result.get(timeout=0) for result in results] == [[0], [1], [2], [3]]


def test_runs_of_one_child_make_children_in_one_transaction_but_for_one_that_was_lost(desk: Desk) -> None:
    results = [flows.outer.delay(10 * n) for n in range(4)]
    claims = desk.claim()
    desk.conn.execute("DELETE FROM pgtasks.claim WHERE id = %s", [claims[0].id])
    loom = Loom(desk, claims)

    loom.run()

    parents = desk.conn.execute("SELECT parent FROM pgtasks.message WHERE parent IS NOT NULL").fetchall()
    assert sorted(parents) == sorted((claim.id,) for claim in claims[1:]), "the lost one has made none"
    desk.drain()
    assert [result.get(timeout=0) for result in results[1:]] == [15, 25, 35]

    more = [flows.outer.delay(10 * n) for n in range(4)]
    desk.conn.execute("TRUNCATE pgtasks.awaited")
    woven(desk)

    assert transactions(desk, "awaited") == 1
    desk.drain()
    assert [result.get(timeout=0) for result in more] == [5, 15, 25, 35]


@pytest.mark.parametrize("is_limited", [False, True], ids=["plain", "limited"])
def test_children_under_limits_are_made_by_themselves_for_their_flow_is_locked_last(
    desk: Desk, is_limited: bool
) -> None:
    hold, child = Hold(desk.hand.id, desk.hand.id, 1), Message(id=new_id(), name="t", payload=b"")
    child = replace(child, flow=("narrow", "") if is_limited else None)

    made = Together([workflows.adopt(hold, Place("delay t", 0, 1), b"{}", None, [child.id]), tasks.enqueue([child])])

    assert workflows.may_share(made) is not is_limited


def test_one_that_is_cancelled_or_lost_does_not_keep_the_others_awake(desk: Desk) -> None:
    results = [flows.sleeper.delay(60) for _ in range(4)]
    claims = desk.claim()
    loom = Loom(desk, claims)
    send = loom.weaver._send
    rounds: list[None] = []

    def send_after_trouble(strands: Any) -> None:
        rounds.append(None)
        if len(rounds) == 2:  # each has recorded a step, and goes to sleep
            desk.conn.execute("DELETE FROM pgtasks.claim WHERE id = %s", [claims[0].id])
            desk.conn.execute("UPDATE pgtasks.claim SET revoke_signal = '' WHERE id = %s", [claims[1].id])
        send(strands)

    loom.weaver._send = send_after_trouble  # type: ignore[method-assign]
    loom.run()

    assert [desk.is_suspended(result) for result in results] == [False, False, True, True]
    by_id = {report.outcome.id: report.outcome for report in loom.line.reports}
    assert by_id[claims[0].id].kind == "gone"
    assert by_id[claims[1].id].state == "REVOKED"


def test_a_name_that_one_run_cannot_wait_for_does_not_keep_the_others_awake(desk: Desk) -> None:
    flows.waiter.delay("go", 60)
    flows.waiter.delay("go", 60)
    claims = desk.claim()
    holds = [Hold(claim.id, desk.hand.id, claim.delivery) for claim in claims]
    wishes = [workflows.Wish(names=(name,)) for name in ("go", "no\0")]

    answers = record_together(
        desk.app.database, [workflows.suspend(hold, wish) for hold, wish in zip(holds, wishes, strict=True)]
    )

    assert answers[0] == "suspended"
    assert isinstance(answers[1], Exception)


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("on", ["receive", "suspend", "recall"])
def test_a_child_that_dies_as_several_runs_fall_asleep_or_wake_is_survived_by_all_of_them(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, on: str, is_after: bool
) -> None:
    results = [flows.waiter.delay("go", 600) for _ in range(3)]
    wire = Wire(desk)
    wire.breaks_on, wire.is_after = on, is_after

    def until_all_have_ended(work: Callable[[Desk], Any]) -> None:
        for _ in range(4):
            work(desk)
            for n, result in enumerate(results):
                if desk.is_suspended(result):
                    result.signal("go", n, key="once")

    with wire.tapped(monkeypatch), pytest.raises(Died):
        until_all_have_ended(woven)
    desk.die()
    until_all_have_ended(Desk.drain)

    assert [result.get(timeout=0) for result in results] == [0, 1, 2]
    taken = desk.conn.execute("SELECT count(*), count(DISTINCT run) FROM pgtasks.signal WHERE ordinal = 0").fetchone()
    assert taken == (3, 3), "each run has taken its own signal, once"
    assert desk.conn.execute("SELECT count(*) FROM pgtasks.claim").fetchone() == (0,)


def receiving(desk: Desk, claim: Claim, *names: str) -> Any:
    hold = Hold(claim.id, desk.hand.id, claim.delivery)
    return workflows.receive(hold, Step(place=Place("wait go", 0, 1), kind="wait"), names, ())


def test_whoever_asks_again_for_a_signal_since_the_answer_was_lost_gets_the_same_one(desk: Desk) -> None:
    result = flows.waiter.delay("go")
    (claim,) = desk.claim()
    for n in range(2):
        result.signal("go", n)

    answers = [desk.app.database.run(receiving(desk, claim, "go")) for _ in range(2)]

    assert [answer.came["wait go", 0].value for answer in answers] == [b"0", b"0"]
    left = desk.conn.execute("SELECT value FROM pgtasks.signal WHERE ordinal IS NULL").fetchall()
    assert left == [(b"1",)], "the second signal is there for the second wait"


@pytest.mark.parametrize("look", ["receive", "collect"])
def test_a_look_that_finds_nothing_writes_nothing_and_so_waits_for_no_disk(desk: Desk, look: str) -> None:
    flows.waiter.delay("go")
    (claim,) = desk.claim()
    query = receiving(desk, claim, "go")
    if look == "collect":
        hold = Hold(claim.id, desk.hand.id, claim.delivery)
        query = workflows.collect(hold, [Place("get", 0, 1)], [desk.hand.id])

    def looked(ask: Any) -> Any:
        return ask(query), ask(Query(WRITES, {}, lambda found: found[0][0]))

    answer, writes = desk.app.database.transact(looked)

    assert answer.came == {}
    assert not writes


WRITES = Statement("writes", "", "", b"SELECT pg_current_xact_id_if_assigned() IS NOT NULL", ())
