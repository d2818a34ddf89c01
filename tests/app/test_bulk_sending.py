"""Many calls at once, on their way: in transactions, from coroutines, threads and forked children, to their results."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgtasks import Celery, _state, group
from pgtasks.app import bulk
from pgtasks.app.pattern import Pattern
from pgtasks.exceptions import OperationalError
from pgtasks.message import new_ids, slot_of
from pgtasks.store import faults
from pgtasks.store.database import Database
from tests.app.bulks import add, app, arguments, ready, rows, small_batches

__all__ = ("add", "app", "small_batches")


# -- transactions


def test_a_bulk_in_the_callers_transaction_goes_when_that_is_rolled_back(add: Any, conn: Any) -> None:
    with pytest.raises(ZeroDivisionError), conn.transaction():
        add.apply_async_many([((number,), {}) for number in range(1500)], conn=conn)
        group(add.s(number) for number in range(1500)).apply_async(conn=conn)
        assert ready(conn) == 3000
        raise ZeroDivisionError

    assert ready(conn) == 0


def test_what_was_sent_before_an_error_in_the_source_stays_sent(add: Any, conn: Any, small_batches: None) -> None:
    def source() -> Iterator[int]:
        yield from range(100)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        add.delay_many(source())

    assert ready(conn) == 80


def test_the_source_is_read_between_transactions_only(
    add: Any, conn: psycopg.Connection[Any], database_url: str, small_batches: None
) -> None:
    open_ones = []

    def source() -> Iterator[int]:
        for number in range(100):
            found = conn.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND xact_start IS NOT NULL AND backend_type = 'client backend'"
            ).fetchone()
            open_ones.append(found)
            yield number

    add.delay_many(source())

    assert set(open_ones) == {(0,)}


def test_a_source_without_end_is_sent_as_it_goes(add: Any, conn: Any, small_batches: None) -> None:
    class EnoughError(Exception):
        pass

    def source() -> Iterator[int]:
        for number in count():
            if ready(conn) >= 120:
                raise EnoughError
            yield number

    with pytest.raises(EnoughError):
        add.delay_many(source())


def test_a_connection_that_is_lost_in_the_middle_of_a_bulk_costs_no_call_and_doubles_none(
    app: Celery, add: Any, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Pattern._payloads
    batches = count()

    def cut(self: Any, calls: Any) -> Any:
        if next(batches) == 2:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND application_name = 'pgtasks'"
            )
        return write(self, calls)

    monkeypatch.setattr(Pattern, "_payloads", cut)

    results = group(add.s(number) for number in range(5000)).delay()

    assert sorted(each.id for each in results) == sorted(str(key) for (key,) in rows(conn, "id"))
    assert sorted(args[0] for args, _ in arguments(conn)) == list(range(5000))


def test_a_bulk_that_is_sent_again_changes_nothing_even_while_the_first_one_is_under_way(
    app: Celery, add: Any, conn: psycopg.Connection[Any], database_url: str
) -> None:
    sending = bulk._Sending(app, add._get_current_object(), {})
    (query,) = sending.queries([((number,), None) for number in range(100)])
    app.database.run(query)
    app.database.run(query)
    assert ready(conn) == 100

    (again,) = sending.queries([((number,), None) for number in range(100)])
    with psycopg.connect(database_url) as slow:
        Database.run(app.database, again, slow)  # not committed yet: the resend waits for it
        resend = threading.Thread(target=app.database.run, args=(again,))
        resend.start()
        _await_lock(conn)
        slow.commit()
        resend.join()

    assert ready(conn) == 200


def _await_lock(conn: psycopg.Connection[Any]) -> None:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while not conn.execute(waiting).fetchone():
        pass


def test_only_ids_that_are_taken_make_a_violated_constraint_one_that_passes(
    conn: psycopg.Connection[Any],
) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation) as other:
        conn.execute("CREATE TEMP TABLE once (id int PRIMARY KEY); INSERT INTO once VALUES (1), (1)")

    assert not faults.is_passing(other.value)


def test_an_unreachable_database_is_said_to_be(monkeypatch: pytest.MonkeyPatch, add: Any, app: Celery) -> None:
    monkeypatch.setattr(app.database, "url", "postgresql:///x?host=/nowhere")
    monkeypatch.setattr(app.database, "patience_s", 0.0)
    app.database.close()

    with pytest.raises(OperationalError):
        add.delay_many(range(100))


# -- ids and results


def test_ids_made_together_are_sorted_unlike_each_other_and_of_version_7() -> None:
    made = list(new_ids(5000))

    assert made == sorted(set(made), key=lambda key: key.bytes)
    assert {(key.version, key.variant) for key in made} == {(7, "specified in RFC 4122")}
    assert len({slot_of(key) for key in made}) > 900
    assert {slot_of(key) for key in new_ids(300, made[0])} == {slot_of(made[0])}


def test_results_are_made_when_they_are_looked_at_and_then_stay_the_same(add: Any, app: Celery) -> None:
    results = add.delay_many(range(2000))

    assert len(results) == 2000
    assert "results" not in vars(results)
    assert results[5] is results[5]
    assert next(iter(results)).id == next(results.ids())
    assert results.app is app


# -- coroutines


def test_coroutines_send_many_too(app: Celery, add: Any, conn: Any, small_batches: None) -> None:
    async def send() -> Any:
        sent = await add.adelay_many(range(95))
        await add.aapply_async_many([((1,), {"y": 2})], queue="other")
        members = await group(add.s(number) for number in range(10)).aapply_async()
        await app.adatabase.close()
        return [*sent.ids()], members

    ids, members = asyncio.run(send())

    assert len(set(ids)) == 95
    assert len(members) == 10
    assert ready(conn) == 95 + 1 + 10


# -- threads, processes, and the end of them


def test_threads_can_send_at_once(add: Any, conn: Any) -> None:
    threads = [threading.Thread(target=add.delay_many, args=(range(1500),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ready(conn) == 6000
    assert len({key for (key,) in rows(conn, "id")}) == 6000


def test_a_forked_child_sends_on_connections_of_its_own(add: Any, conn: Any) -> None:
    add.delay_many(range(1500))
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=add.delay_many, args=(range(1500),)) for _ in range(2)]
    for child in children:
        child.start()
    add.delay_many(range(1500))
    for child in children:
        child.join(60)

    assert [child.exitcode for child in children] == [0, 0]
    assert ready(conn) == 6000


def test_a_program_that_sends_and_ends_leaves_nothing_behind_and_says_nothing(
    database_url: str, conn: psycopg.Connection[Any]
) -> None:
    program = """
from pgtasks import Celery
app = Celery("bulk")
@app.task(name="bulk.add")
def add(x): return x
add.delay_many(range(2500))
"""

    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, env=dict(os.environ)
    )

    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert ready(conn) == 2500


def test_a_task_that_sends_many_has_them_as_children_and_as_their_root(
    app: Celery, add: Any, conn: psycopg.Connection[Any]
) -> None:
    parent = "0190163d-8694-7000-8000-000000000007"
    task = app.task(lambda: None, name="bulk.parent", shared=False)
    task.push_request(id=parent, root_id=parent, called_directly=False, children=[])
    _state.push_current_task(task._get_current_object())
    try:
        results = add.delay_many(range(60))
        members = group(add.s(number) for number in range(60)).delay()
        children = list(task.request.children)
    finally:
        _state.pop_current_task()
        task.pop_request()

    assert children == [*results, members]
    assert set(rows(conn, "root, parent")) == {(UUID(parent), UUID(parent))}
    assert {slot_of(key) for (key,) in rows(conn, "id")} == {slot_of(UUID(parent))}


@pytest.mark.parametrize("members", [2, 60], ids=["planned", "in bulk"])
def test_a_task_whose_test_pushed_a_request_without_an_id_can_send_canvases(
    members: int, app: Celery, add: Any, conn: psycopg.Connection[Any]
) -> None:
    task = app.task(lambda: None, name="bulk.parent", shared=False)
    task.push_request(called_directly=False)
    _state.push_current_task(task._get_current_object())
    try:
        sent = [group(add.s(number) for number in range(members)).delay(), (add.s(1) | add.s()).delay()]
        children = list(task.request.children)
    finally:
        _state.pop_current_task()
        task.pop_request()

    assert children == [sent[0], sent[1].parent]
    assert {parent for (parent,) in rows(conn, "parent")} <= {None, UUID(sent[1].parent.id)}


def test_members_of_a_group_know_a_root_whose_id_is_no_uuid(
    app: Celery, add: Any, conn: psycopg.Connection[Any]
) -> None:
    task = app.task(lambda: None, name="bulk.parent", shared=False)
    task.push_request(id="the parent", root_id="the root", called_directly=False, children=[])
    _state.push_current_task(task._get_current_object())
    try:
        group(add.s(number) for number in range(60)).delay()
    finally:
        _state.pop_current_task()
        task.pop_request()

    found = [json.loads(options) for (options,) in rows(conn, "options")]
    assert {(each["root_id"], each["parent_id"]) for each in found} == {("the root", "the parent")}


def test_an_expiry_counts_from_the_moment_of_the_enqueue(add: Any, conn: psycopg.Connection[Any]) -> None:
    add.apply_async_many([((number,), None) for number in range(60)], expires=100)

    (left,) = {expires - created for expires, created in rows(conn, "expires, created_at")}
    assert left == timedelta(seconds=100)


@pytest.mark.parametrize("item", ["x" * 1000, ({"deep": [["x" * 1000]]},)], ids=["a text", "a text within"])
def test_of_large_arguments_no_more_than_fit_in_memory_are_read_ahead_of_what_is_sent(
    add: Any, database_url: str, monkeypatch: pytest.MonkeyPatch, item: Any
) -> None:
    monkeypatch.setattr(bulk, "LARGE", 20_000)
    ahead = []

    def items() -> Iterator[Any]:
        for made in range(200):
            (sent,) = conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() or (0,)
            ahead.append(made - sent)
            yield item

    with psycopg.connect(database_url, autocommit=True) as conn:
        assert len(add.delay_many(items())) == 200

        assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (200,)
    assert max(ahead) <= 20


def test_a_group_of_large_calls_is_cut_into_statements_that_a_server_takes_and_is_all_or_nothing(
    app: Celery, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "LARGE", 20_000)
    statements = []
    run_all = app.database.run_all
    monkeypatch.setattr(app.database, "run_all", lambda sent: run_all(statements.append(each) or each for each in sent))

    result = group(add.s("x" * 1000, number) for number in range(60)).apply_async()

    assert len({each.id for each in result}) == 60
    assert len(statements) >= 3  # in one transaction
