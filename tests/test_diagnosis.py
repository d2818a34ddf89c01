"""`pgtasks doctor` sees what is wrong, and calls a healthy installation healthy."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from pgtasks import diagnosis
from pgtasks.bin.base import cli
from pgtasks.diagnosis import Finding, examine, status_of
from pgtasks.message import new_id
from pgtasks.store import doctor, tasks
from pgtasks.store.database import Database
from tests.support.hands import Hand, message

#: The tests' server keeps nothing on disk, and its role may do everything.
_OF_THE_TESTS_SERVER = {"fsync", "full_page_writes", "synchronous_commit", "superuser", "connections"}


def names(url: str, **options: Any) -> list[str]:
    return [each.name for each in examine(url, **options) if each.name not in _OF_THE_TESTS_SERVER]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def test_an_installation_at_work_has_no_findings(database: Database, database_url: str) -> None:
    hand = Hand(database)
    database.run(tasks.enqueue([message(), message(), message(countdown_s=3600)]))
    hand.claim(1)

    assert names(database_url, known_tasks=frozenset({"job"})) == []


def test_a_server_that_does_not_keep_its_word_is_broken() -> None:
    healthy = {
        "fsync": "on", "full_page_writes": "on", "is_standby": "false", "synchronous_commit": "on",
        "synchronous_standby_names": "", "standbys": "0", "standbys_sync": "0",
    }  # fmt: skip

    def judged(**changed: str) -> list[tuple[str, str]]:
        return [(each.gravity, each.name) for each in diagnosis._durability({**healthy, **changed})]

    assert judged() == []
    assert judged(fsync="off", full_page_writes="off") == [("broken", "fsync"), ("broken", "full_page_writes")]
    assert judged(is_standby="true") == [("broken", "standby")]
    assert judged(synchronous_commit="off") == [("risky", "synchronous_commit")]
    assert judged(standbys="1") == [("note", "asynchronous replication")]
    assert judged(synchronous_standby_names="a", standbys="1") == [("broken", "no synchronous standby")]
    assert judged(synchronous_standby_names="a", standbys="1", standbys_sync="1") == []


def test_full_connections_and_a_full_notification_queue_are_seen() -> None:
    facts = {"max_connections": "100", "superuser_reserved_connections": "3", "connections": "10", "notification_queue": "0"}

    assert list(diagnosis._capacity(facts)) == []
    assert [f.name for f in diagnosis._capacity({**facts, "connections": "90"})] == ["connections"]
    assert [f.name for f in diagnosis._capacity({**facts, "notification_queue": "0.4"})] == ["notification queue"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("statement_timeout", "5s"),
        ("idle_session_timeout", "10s"),
        ("default_transaction_isolation", "serializable"),
    ],
)
def test_a_default_that_hurts_is_seen(
    setting: str, value: str, conn: psycopg.Connection[Any], database_url: str
) -> None:
    conn.execute(f"ALTER DATABASE {conn.info.dbname} SET {setting} = '{value}'".encode())
    try:
        assert setting in names(database_url)
    finally:
        conn.execute(f"ALTER DATABASE {conn.info.dbname} RESET {setting}".encode())


def test_who_holds_dead_rows_back_is_named(
    conn: psycopg.Connection[Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "LONG_S", -1.0)
    with psycopg.connect(database_url, application_name="sleeper") as other:
        other.execute("SELECT 1")

        found = [each for each in examine(database_url) if each.name == "old session"]

        assert any(f"pid {other.info.backend_pid} " in each.found for each in found)


def test_tables_that_nobody_vacuums_and_indexes_that_nobody_uses_are_named(
    conn: psycopg.Connection[Any], database_url: str
) -> None:
    conn.execute("ALTER TABLE pgtasks.ready SET (autovacuum_enabled = off)")
    conn.execute("INSERT INTO pgtasks.saved_group (id, members) VALUES ('a', 'x'), ('b', 'x')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute("CREATE UNIQUE INDEX CONCURRENTLY left_behind ON pgtasks.saved_group (members)")
    try:
        found = {each.name: each.found for each in examine(database_url)}
    finally:
        conn.execute("DROP INDEX pgtasks.left_behind; ALTER TABLE pgtasks.ready RESET (autovacuum_enabled)")

    assert "pgtasks.ready" in found["autovacuum of a table"]
    assert "left_behind" in found["invalid index"]


def test_work_that_does_not_move_is_seen(
    database: Database, conn: psycopg.Connection[Any], database_url: str
) -> None:
    lost = Hand(database)
    database.run(tasks.enqueue([message(), message(queue="nobodys")]))
    lost.claim(1)
    conn.execute("UPDATE pgtasks.message SET created_at = created_at - interval '1 hour'")
    conn.execute("UPDATE pgtasks.worker SET heartbeat_at = heartbeat_at - interval '1 hour'")
    conn.execute("UPDATE pgtasks.claim SET claimed_at = claimed_at - interval '1 hour'")

    found = [each.found for each in examine(database_url) if each.name == "stuck"]

    assert any("no live worker consumes" in each for each in found)
    assert any("its worker is gone" in each for each in found)


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

    found = [each for each in examine(database_url) if each.name == "orphans"]

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


def test_a_role_with_too_few_or_too_many_rights_is_told(
    conn: psycopg.Connection[Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn.execute("GRANT INSERT ON pgtasks.message TO PUBLIC")
    try:
        assert "rights of everybody" in names(database_url)
    finally:
        conn.execute("REVOKE INSERT ON pgtasks.message FROM PUBLIC")
    monkeypatch.setattr(diagnosis, "_ask", lambda conn, query: {"lacks": "INSERT ON ready", "everybody": None})

    assert [each.name for each in diagnosis._rights(conn)] == ["rights"]  # type: ignore[arg-type]


def test_a_schema_that_does_not_fit_is_the_first_thing_said(empty_database_url: str) -> None:
    found = [each for each in examine(empty_database_url) if each.name == "schema"]

    assert [each.gravity for each in found] == ["broken"]
    assert "pgtasks db upgrade" in found[0].advice


def test_the_command_says_it_to_people_and_to_programs_and_masks_passwords(database_url: str) -> None:
    said = CliRunner().invoke(cli, ["doctor"])
    for_programs = CliRunner().invoke(cli, ["doctor", "--json"])

    findings = [Finding(**each) for each in json.loads(for_programs.stdout)["findings"]]
    assert said.exit_code == for_programs.exit_code == status_of(findings)
    assert all(each.advice in said.stdout for each in findings)


def test_statements_of_the_doctor_do_not_wait_for_writers(
    database: Database, conn: psycopg.Connection[Any], database_url: str
) -> None:
    done = threading.Event()
    with psycopg.connect(database_url) as writer:
        writer.execute("LOCK TABLE pgtasks.ready IN ROW EXCLUSIVE MODE")
        looking = threading.Thread(target=lambda: (database.run(doctor.stuck()), done.set()))
        looking.start()
        assert done.wait(30)
        looking.join()
