"""A worker's dealings with the database when answers are lost, sessions die and outcomes cannot be stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgtasks.exceptions import OperationalError
from pgtasks.message import Claim, Message, Outcome
from pgtasks.store import tasks
from pgtasks.store.database import Database
from pgtasks.worker.consumer import Consumer
from tests.support.hands import Hand, again, back, done, ids, message, standing
from tests.support.links import Link
from tests.support.proxy import FaultProxy
from tests.support.workers import Stage, WorkerProcess, eventually, running
from tests.worker import jobs

Conn = psycopg.Connection[Any]


@pytest.fixture
def consumer(proxy: FaultProxy) -> Iterator[Consumer]:
    """The consumer of a worker that reaches the database through the proxy."""
    description = {
        "hostname": "w@h", "machine": "h", "pool": "prefork", "concurrency": 1, "queues": ["celery"], "version": "0"
    }  # fmt: skip
    consumer = Consumer(Database(proxy.url, patience_s=0), description, lease_s=60, max_deliveries=5)
    consumer.enlist()
    yield consumer
    consumer.close()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def enqueue(database: Database, *messages: Message) -> None:
    database.run(tasks.enqueue(messages))


def persist(consumer: Consumer, outcomes: list[Outcome], room: int, known: list[Claim]) -> list[Claim]:
    """Step until the database answers, as a worker does."""
    while True:
        try:
            return consumer.step(outcomes, room, known)
        except OperationalError:
            pass


CLAIM, SETTLE, RELEASE = b"UPDATE SKIP LOCKED\n  ) r", b"let_go AS", b"lowered AS (\n  UPDATE pgtasks.waiting w\n"
FAULTS = ["cut_before", "cut_after"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_claim_whose_answer_is_lost_is_given_back_and_claimed_again(
    database: Database, consumer: Consumer, proxy: FaultProxy, conn: Conn, fault: str
) -> None:
    enqueue(database, *[message() for _ in range(5)])
    sprung = getattr(proxy, fault)(CLAIM)

    claims = persist(consumer, [], 3, [])

    assert sprung.is_set()
    held = conn.execute("SELECT id FROM pgtasks.claim ORDER BY id").fetchall()
    assert sorted(ids(claims)) == [row[0] for row in held]
    assert len(claims) == 3
    assert {claim.losses for claim in claims} == {0}


@pytest.mark.parametrize("fault", FAULTS)
def test_claims_in_hand_survive_the_answer_that_is_lost(
    database: Database, consumer: Consumer, proxy: FaultProxy, conn: Conn, fault: str
) -> None:
    enqueue(database, message())
    in_hand = consumer.step([], 1, [])
    enqueue(database, message())
    getattr(proxy, fault)(CLAIM)

    more = persist(consumer, [], 5, in_hand)

    assert len(more) == 1
    settled = persist(consumer, [done(claim) for claim in (*in_hand, *more)], 0, [])
    assert settled == []
    assert conn.execute("SELECT state, count(*) FROM pgtasks.result GROUP BY state").fetchall() == [("SUCCESS", 2)]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("needle", [CLAIM, SETTLE])
@pytest.mark.parametrize("outcome", [again, back], ids=["retry", "give-back"])
def test_a_task_that_comes_back_in_the_answer_that_is_lost_is_not_stranded(
    database: Database, consumer: Consumer, proxy: FaultProxy, conn: Conn, fault: str, needle: bytes, outcome: Any
) -> None:
    """It is settled and claimed anew in one step; what was lost was a claim on a task that is still in hand."""
    task = message()
    enqueue(database, task)
    (claim,) = consumer.step([], 1, [])
    sprung = getattr(proxy, fault)(needle)

    claims = persist(consumer, [outcome(claim)], 5, [])
    if not claims:  # given back; the next look finds it
        claims = persist(consumer, [], 5, [])

    assert sprung.is_set()
    assert ids(claims) == [task.id]
    persist(consumer, [done(claims[0])], 0, [])
    assert standing(conn, task) == ["SUCCESS"]


@pytest.mark.parametrize("trigger", [None, "all_done"])
def test_a_worker_does_not_sleep_past_the_countdown_of_a_step_that_it_released(
    database: Database, consumer: Consumer, conn: Conn, trigger: str | None
) -> None:
    first, second = message(), message(inputs="value", countdown_s=0.1, trigger=trigger)
    database.run(tasks.enqueue([first, second], [Link(second.id, first.id)]))
    (claim,) = consumer.step([], 2, [])
    consumer.tick()
    in_a_second = consumer.next_tick_at(lambda: 1)

    consumer.step([done(claim)], 1, [])

    assert standing(conn, second) == ["scheduled"]
    assert consumer.next_tick_at(lambda: 1) < in_a_second


@pytest.mark.parametrize("fault", FAULTS)
def test_a_result_whose_answer_is_lost_is_stored_once(
    database: Database, consumer: Consumer, proxy: FaultProxy, conn: Conn, fault: str
) -> None:
    first, second = message(), message(inputs="value")
    plain = message()
    database.run(tasks.enqueue([first, second, plain], [Link(second.id, first.id)]))
    claims = consumer.step([], 2, [])
    sprung = getattr(proxy, fault)(RELEASE)
    getattr(proxy, fault)(CLAIM)

    persist(consumer, [done(claim) for claim in claims], 0, [])

    assert sprung.is_set()

    assert standing(conn, first) == standing(conn, plain) == ["SUCCESS"]
    assert conn.execute("SELECT count(*) FROM pgtasks.ready WHERE id = %s", [second.id]).fetchone() == (1,)


@pytest.mark.parametrize("fault", FAULTS)
def test_at_most_once_tasks_whose_beginning_could_not_be_noted_are_given_back(
    database: Database, consumer: Consumer, proxy: FaultProxy, conn: Conn, fault: str
) -> None:
    task = message()
    enqueue(database, task)
    claims = consumer.step([], 1, [])
    getattr(proxy, fault)(b"SET acked = true")

    with pytest.raises(OperationalError):
        consumer.ack(claims)
    (claim,) = persist(consumer, [], 1, [])

    assert (claim.id, claim.fate, claim.losses) == (task.id, "live", 0)


def test_an_outcome_that_no_database_takes_does_not_keep_the_others_from_being_settled(
    database: Database, consumer: Consumer, conn: Conn
) -> None:
    good, bad = message(), message()
    enqueue(database, good, bad)
    first, second = consumer.step([], 2, [])

    persist(consumer, [done(first, state="NUL\0"), done(second, state="FAILURE")], 0, [])

    assert standing(conn, good) == ["FAILURE"]
    assert standing(conn, bad) == ["FAILURE"]


def test_a_consumer_whose_session_was_terminated_goes_on(database: Database, consumer: Consumer, conn: Conn) -> None:
    enqueue(database, message())
    (claim,) = consumer.step([], 1, [])
    conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    persist(consumer, [done(claim)], 1, [])

    assert conn.execute("SELECT count(*) FROM pgtasks.result").fetchone() == (1,)


UNDO = """
WITH taken AS (DELETE FROM pgtasks.claim WHERE id = %(second)s),
held AS (UPDATE pgtasks.waiting SET pending = 1 WHERE id = %(second)s),
kept AS (DELETE FROM pgtasks.result WHERE id = %(first)s RETURNING id, claimed_at)
INSERT INTO pgtasks.claim (id, worker, claimed_at, retries, delivery)
SELECT id, %(worker)s, claimed_at, 0, %(delivery)s FROM kept
"""


def test_a_link_of_a_chain_that_a_crash_of_the_server_undid_is_run_again(
    database: Database, consumer: Consumer, conn: Conn
) -> None:
    """Its commit had not reached the disk; the worker, which runs the next link, learns of it by the lost connection."""
    first, second = message(), message(inputs="value")
    database.run(tasks.enqueue([first, second], [Link(second.id, first.id)]))
    (claim,) = consumer.step([], 5, [])
    (taken,) = consumer.step([done(claim)], 5, [])
    values = {"first": first.id, "second": second.id, "worker": consumer.worker, "delivery": claim.delivery}
    conn.execute(UNDO, values)
    conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    (again_first,) = persist(consumer, [], 5, [taken])
    lost = consumer.take_lost()
    (again_second,) = persist(consumer, [done(again_first, b"2")], 5, [])

    assert lost == {second.id}
    assert (again_first.id, again_first.delivery) == (first.id, claim.delivery + 1)
    assert (again_second.id, again_second.input_values) == (second.id, [b"2"])


def test_the_errbacks_of_an_outcome_that_was_fenced_off_are_not_sent(
    database: Database, consumer: Consumer, conn: Conn
) -> None:
    task, errback = message(), message("errback")
    enqueue(database, task)
    (claim,) = consumer.step([], 1, [])
    failure = done(claim, state="FAILURE", follow_ups=(((errback,), ()),))

    persist(consumer, [failure._replace(delivery=claim.delivery + 1)], 0, [claim])
    assert standing(conn, errback) == []
    persist(consumer, [failure], 0, [])

    assert standing(conn, task) == ["FAILURE"]
    assert standing(conn, errback) == ["ready"]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_errbacks_of_an_outcome_whose_answer_is_lost_are_sent_once(
    database: Database, consumer: Consumer, proxy: FaultProxy, conn: Conn, fault: str
) -> None:
    task, errback = message(), message("errback")
    enqueue(database, task)
    (claim,) = consumer.step([], 1, [])
    sprung = getattr(proxy, fault)(b"COMMIT")

    persist(consumer, [done(claim, state="FAILURE", follow_ups=(((errback,), ()),))], 0, [])

    assert sprung.is_set()
    assert standing(conn, task) == ["FAILURE"]
    assert standing(conn, errback) == ["ready"]


# -- the whole worker


@pytest.fixture
def far_worker(stage: Stage, proxy: FaultProxy) -> Iterator[WorkerProcess]:
    """A worker that reaches the database through the proxy, with a lease of a second."""
    with running(stage.directory, environ={"PGTASKS_DATABASE_URL": proxy.url}, conf={"worker_lease": 1.0}) as worker:
        yield worker
    jobs.app.database.close()


def get(result: Any) -> Any:
    return result.get(timeout=60)


def test_a_worker_outlives_a_database_that_is_away_for_longer_than_its_lease(
    far_worker: WorkerProcess, proxy: FaultProxy, stage: Stage, conn: Conn
) -> None:
    result = jobs.wait.delay("go", 1)
    line = stage.await_line("begin", id=result.id)

    proxy.refuse()
    far_worker.await_output("Lost the database")
    far_worker.await_output("lost its lease")
    eventually(lambda: not Path(f"/proc/{line['pid']}").exists(), "what ran has been stopped")
    stage.open("go")
    proxy.accept()

    assert get(result) == 1
    assert get(jobs.add.delay(1, 1)) == 2
    assert far_worker.stop() == 0


def test_a_worker_lets_its_tasks_run_while_the_database_is_away_for_less_than_its_lease(
    stage: Stage, proxy: FaultProxy, conn: Conn
) -> None:
    with running(stage.directory, environ={"PGTASKS_DATABASE_URL": proxy.url}) as worker:
        result = jobs.wait.delay("go", 1)
        stage.await_line("begin", id=result.id)

        proxy.refuse()
        worker.await_output("Lost the database")
        stage.open("go")
        stage.await_line("end", id=result.id)
        proxy.accept()

        assert get(result) == 1
    assert len(stage.lines("begin", id=result.id)) == 1
    jobs.app.database.close()


def test_a_worker_stops_while_the_database_is_away(far_worker: WorkerProcess, proxy: FaultProxy) -> None:
    proxy.refuse()
    far_worker.await_output("Lost the database")

    assert far_worker.stop() == 0


def test_a_worker_that_lost_its_connection_listens_again_by_the_next_one(far_worker: WorkerProcess, conn: Conn) -> None:
    def connections() -> list[int]:
        rows = conn.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'WITH renewed AS%'"
        )
        return [row[0] for row in rows]

    (before,) = eventually(connections)
    conn.execute("SELECT pg_terminate_backend(%s)", [before])

    assert get(jobs.add.delay(1, 1)) == 2
    eventually(lambda: connections() and before not in connections(), "it has another one")
    eventually(lambda: conn.execute("SELECT count(*) FROM pgtasks.idle").fetchone() != (0,), "it rests")
    ((worker,),) = conn.execute("SELECT id FROM pgtasks.worker").fetchall()
    conn.execute("DELETE FROM pgtasks.worker")  # which it notices by its next tick, or when its doorbell rings
    conn.execute("SELECT pg_notify('pgtasks_worker_' || %s, '')", [worker])
    assert get(jobs.add.delay(2, 2)) == 4


def test_an_idle_worker_holds_one_connection(far_worker: WorkerProcess, conn: Conn) -> None:
    ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgtasks'"

    assert get(jobs.add.delay(1, 1)) == 2
    jobs.app.close()
    jobs.app.forget_database()

    eventually(lambda: conn.execute(ours).fetchone() == (1,), "the worker's")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "needle",
    [
        CLAIM,
        SETTLE,
        b"UPDATE pgtasks.worker SET heartbeat_at",
        b"INSERT INTO pgtasks.idle",
        b"INSERT INTO pgtasks.worker",
    ],
)
def test_whichever_answer_a_worker_loses_every_task_ends_once(
    far_worker: WorkerProcess, proxy: FaultProxy, stage: Stage, conn: Conn, fault: str, needle: bytes
) -> None:
    sprung = getattr(proxy, fault)(needle)
    if b"INTO pgtasks.worker" in needle:
        conn.execute("DELETE FROM pgtasks.worker")  # it must enlist anew

    results = [jobs.add.delay(n, 1) for n in range(10)] + [jobs.retry_until.delay(1, 0) for _ in range(3)]

    assert [get(result) for result in results] == [*range(1, 11), 1, 1, 1]
    assert sprung.wait(60)
    assert get(jobs.add.delay(1, 1)) == 2
    assert far_worker.stop() == 0
    assert conn.execute("SELECT count(*) FROM pgtasks.claim").fetchone() == (0,)
    assert conn.execute("SELECT max(losses) FROM pgtasks.ready").fetchone() == (None,)
    Hand(Database(proxy.url))
