"""Waiting: a run that waits is a row, wakes once for what it waits for, and finds it where it left off."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgtasks.exceptions import DatabaseUnavailable, RunEnded, RunNotFound, TaskRevokedError, WorkflowError
from pgtasks.message import id_of, new_id
from pgtasks.store import fleet
from tests.workflow import flows
from tests.workflow.conftest import Desk


def rows(desk: Desk, table: str) -> int:
    row = desk.conn.execute(f"SELECT count(*) FROM pgtasks.{table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


# -- time


def test_a_sleeping_run_holds_nothing_but_a_row_and_wakes_when_it_is_due(desk: Desk) -> None:
    result = flows.sleeper.delay(3600)
    desk.drain()
    assert desk.is_suspended(result)
    assert (rows(desk, "claim"), rows(desk, "ready")) == (0, 0)

    desk.travel(3599)
    assert desk.drain() == 0
    desk.travel(1)

    assert desk.get(result) == "rested"
    assert desk.effects() == ["before", "after"]


def test_a_year_of_sleep_survives_the_death_of_workers(desk: Desk) -> None:
    result = flows.sleeper.delay(365 * 86400)
    desk.drain()
    desk.die()
    desk.travel(365 * 86400)
    desk.claim()  # and nothing more is heard of it
    desk.die()

    assert desk.get(result) == "rested"
    assert desk.effects() == ["before", "after"]


# -- signals


def test_a_signal_wakes_the_run_that_waits_for_it(desk: Desk) -> None:
    result = flows.waiter.delay("packed")
    desk.drain()
    assert desk.is_suspended(result)

    result.signal("packed", {"by": "ann"})

    assert desk.get(result) == {"by": "ann"}
    assert desk.effects() == ["before"]


def test_a_signal_tells_an_idle_worker_to_claim_and_not_to_look_around_before(desk: Desk) -> None:
    result = flows.waiter.delay("packed")
    desk.drain()
    desk.app.database.run(fleet.idle(desk.hand.id, ["celery"]))
    desk.conn.execute(f'LISTEN "pgtasks_worker_{desk.hand.id}"'.encode())

    result.signal("packed")

    assert [heard.payload for heard in desk.conn.notifies(timeout=30, stop_after=1)] == ["ready"]


def test_a_signal_before_the_wait_is_kept_for_it(desk: Desk) -> None:
    result = flows.waiter.delay("packed")
    result.signal("packed", 1)

    assert desk.get(result) == 1


def test_a_signal_that_comes_between_the_look_and_the_suspension_is_not_lost(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = flows.waiter.delay("packed")
    do = flows.app.database.run

    def late(query: Any, conn: Any = None) -> Any:
        if query.statement.name == "suspend":
            desk.conn.execute("SELECT pgtasks.signal(%s, 'packed', '7'::jsonb)", [result.id])
        return do(query, conn)

    monkeypatch.setattr(flows.app.database, "run", late)

    assert desk.get(result) == 7


def test_signals_are_used_once_each_in_their_order(desk: Desk) -> None:
    result = flows.waits.delay(["a", "b", "a"])
    for value, name in enumerate(["a", "a", "b"]):
        result.signal(name, value)

    assert desk.get(result) == [0, 2, 1]


def test_a_signal_sent_twice_under_one_key_is_one(desk: Desk) -> None:
    result = flows.waits.delay(["a", "a"])
    assert result.signal("a", 1, key="k") is True
    assert result.signal("a", 1, key="k") is False
    desk.drain()
    assert desk.is_suspended(result)

    result.signal("a", 2)

    assert desk.get(result) == [1, 2]


def test_the_verdict_of_a_timeout_stands_whatever_comes_later(desk: Desk) -> None:
    result = flows.waiter.delay("packed", 60)
    desk.drain()
    desk.travel(61)
    (claim,) = desk.claim()
    desk.run(claim)  # decided, and the worker dies before that is told
    result.signal("packed", "too late")

    desk.die()

    assert desk.get(result) == "nobody came"


def test_a_signal_within_the_time_wins_over_the_timeout(desk: Desk) -> None:
    result = flows.waiter.delay("packed", 60)
    desk.drain()

    result.signal("packed", "in time")
    desk.travel(61)

    assert desk.get(result) == "in time"


def test_a_signal_in_a_transaction_wakes_nobody_until_that_commits(desk: Desk) -> None:
    result = flows.waiter.delay("packed")
    desk.drain()

    with psycopg.connect(flows.app.database_url) as theirs:
        result.signal("packed", 1, conn=theirs)
        assert desk.drain() == 0
        theirs.rollback()
        assert desk.drain() == 0
        result.signal("packed", 2, conn=theirs)

    assert desk.get(result) == 2


def test_a_signal_can_be_sent_in_sql(desk: Desk) -> None:
    result = flows.waiter.delay("packed")
    desk.drain()

    sent = desk.conn.execute("SELECT pgtasks.signal(%s, 'packed', '{\"by\": \"sql\"}')", [result.id]).fetchone()

    assert sent == (True,)
    assert desk.get(result) == {"by": "sql"}


def test_a_signal_to_a_run_that_has_ended_is_refused_readably(desk: Desk) -> None:
    result = flows.five.delay(1)
    desk.drain()

    with pytest.raises(RunEnded, match=f"The run {result.id} has ended and takes no signals"):
        result.signal("packed")


def test_a_signal_to_an_unknown_run_is_refused_readably(desk: Desk) -> None:
    with pytest.raises(RunNotFound, match="No run .* is known here"):
        flows.app.AsyncResult(str(new_id())).signal("packed")


def test_a_signal_does_not_start_a_run_before_its_time(desk: Desk) -> None:
    result = flows.waiter.apply_async(("packed",), countdown=3600)

    result.signal("packed", 1)

    assert desk.drain() == 0
    assert desk.standing(result) == ["scheduled"]


def test_a_run_that_signals_another_one_does_it_once_however_often_it_is_replayed(desk: Desk) -> None:
    heard = flows.waits.delay(["packed", "packed"])
    telling = flows.telling_another.delay(heard.id)
    desk.drain()
    desk.travel(61)

    assert desk.get(telling) is True
    assert desk.is_suspended(heard)
    assert rows(desk, "signal") == 1


def test_an_approval_says_who_decided(desk: Desk) -> None:
    result = flows.approving.delay()
    desk.drain()

    result.approve("release", by="ann", comment="looks good")

    assert desk.get(result) == [True, "ann", "looks good"]


def test_nobody_who_decides_in_time_is_a_no(desk: Desk) -> None:
    result = flows.approving.delay(10)
    desk.drain()
    desk.travel(11)

    assert desk.get(result) == [False, None, None]


# -- leaving the code


def test_except_exception_cannot_swallow_a_suspension(desk: Desk) -> None:
    result = flows.swallowing.delay("go")
    desk.drain()
    assert desk.is_suspended(result)

    result.signal("go", 5)

    assert desk.get(result) == 5
    assert desk.stage.lines("swallowed") == []
    assert desk.effects() == ["in finally"]


def test_code_that_swallows_everything_is_left_all_the_same(desk: Desk) -> None:
    result = flows.bare.delay("go")
    desk.drain()
    assert desk.is_suspended(result)

    result.signal("go", "heard")

    assert desk.get(result) == "heard"


def test_a_run_whose_database_is_gone_for_a_while_goes_on_later_whatever_its_code_swallows(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = flows.shrugging.delay()
    (claim,) = desk.claim()
    run = desk.app.database.run

    def failing(query: Any, conn: Any = None) -> Any:
        if query.statement.name == "remember":
            raise DatabaseUnavailable("gone")
        return run(query, conn)

    with monkeypatch.context() as patch:
        patch.setattr(desk.app.database, "run", failing)
        outcome = desk.run(claim)

    assert outcome.kind == "back"
    desk.settle(outcome)
    desk.travel(2)
    assert desk.get(result) == "shrugged"
    assert desk.effects() == ["step 0", "step 0", "step 1", "step 2"]


# -- tasks


def test_children_are_made_once_however_often_the_run_is_replayed(desk: Desk) -> None:
    result = flows.parent.delay(5)
    (claim,) = desk.claim()
    desk.run(claim)
    desk.die()

    assert desk.get(result) == [0, 2, 4, 6, 8]
    assert desk.effects() == ["add"] * 5


def test_a_run_whose_worker_dies_between_two_children_makes_the_rest(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    result = flows.parent.delay(5)
    together = flows.app.database.run_together
    calls: list[int] = []

    def dying(*queries: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return together(*queries)

    with monkeypatch.context() as patch:
        patch.setattr(flows.app.database, "run_together", dying)
        (claim,) = desk.claim()
        desk.run(claim)
    desk.die()

    assert desk.get(result) == [0, 2, 4, 6, 8]
    assert desk.effects() == ["add"] * 5
    assert rows(desk, "message") == 6


def test_a_run_waits_for_all_of_a_group_and_wakes_once(desk: Desk) -> None:
    result = flows.grouping.delay(6)
    assert desk.turn() == 1
    assert desk.is_suspended(result)
    for _ in range(5):
        (claim,) = desk.claim(1)
        desk.settle(desk.run(claim))
        assert desk.is_suspended(result)

    assert desk.get(result) == [1, 2, 3, 4, 5, 6]


def test_many_calls_at_once_are_made_once(desk: Desk) -> None:
    result = flows.many.delay(20)
    (claim,) = desk.claim()
    desk.run(claim)
    desk.die()

    assert desk.get(result) == [2 * i for i in range(20)]
    assert desk.effects() == ["add"] * 20


def test_a_canvas_within_a_workflow_is_made_once(desk: Desk) -> None:
    result = flows.chaining.delay()
    (claim,) = desk.claim()
    desk.run(claim)
    desk.die()

    assert desk.get(result) == 113
    assert desk.effects() == ["add"] * 3


def test_the_error_of_a_child_is_raised_where_its_result_is_asked_for(desk: Desk) -> None:
    assert desk.get(flows.failing_child.delay()) == "child said child"


def test_a_workflow_can_wait_for_another_one(desk: Desk) -> None:
    assert desk.get(flows.outer.delay(1)) == 6


def test_a_workflow_is_a_part_of_a_canvas(desk: Desk) -> None:
    result = (flows.sleeper.s(10) | flows.add.si(1, 2) | flows.five.s()).delay()
    desk.drain()
    desk.travel(11)

    assert desk.get(result) == 8


def test_the_first_of_several_things_is_a_signal(desk: Desk) -> None:
    result = flows.first_of.delay("g", "now", 60)
    _turn_without_children(desk)

    result.signal("now", "signalled")
    desk.stage.open("g")

    assert desk.get(result) == ["now", "signalled"]


def test_the_first_of_several_things_is_a_task(desk: Desk) -> None:
    result = flows.first_of.delay("g", "now", 60)
    desk.stage.open("g")

    assert desk.get(result) == ["child", "from child"]


def test_the_first_of_several_things_is_the_end_of_the_time(desk: Desk) -> None:
    result = flows.first_of.delay("g", "now", 60)
    _turn_without_children(desk)
    desk.travel(61)
    _turn_without_children(desk)
    desk.stage.open("g")

    assert desk.get(result) == "time out"


def _turn_without_children(desk: Desk) -> None:
    for claim in desk.claim():
        if claim.name == flows.first_of.name:
            desk.settle(desk.run(claim))


# -- cancel


def test_a_suspended_run_that_is_revoked_is_undone_last_first(desk: Desk) -> None:
    result = flows.undoing.delay(False)
    desk.drain()

    result.revoke()
    desk.drain()

    with pytest.raises(TaskRevokedError):
        result.get(timeout=0)
    assert desk.effects() == ["do 0", "do 1", "do 2", "undo 2", "undo 1", "undo 0"]
    assert desk.standing(result) == ["REVOKED"]


def test_a_run_that_is_revoked_after_its_last_step_and_before_its_end_is_known_is_undone(desk: Desk) -> None:
    result = flows.undoing.delay(False)
    result.signal("go on")
    (claim,) = desk.claim()
    desk.run(claim)  # it has succeeded, and its worker dies before it can say so
    desk.die()
    result.revoke()

    desk.drain()

    assert desk.effects()[3:] == ["undo 2", "undo 1", "undo 0"]
    assert desk.standing(result) == ["REVOKED"]


def test_a_run_that_fails_is_undone_and_a_crash_on_the_way_undoes_nothing_twice(desk: Desk) -> None:
    result = flows.undoing.delay(True)
    (claim,) = desk.claim()
    desk.run(claim)
    desk.die()

    with pytest.raises(flows.Refused, match="after all"):
        desk.get(result)
    assert desk.effects() == ["do 0", "do 1", "do 2", "undo 2", "undo 1", "undo 0"]


def test_a_running_run_is_cancelled_at_its_next_step(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    result = flows.five.delay(0)
    (claim,) = desk.claim()
    result.revoke()

    desk.settle(desk.run(claim))

    assert desk.effects() == ["step 0"]
    assert desk.standing(result) == ["REVOKED"]


def test_the_children_of_a_cancelled_run_are_cancelled_unless_it_says_otherwise(desk: Desk) -> None:
    cancelled, left = flows.with_children.delay("g"), flows.leaving_children.delay("g")
    for claim in desk.claim():
        desk.settle(desk.run(claim))

    cancelled.revoke()
    left.revoke()
    for claim in desk.claim():
        if claim.name.endswith("children"):
            desk.settle(desk.run(claim))

    states = desk.conn.execute(
        "SELECT m.parent, r.state, c.revoke_signal FROM pgtasks.message m LEFT JOIN pgtasks.result r ON r.id = m.id"
        " LEFT JOIN pgtasks.claim c ON c.id = m.id WHERE m.name LIKE '%gated'"
    ).fetchall()
    by_parent = {parent: (state, signal) for parent, state, signal in states}
    assert by_parent[id_of(left.id)] == (None, None)
    assert by_parent[id_of(cancelled.id)] != (None, None)


# -- values and streams


def test_what_a_run_tells_can_be_seen_while_it_runs(desk: Desk) -> None:
    result = flows.telling.delay()
    desk.drain()
    assert result.value("progress") == 0
    stream = result.stream()
    assert next(stream) == {"piece": 0}

    for _ in range(3):
        result.signal("more")
        desk.drain()

    assert list(stream) == [{"piece": 1}, {"piece": 2}]
    assert result.value("progress") == 2
    assert result.value("unknown", "none") == "none"


# -- the task's own ways


def test_a_run_can_begin_anew_under_its_id(desk: Desk) -> None:
    result = flows.beginning_anew.delay()
    for how in ("again", "again", "enough"):
        desk.drain()
        result.signal("how", how)

    assert desk.get(result) == "done"
    assert desk.effects() == ["round"] * 3
    keys = {line["key"] for line in desk.stage.lines("effect")}
    assert len(keys) == 3


@pytest.mark.parametrize("flow", [flows.retrying, flows.auto_retrying], ids=["retry", "autoretry_for"])
def test_a_retry_of_the_task_runs_the_failed_step_again_and_no_other(desk: Desk, flow: Any) -> None:
    result = flow.delay(str(desk.stage.directory / "tries"))
    for _ in range(4):
        desk.drain()
        desk.travel(1000)

    assert desk.get(result) == 2
    assert desk.effects() == ["kept", "flaky", "flaky", "flaky"]


def test_a_run_that_has_begun_does_not_expire(desk: Desk) -> None:
    result = flows.sleeper.apply_async((3600,), expires=60)
    desk.drain()
    desk.conn.execute("UPDATE pgtasks.message SET expires = expires - interval '1 day'")
    desk.travel(3601)

    assert desk.get(result) == "rested"


@pytest.mark.parametrize("how", ["sleep", "sleep_until", "wait", "wait_any", "approval"])
@pytest.mark.parametrize("value", ["soon", float("nan")], ids=str)
def test_a_time_that_is_none_fails_the_run_with_what_to_pass(desk: Desk, how: str, value: Any) -> None:
    result = flows.waiting_for.delay(how, value)

    with pytest.raises(WorkflowError, match=f"wf.{how} got .*Pass"):
        desk.get(result)


def test_a_signal_that_is_sent_again_under_its_key_is_known_though_its_run_has_ended(desk: Desk) -> None:
    result = flows.waiter.delay("go")
    desk.drain()
    assert result.signal("go", 1, key="once")
    assert desk.get(result) == 1

    assert not result.signal("go", 1, key="once")
    with pytest.raises(RunEnded):
        result.signal("go", 1, key="another")
