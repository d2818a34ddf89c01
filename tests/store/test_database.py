"""The executors under what networks and servers do: cut, frozen, terminated, read-only, full, forked."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest
from psycopg import errors

from pgtasks.exceptions import DatabaseFull, DatabaseRefused, DatabaseUnavailable, OperationalError, SchemaError
from pgtasks.message import new_id
from pgtasks.store import database as database_module
from pgtasks.store import faults, fleet, results, tasks
from pgtasks.store.database import AsyncDatabase, Database
from tests.support import postgres
from tests.support.hands import Hand, done, ids, message, standing
from tests.support.links import Link
from tests.support.proxy import FaultProxy
from tests.support.workers import STUCK_S, eventually

Conn = psycopg.Connection[Any]


# -- the answer to a commit is lost


class Lost(NamedTuple):
    """A statement whose answer is lost, by a part of its text."""

    name: str
    needle: bytes


@pytest.mark.parametrize("fault", ["cut_before", "cut_after"])
def test_an_enqueue_whose_answer_is_lost_adds_the_task_once(
    far: Database, proxy: FaultProxy, hand: Hand, fault: str
) -> None:
    one, many = message(), [message(), message(countdown_s=0.001)]
    sprung = [getattr(proxy, fault)(needle) for needle in (b"INSERT INTO pgtasks.message", b"WITH item AS")]

    far.run(tasks.enqueue([one]))
    far.run(tasks.enqueue(many))

    assert all(event.is_set() for event in sprung)
    hand.tick()
    assert sorted(ids(hand.claim())) == sorted(ids([one, *many]))


@pytest.mark.parametrize("fault", ["cut_before", "cut_after"])
def test_a_settle_whose_answer_is_lost_stores_the_result_once_and_releases_once(
    database: Database, far: Database, proxy: FaultProxy, hand: Hand, conn: Conn, fault: str
) -> None:
    first, second = message(), message(inputs="value")
    database.run(tasks.enqueue([first, second], [Link(second.id, first.id)]))
    (claim,) = hand.claim()
    sprung = getattr(proxy, fault)(b"let_go AS")

    far.run(tasks.settle(hand.id, "far", [done(claim, b"5")]))

    assert sprung.is_set()
    assert standing(conn, first) == ["SUCCESS"]
    assert conn.execute("SELECT count(*) FROM pgtasks.ready").fetchone() == (1,)


@pytest.mark.parametrize("fault", ["cut_before", "cut_after"])
def test_an_added_member_of_a_chord_whose_answer_is_lost_is_waited_for_once(
    database: Database, far: Database, proxy: FaultProxy, hand: Hand, conn: Conn, fault: str
) -> None:
    head, body, member = message(), message(inputs="list"), message("member")
    database.run(tasks.enqueue([head, body], [Link(body.id, head.id)]))
    (claim,) = hand.claim()
    sprung = getattr(proxy, fault)(b"COMMIT")

    far.run_together(
        tasks.join_chord(hand.id, claim.delivery, head.id, member.id),
        tasks.enqueue([member], [Link(body.id, member.id)]),
    )
    hand.settle(done(claim, b"1"))
    (added,) = hand.claim()
    hand.settle(done(added, b"2"))

    assert sprung.is_set()
    assert [claim.input_values for claim in hand.claim()] == [[b"1", b"2"]]


@pytest.mark.parametrize("fault", ["cut_before", "cut_after"])
def test_a_replacement_whose_answer_is_lost_happens_once(
    database: Database, far: Database, proxy: FaultProxy, hand: Hand, conn: Conn, fault: str
) -> None:
    task = message("old")
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    pred, new = message("pred"), message("new", id=task.id, inputs="value")
    sprung = getattr(proxy, fault)(b"COMMIT")

    far.run_together(
        tasks.replace(hand.id, claim.delivery, new, [pred.id]), tasks.enqueue([pred], [Link(task.id, pred.id)])
    )
    (first,) = hand.claim()
    hand.settle(done(first, b"1"))
    (second,) = hand.claim()

    assert sprung.is_set()
    assert (first.name, second.name, second.input_values) == ("pred", "new", [b"1"])


def test_a_fenced_replacement_enqueues_nothing(database: Database, hand: Hand, conn: Conn) -> None:
    task = message("old")
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    pred, new = message("pred"), message("new", id=task.id, inputs="value")

    database.run_together(
        tasks.replace(hand.id, claim.delivery + 1, new, [pred.id]),
        tasks.enqueue([pred], [Link(task.id, pred.id)]),
    )

    assert standing(conn, task) == ["claimed"]
    assert standing(conn, pred) == []


def test_a_connection_cut_between_two_statements_is_replaced_unnoticed(far: Database, proxy: FaultProxy) -> None:
    far.run(tasks.enqueue([message()]))
    proxy.reset()

    far.run(tasks.enqueue([message()]))


def test_a_backend_terminated_at_any_time_loses_no_enqueue(database: Database, conn: Conn, hand: Hand) -> None:
    messages = [message() for _ in range(150)]

    def produce(mine: list[Any]) -> None:
        for each in mine:
            database.run(tasks.enqueue([each]))

    with ThreadPoolExecutor(3) as threads:
        producing = [threads.submit(produce, messages[start::3]) for start in range(3)]
        seen = 0
        while not all(future.done() for future in producing):
            row = conn.execute("SELECT count(*) FROM pgtasks.message").fetchone()
            assert row is not None
            if row[0] >= seen + 5:  # those who produce must come to something between two blows
                seen = row[0]
                conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'pgtasks' ORDER BY random() LIMIT 1"
                )
        for future in producing:
            future.result()

    assert sorted(ids(hand.claim(1000))) == sorted(ids(messages))


# -- a database that does not answer


def test_a_hung_server_costs_a_deadline_and_not_for_ever(
    far: Database, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module.OwnConnection, "deadline_s", 0.3)
    far.patience_s = 0
    proxy.freeze()

    with pytest.raises(DatabaseUnavailable, match="no answer within"):
        far.ping()

    proxy.thaw()
    far.patience_s = 5
    far.ping()


def test_a_database_that_is_away_for_a_moment_is_waited_for(far: Database, proxy: FaultProxy) -> None:
    proxy.refuse()
    with ThreadPoolExecutor(1) as threads:
        pinging = threads.submit(far.ping)
        with pytest.raises(TimeoutError):
            pinging.result(0.3)
        proxy.accept()

        pinging.result(10)


def test_a_database_that_stays_away_is_an_error_that_celery_users_catch(far: Database, proxy: FaultProxy) -> None:
    far.patience_s = 0.1
    proxy.refuse()

    with pytest.raises(OperationalError, match="Cannot reach the database at .*127"):
        far.run(tasks.enqueue([message()]))


def test_the_password_is_not_in_the_message_of_an_error() -> None:
    database = Database("postgresql://me:secret@127.0.0.1:1/nothing", patience_s=0)

    with pytest.raises(DatabaseUnavailable) as raised:
        database.ping()

    assert "secret" not in str(raised.value)


# -- a database that refuses


@pytest.fixture
def weak_role(conn: Conn) -> Iterator[str]:
    """A role that may log in and do nothing else."""
    role = f"pgtasks_weak_{os.getpid()}"
    conn.execute(f"CREATE ROLE {role} LOGIN")
    yield role
    conn.execute(f"DROP OWNED BY {role}")
    conn.execute(f"DROP ROLE {role}")


def as_role(url: str, role: str) -> str:
    return url.replace("postgres@", f"{role}@", 1)


def test_a_role_without_rights_is_told_at_once_what_it_lacks(database_url: str, weak_role: str, conn: Conn) -> None:
    weak = Database(as_role(database_url, weak_role))

    with pytest.raises((DatabaseRefused, SchemaError), match="may not read the pgtasks schema"):
        weak.run(tasks.enqueue([message()]))


def test_a_role_with_rights_on_the_tables_alone_can_produce_and_work(
    database_url: str, weak_role: str, conn: Conn
) -> None:
    conn.execute(f"GRANT USAGE ON SCHEMA pgtasks TO {weak_role}")
    conn.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgtasks TO {weak_role}")
    conn.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA pgtasks TO {weak_role}")
    weak = Database(as_role(database_url, weak_role))
    task = message()

    weak.run(tasks.enqueue([task]))
    hand = Hand(weak)
    hand.settle(done(hand.claim()[0]))
    hand.tick()
    weak.run(fleet.reap())

    assert standing(conn, task) == ["SUCCESS"]


def test_a_database_that_does_not_exist_is_told_at_once(database_url: str) -> None:
    nowhere = Database(postgres.url_of(database_url, "no_such_database"), patience_s=60)

    with pytest.raises(DatabaseRefused, match="no_such_database"):
        nowhere.ping()


def test_a_server_that_became_read_only_is_left_and_found_again(database: Database, conn: Conn) -> None:
    """As after a failover: the connection points at a primary that was demoted."""
    name = conn.info.dbname
    database.ping()
    conn.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            [name],
        )
        database.patience_s = 0.1
        with pytest.raises(OperationalError, match="read-only"):
            database.run(tasks.enqueue([message()]))
    finally:
        conn.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

    database.run(tasks.enqueue([message()]))


def test_a_dead_prepared_statement_is_prepared_anew(database: Database, database_url: str) -> None:
    """As behind a pooler that hands out other sessions: the statement was prepared on one of them."""
    for _ in range(3):
        database.run(tasks.enqueue([message()]))
    for conn in database._idle:
        conn.execute("DEALLOCATE ALL")

    database.run(tasks.enqueue([message()]))


@pytest.mark.parametrize(
    ("error", "translated"),
    [
        (errors.DiskFull("no space left on device"), DatabaseFull),
        (errors.OutOfMemory("out of memory"), DatabaseFull),
        (errors.TooManyConnections("too many"), DatabaseUnavailable),
        (errors.AdminShutdown("terminating"), DatabaseUnavailable),
        (errors.InsufficientPrivilege("no"), DatabaseRefused),
        (errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction"), DatabaseUnavailable),
        (errors.DeadlockDetected("deadlock"), DatabaseUnavailable),
        (psycopg.OperationalError("the connection is closed"), DatabaseUnavailable),
    ],
)
def test_what_the_server_says_becomes_an_error_that_celery_users_catch(
    error: psycopg.Error, translated: type[Exception]
) -> None:
    ours = faults.translate(error, "postgresql://u:secret@h/d")

    assert isinstance(ours, translated)
    assert isinstance(ours, OperationalError)
    assert "secret" not in str(ours)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (
            "connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
            "connection refused. Is it running, and is the URL right?",
        ),
        ('FATAL:  database "shop" does not exist', 'FATAL:  database "shop" does not exist. Create it'),
        ('FATAL:  password authentication failed for user "u"', 'for user "u". Check PGTASKS_DATABASE_URL'),
    ],
)
def test_who_cannot_connect_is_told_once_what_to_do(said: str, advice: str) -> None:
    ours = str(faults.translate(psycopg.OperationalError(said), "postgresql://u@h/d"))

    assert advice in ours
    assert ours.count("?") == advice.count("?")


@pytest.mark.parametrize(
    ("error", "is_passing"),
    [
        (errors.DeadlockDetected(""), True),
        (errors.SerializationFailure(""), True),
        (errors.LockNotAvailable(""), True),
        (errors.AdminShutdown(""), True),
        (errors.CannotConnectNow(""), True),
        (errors.TooManyConnections(""), True),
        (errors.ReadOnlySqlTransaction(""), True),
        (errors.DiskFull(""), False),
        (errors.UniqueViolation(""), False),
        (errors.InsufficientPrivilege(""), False),
        (psycopg.OperationalError("password authentication failed for user"), False),
        (psycopg.OperationalError("server closed the connection unexpectedly"), True),
        (TimeoutError(), True),
        (ValueError(), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: BaseException, is_passing: bool) -> None:
    assert faults.is_passing(error) is is_passing


# -- threads, forks, connections


def count_connections(conn: Conn) -> int:
    row = conn.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgtasks'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_connections_do_not_pile_up_after_a_crowd_of_threads(database: Database, conn: Conn) -> None:
    of_others = count_connections(conn)
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda _: database.ping(), range(200)))

    # A server process takes a moment to end after its client has.
    eventually(lambda: count_connections(conn) <= of_others + database_module.KEEP)


def test_a_crowd_of_threads_shares_a_few_connections(database: Database) -> None:
    with ThreadPoolExecutor(60) as threads:
        list(threads.map(lambda _: database._insist(lambda own: own.execute("SELECT pg_sleep(0.01)")), range(180)))

    # A few more, if the machine was so busy that one had to wait for a second.
    assert database.connects <= 2 * database_module.CROWD


def test_those_who_hold_every_connection_and_need_another_one_get_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "TURN_S", 0.05)
    monkeypatch.setattr(database_module, "CROWD", 2)
    both = threading.Barrier(2)

    def ask_while_holding(own: Any) -> Any:
        both.wait(STUCK_S)
        return database._insist(lambda another: another is not own)

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda _: database._insist(ask_while_holding), range(2))) == [True, True]


def test_a_forked_child_and_its_parent_do_not_share_a_connection(database: Database, hand: Hand, conn: Conn) -> None:
    database.ping()
    in_child = [message() for _ in range(20)]
    in_parent = [message() for _ in range(20)]

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for each in in_child:
                database.run(tasks.enqueue([each]))
            status = 0
        finally:
            os._exit(status)
    for each in in_parent:
        database.run(tasks.enqueue([each]))
    _, status = os.waitpid(pid, 0)

    assert status == 0
    assert sorted(ids(hand.claim(100))) == sorted(ids([*in_child, *in_parent]))


def test_a_child_that_exits_does_not_close_its_parents_connection(database: Database, conn: Conn) -> None:
    database.ping()
    (before,) = [own.info.backend_pid for own in database._idle]

    pid = os.fork()
    if pid == 0:
        database.close()
        del database
        os._exit(0)
    os.waitpid(pid, 0)
    database.ping()

    assert [own.info.backend_pid for own in database._idle] == [before]


def test_own_sessions_are_read_committed_whatever_the_roles_default_is(database_url: str, conn: Conn) -> None:
    conn.execute(f"ALTER DATABASE {conn.info.dbname} SET default_transaction_isolation = 'serializable'")
    try:
        own = database_module.connect(database_url)
        assert own.execute("SHOW transaction_isolation").fetchone() == ("read committed",)
        own.close()
    finally:
        conn.execute(f"ALTER DATABASE {conn.info.dbname} RESET default_transaction_isolation")


# -- coroutines


def test_the_same_verbs_run_for_coroutines(database_url: str, hand: Hand, conn: Conn) -> None:
    messages = [message() for _ in range(20)]

    async def produce() -> None:
        adatabase = AsyncDatabase(database_url)
        await asyncio.gather(*[adatabase.run(tasks.enqueue([each])) for each in messages])
        await adatabase.close()

    asyncio.run(produce())

    assert sorted(ids(hand.claim(100))) == sorted(ids(messages))


def test_a_crowd_of_coroutines_shares_a_few_connections(database_url: str, hand: Hand, conn: Conn) -> None:
    messages = [message() for _ in range(500)]

    async def produce() -> int:
        adatabase = AsyncDatabase(database_url, patience_s=0)
        producing = asyncio.gather(*[adatabase.run(tasks.enqueue([each])) for each in messages])
        most = 0
        while not producing.done():
            most = max(most, await asyncio.to_thread(count_connections, conn))
        await producing
        await adatabase.close()
        return most

    assert asyncio.run(produce()) <= 30
    assert len(hand.claim(1000)) == 500


@pytest.mark.parametrize("fault", ["cut_before", "cut_after"])
def test_an_async_enqueue_whose_answer_is_lost_adds_the_task_once(proxy: FaultProxy, hand: Hand, fault: str) -> None:
    task = message()

    async def produce() -> bool:
        adatabase = AsyncDatabase(proxy.url)
        await adatabase.run(fleet.sweep_waiters())
        sprung = getattr(proxy, fault)(b"INSERT INTO pgtasks.message")
        await adatabase.run(tasks.enqueue([task]))
        await adatabase.close()
        return bool(sprung.is_set())

    assert asyncio.run(produce())
    assert ids(hand.claim()) == [task.id]


def test_a_cancelled_call_does_not_spoil_the_connection_of_the_next(database_url: str, conn: Conn) -> None:
    async def cancel() -> dict[UUID, results.Stored]:
        adatabase = AsyncDatabase(database_url)
        task = message()
        await adatabase.run(tasks.enqueue([task]))
        with psycopg.connect(database_url) as locking:
            locking.execute("LOCK TABLE pgtasks.message")
            waiting = asyncio.create_task(adatabase.run(tasks.enqueue([message()])))
            while not conn.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
                await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        found = await adatabase.run(results.fetch([task.id]))
        await adatabase.close()
        return found

    assert len(asyncio.run(cancel())) == 1


def test_an_async_executor_follows_its_users_from_loop_to_loop(database_url: str) -> None:
    adatabase = AsyncDatabase(database_url)
    for _ in range(3):
        assert asyncio.run(adatabase.run(results.fetch([new_id()]))) == {}


def test_an_unreachable_database_is_the_same_error_for_coroutines() -> None:
    adatabase = AsyncDatabase("postgresql://me:secret@127.0.0.1:1/nothing", patience_s=0)

    with pytest.raises(DatabaseUnavailable) as raised:
        asyncio.run(adatabase.run(results.fetch([])))

    assert "secret" not in str(raised.value)
