"""Flow control through real workers: what the journal says is what counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgtasks import Celery, chain, chord, group
from pgtasks.store import flows
from pgtasks.store.flows import QueueLimit
from tests.support.flowcheck import most_at_once
from tests.support.workers import Stage, WorkerProcess, eventually, running
from tests.worker import flow_jobs as jobs

MODULE = "tests.worker.flow_jobs"
STUCK_S = 60


@pytest.fixture
def worker(database_url: str, stage: Stage, tmp_path: Path) -> Any:
    with running(tmp_path, module=MODULE, concurrency=4) as worker:
        yield worker


def stranger() -> Celery:
    """An app that knows none of the tasks, and so nothing of their limits."""
    return Celery("stranger", set_as_current=False)


def gets(*results: Any) -> list[Any]:
    return [result.get(timeout=STUCK_S) for result in results]


def test_limits_hold_over_two_workers_and_whichever_way_tasks_come(
    database_url: str, stage: Stage, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    with running(tmp_path, module=MODULE, concurrency=3), running(tmp_path, module=MODULE, pool="threads", concurrency=3):
        results = [jobs.of_tenant.delay(tenant) for tenant in "aaaabbbbcccc"]
        results += [jobs.of_tenant.apply_async((tenant,), countdown=0.1) for tenant in "abcabc"]
        results += [stranger().send_task(jobs.of_tenant.name, (tenant,)) for tenant in "abcabc"]
        results += list(jobs.of_tenant.delay_many("abc" * 30))
        results += [chain(jobs.plain.si(), jobs.of_tenant.si(tenant))() for tenant in "abc"]
        with psycopg.connect(database_url) as mine:
            results += [jobs.of_tenant.apply_async((tenant,), conn=mine) for tenant in "abc"]
        gets(*results)

    most = most_at_once(stage.lines())
    assert max(most[tenant] for tenant in "abc") <= jobs.CONCURRENCY
    assert most["all of abc"] <= jobs.TOTAL
    assert [conn.execute(f"SELECT count(*) FROM pgtasks.{table}").fetchone() for table in ("held", "slot", "lane")] == [
        (0,), (0,), (0,),
    ]  # fmt: skip


def test_members_of_a_chord_under_a_limit_run_one_by_one_and_its_body_once(worker: WorkerProcess, stage: Stage) -> None:
    body = chord(group(jobs.alone.s(name) for name in "abcdef"), jobs.plain.s())()

    assert body.get(timeout=STUCK_S) == list("abcdef")
    assert most_at_once(stage.lines())[""] == 1


def test_a_task_that_tries_again_waits_for_its_turn_again(worker: WorkerProcess) -> None:
    assert gets(*[jobs.second_try.delay() for _ in range(4)]) == [1, 1, 1, 1]


def test_a_workflow_that_sleeps_holds_no_place(worker: WorkerProcess, stage: Stage) -> None:
    first, second = jobs.sleeper.delay("first", "go"), jobs.sleeper.delay("second", "now")
    stage.await_line("begin", name="second")

    second.signal("now")
    assert second.get(timeout=STUCK_S) == "second"
    first.signal("go")
    assert first.get(timeout=STUCK_S) == "first"


def test_a_transactional_task_gives_its_place_up_as_it_commits(worker: WorkerProcess) -> None:
    assert len(gets(*[jobs.booked.delay() for _ in range(5)])) == 5


def test_coroutines_under_a_limit_run_one_by_one(database_url: str, stage: Stage, tmp_path: Path) -> None:
    with running(tmp_path, module=MODULE, pool="aio", concurrency=10):
        gets(*[jobs.alone_in_a_loop.delay(name) for name in "abcdef"])

    assert most_at_once(stage.lines())[""] == 1


def test_a_held_task_that_is_revoked_never_begins(worker: WorkerProcess, stage: Stage) -> None:
    first, second = jobs.alone.delay("first", "first"), jobs.alone.delay("second")
    stage.await_line("begin", name="first")

    second.revoke()
    stage.open("first")

    assert first.get(timeout=STUCK_S) == "first"
    eventually(lambda: second.state == "REVOKED")
    assert stage.lines("begin", name="second") == []


def test_one_tenants_task_is_not_behind_thousands_of_anothers(worker: WorkerProcess, stage: Stage) -> None:
    backlog = jobs.in_turn.delay_many(["big"] * 3000)

    jobs.in_turn.delay("small").get(timeout=STUCK_S)

    before = len(stage.lines("begin", key="big"))
    assert before < 3000 / 2
    assert len(backlog) == 3000


def test_a_key_that_cannot_be_made_where_the_task_runs_fails_it_and_says_so(worker: WorkerProcess) -> None:
    result = stranger().send_task(jobs.of_tenant.name, kwargs={"tenant": "a", "unknown": 1})

    with pytest.raises(TypeError, match="flow key of task 'tests.worker.flow_jobs.of_tenant' needs its arguments"):
        result.get(timeout=STUCK_S)


def test_a_second_call_of_a_unique_task_is_the_first(worker: WorkerProcess, stage: Stage) -> None:
    first, second, other = jobs.once.delay(1), jobs.once.delay(1), jobs.once.delay(2)
    assert (first.id == second.id, first.id == other.id) == (True, False)

    stage.open("once")

    assert gets(first, second, other) == [1, 1, 2]
    assert jobs.once.delay(1).id != first.id


def test_calls_that_are_debounced_run_once_with_the_last_words(worker: WorkerProcess, stage: Stage) -> None:
    results = [jobs.index.delay("page", version) for version in range(5)]

    assert {result.id for result in results} == {results[0].id}
    assert results[0].get(timeout=STUCK_S) == 4
    assert len(stage.lines("begin", id="page")) == 1


def test_a_queue_can_be_limited_while_workers_run(
    database_url: str, stage: Stage, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    database = jobs.app.database
    database.run(flows.limit_queue(QueueLimit("celery", 2, 1, None, None)))
    with running(tmp_path, module=MODULE, concurrency=3), running(tmp_path, module=MODULE, concurrency=3):
        results = [jobs.plain.delay(number, 0.01) for number in range(20)]
        results += [chain(jobs.plain.si(1), jobs.plain.si(2))() for _ in range(3)]
        gets(*results)
        assert most_at_once(stage.lines())["plain"] <= 2

        database.run(flows.limit_queue(QueueLimit("celery", 0, None, None, None)))  # paused
        eventually(lambda: conn.execute("SELECT bool_and(queues IS NOT NULL) FROM pgtasks.worker").fetchone())
        database.run(flows.unlimit_queue("celery"))
        gets(*[jobs.plain.delay(number) for number in range(5)])
