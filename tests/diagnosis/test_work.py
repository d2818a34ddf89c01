"""Work that does not move, rows that cannot be, tables that nobody keeps."""

from __future__ import annotations

import threading
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgtasks.diagnosis import examine, status_of, work
from pgtasks.message import new_id
from pgtasks.store import doctor, fleet, tasks
from pgtasks.store.database import Database
from tests.diagnosis.conftest import findings, names
from tests.support.hands import Hand, message
from tests.support.workers import eventually


def test_an_installation_at_work_has_no_findings_and_says_how_it_stands(database: Database, database_url: str) -> None:
    hand = Hand(database)
    database.run(tasks.enqueue([message(), message(), message(countdown_s=3600)]))
    hand.claim(1)

    standing = examine(database_url).standing

    assert names(database_url, known_tasks=frozenset({"job"})) == []
    assert standing is not None
    assert (standing.alive, standing.ready, standing.claimed, standing.scheduled) == (1, 1, 1, 1)


def test_tables_that_nobody_vacuums_or_keeps_and_indexes_that_nobody_uses_are_named(
    conn: psycopg.Connection[Any], database_url: str
) -> None:
    conn.execute("ALTER TABLE pgtasks.ready SET (autovacuum_enabled = off)")
    conn.execute("ALTER TABLE pgtasks.saved_group SET UNLOGGED")
    conn.execute("INSERT INTO pgtasks.saved_group (id, members) VALUES ('a', 'x'), ('b', 'x')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute("CREATE UNIQUE INDEX CONCURRENTLY left_behind ON pgtasks.saved_group (members)")
    try:
        found = {each.name: each.found for each in findings(database_url)}
    finally:
        conn.execute("DROP INDEX pgtasks.left_behind; ALTER TABLE pgtasks.ready RESET (autovacuum_enabled)")
        conn.execute("ALTER TABLE pgtasks.saved_group SET LOGGED")

    assert "pgtasks.ready" in found["autovacuum of a table"]
    assert "pgtasks.saved_group" in found["unlogged table"]
    assert "left_behind" in found["invalid index"]


def test_a_table_of_dead_rows_is_named(
    conn: psycopg.Connection[Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "DEAD_ROWS", 100)
    conn.execute("ALTER TABLE pgtasks.saved_group SET (autovacuum_enabled = off)")
    with psycopg.connect(database_url, autocommit=True) as writer:
        writer.execute("INSERT INTO pgtasks.saved_group (id, members) SELECT n::text, '' FROM generate_series(1, 500) n")
        writer.execute("DELETE FROM pgtasks.saved_group")

    def seen() -> list[str]:
        named = [each.found for each in findings(database_url, "dead rows")]
        return [found for found in named if "pgtasks.saved_group" in found]

    (found,) = eventually(seen, "the statistics")
    conn.execute("ALTER TABLE pgtasks.saved_group RESET (autovacuum_enabled)")
    conn.execute("VACUUM pgtasks.saved_group")

    assert "pgtasks.saved_group has 500 dead rows" in found


def test_work_that_does_not_move_is_seen(
    database: Database, conn: psycopg.Connection[Any], database_url: str
) -> None:
    lost = Hand(database)
    database.run(tasks.enqueue([message(), message(queue="nobodys")]))
    lost.claim(1)
    conn.execute("UPDATE pgtasks.message SET created_at = created_at - interval '1 hour'")
    conn.execute("UPDATE pgtasks.worker SET heartbeat_at = heartbeat_at - interval '1 hour'")
    conn.execute("UPDATE pgtasks.claim SET claimed_at = claimed_at - interval '1 hour'")

    nobody_there = findings(database_url)
    Hand(database)
    found = [each.found for each in findings(database_url, "stuck")]

    # First what stops everything, and that once.
    assert nobody_there[0].name == "no worker"
    assert nobody_there[0].gravity == "broken"
    assert not any("no live worker consumes" in each.found for each in nobody_there)
    assert any("'nobodys': no live worker consumes" in each for each in found)
    assert any("its worker is gone" in each for each in found)


def test_a_schedule_that_nobody_keeps_is_seen(conn: psycopg.Connection[Any], database_url: str) -> None:
    conn.execute(
        "INSERT INTO pgtasks.schedule (app, name, last_run_at, next_run_at, task, schedule)"
        " VALUES ('shop', 'nightly', now(), now() - interval '1 hour', 'job', '')"
    )

    (found,) = findings(database_url, "late schedule")

    assert found.found.startswith("nightly should have run 3600 s ago")


def test_workers_that_do_not_fit_together_or_into_the_server_are_seen(
    database: Database, database_url: str
) -> None:
    for version in ("1.0", "2.0"):
        database.run(
            fleet.enlist(
                uuid4(), hostname=f"w@{version}", machine="m", pid=1, pool="prefork", concurrency=10_000,
                queues=["celery"], version=version, lease_s=60,
            )
        )  # fmt: skip

    found = {each.name: each.found for each in findings(database_url)}

    assert found["versions"] == "workers run 1.0, 2.0"
    assert "20000 slots" in found["max_connections"]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("INSERT INTO pgtasks.waiting (id, pending) VALUES (%s, 1)", "all that it waits for has ended"),
        (
            "INSERT INTO pgtasks.claim (id, worker, claimed_at, retries, delivery) VALUES (%s, gen_random_uuid(), now(), 0, 1)",
            "is claimed, and its message is gone",
        ),
        (
            "INSERT INTO pgtasks.scheduled (id, due, rank, queue) VALUES (%s, now() + interval '1 day', 0, 'celery')",
            "is scheduled, and its message is gone",
        ),
    ],
)
def test_rows_that_no_transition_leaves_behind_are_seen(
    harm: str, words: str, conn: psycopg.Connection[Any], database_url: str
) -> None:
    orphan = new_id()
    conn.execute(harm.encode(), [orphan])

    found = findings(database_url, "orphans")

    assert [words in each.found and str(orphan) in each.found for each in found] == [True]
    assert status_of(found) == 2


def test_a_run_that_nothing_will_wake_is_seen(conn: psycopg.Connection[Any], database_url: str) -> None:
    conn.execute(
        "INSERT INTO pgtasks.scheduled (id, due, rank, queue, is_suspended) VALUES (%s, '9998-01-01', 0, 'celery', true)",
        [new_id()],
    )

    assert "sleepers" in names(database_url)


def test_tasks_that_the_app_does_not_know_are_named(database: Database, database_url: str) -> None:
    Hand(database)
    database.run(tasks.enqueue([message("gone.away")]))

    assert "unknown task" in names(database_url, known_tasks=frozenset({"job"}))
    assert "unknown task" not in names(database_url)


def test_a_role_is_told_what_it_lacks_and_what_everybody_has(
    conn: psycopg.Connection[Any], database_url: str
) -> None:
    role = f"reader_{uuid4().hex[:8]}"
    url = psycopg.conninfo.make_conninfo(database_url, user=role)
    conn.execute(f"CREATE ROLE {role} LOGIN".encode())
    try:
        (refused,) = [each for each in findings(url, "rights") if each.gravity == "broken"]
        conn.execute(f"GRANT USAGE ON SCHEMA pgtasks TO {role}".encode())
        conn.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA pgtasks TO {role}".encode())
        conn.execute("GRANT INSERT ON pgtasks.message TO PUBLIC")
        found = {each.name: each for each in examine(url).findings}
    finally:
        conn.execute("REVOKE INSERT ON pgtasks.message FROM PUBLIC")
        conn.execute(f"DROP OWNED BY {role}".encode())
        conn.execute(f"DROP ROLE {role}".encode())

    assert f"pgtasks db sql --grant {role}" in refused.advice
    assert "INSERT ON awaited" in found["rights"].found
    assert "rights of everybody" in found
    assert "hidden sessions" in found
    assert "superuser" not in found


def test_a_schema_that_does_not_fit_is_the_first_thing_said(empty_database_url: str) -> None:
    found = findings(empty_database_url)

    assert [each.gravity for each in found if each.name == "schema"] == ["broken"]
    assert found[0].name == "schema"
    assert "pgtasks db upgrade" in found[0].advice


def test_statements_of_the_doctor_do_not_wait_for_writers(
    database: Database, conn: psycopg.Connection[Any], database_url: str
) -> None:
    done = threading.Event()
    with psycopg.connect(database_url) as writer:
        writer.execute("LOCK TABLE pgtasks.ready IN ROW EXCLUSIVE MODE")
        looking = threading.Thread(target=lambda: (database.run(doctor.stuck()), done.set()))
        looking.start()
        assert done.wait(60)
        looking.join()
