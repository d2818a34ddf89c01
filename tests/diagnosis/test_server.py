"""What a server promises and does not keep, and the way to it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgtasks.diagnosis import examine, housekeeping, server
from pgtasks.store import doctor
from pgtasks.store.database import connect
from tests.diagnosis.conftest import OddServer, findings, names
from tests.support import pooler
from tests.support.workers import eventually

HEALTHY = {
    "fsync": "on", "full_page_writes": "on", "is_standby": "false", "synchronous_commit": "on",
    "synchronous_standby_names": "", "standbys": "0", "standbys_sync": "0",
    "max_connections": "100", "superuser_reserved_connections": "3", "connections": "10", "notification_queue": "0",
}  # fmt: skip


def test_a_server_that_does_not_keep_its_word_is_broken() -> None:
    def judged(**changed: str) -> list[tuple[str, str]]:
        return [(each.gravity, each.name) for each in server.durability({**HEALTHY, **changed})]

    assert judged() == []
    assert judged(fsync="off", full_page_writes="off") == [("broken", "fsync"), ("broken", "full_page_writes")]
    assert judged(is_standby="true") == [("broken", "standby")]
    assert judged(synchronous_commit="off") == [("risky", "synchronous_commit")]
    assert judged(standbys="1") == [("note", "asynchronous replication")]
    assert judged(synchronous_standby_names="a", standbys="1", standbys_sync="1", synchronous_commit="local") == [
        ("note", "asynchronous replication")
    ]
    assert judged(synchronous_standby_names="a", standbys="1") == [("broken", "no synchronous standby")]
    assert judged(synchronous_standby_names="a", standbys="1", standbys_sync="1") == []


def test_full_connections_and_a_full_notification_queue_are_seen() -> None:
    assert list(server.capacity(HEALTHY)) == []
    assert [f.name for f in server.capacity({**HEALTHY, "connections": "90"})] == ["connections"]
    assert [f.name for f in server.capacity({**HEALTHY, "notification_queue": "0.4"})] == ["notification queue"]


@pytest.mark.parametrize(
    ("setting", "value", "name", "words"),
    [
        ("statement_timeout", "5s", "statement_timeout", "5 s, set for the database"),
        ("idle_session_timeout", "10s", "idle_session_timeout", "10 s, set for the database"),
        ("default_transaction_isolation", "serializable", "default_transaction_isolation", "'serializable'"),
        ("default_transaction_read_only", "on", "read only", "= on"),
        ("synchronous_commit", "off", "synchronous_commit", "= off"),
    ],
)
def test_a_default_that_hurts_is_seen_once(
    setting: str, value: str, name: str, words: str, conn: psycopg.Connection[Any], database_url: str
) -> None:
    conn.execute(f"ALTER DATABASE {conn.info.dbname} SET {setting} = '{value}'".encode())
    try:
        (found,) = findings(database_url, name)
    finally:
        conn.execute("SET default_transaction_read_only = off")
        conn.execute(f"ALTER DATABASE {conn.info.dbname} RESET {setting}".encode())

    assert words in found.found


def test_a_setting_of_the_role_wins_over_that_of_the_database_as_it_does_in_its_sessions(
    odd_server: OddServer,
) -> None:
    with psycopg.connect(odd_server.url, autocommit=True) as conn:
        conn.execute("ALTER DATABASE pgtasks SET statement_timeout = '5s'")
        conn.execute("ALTER ROLE postgres SET statement_timeout = 0")
        quiet = findings(odd_server.url, "statement_timeout")
        conn.execute("ALTER ROLE postgres SET statement_timeout = '7s'")
        (found,) = findings(odd_server.url, "statement_timeout")
        conn.execute("ALTER ROLE postgres RESET statement_timeout")
        conn.execute("ALTER DATABASE pgtasks RESET statement_timeout")

    assert quiet == []
    assert found.found.endswith("7 s, set for the role")
    assert found.advice == "ALTER ROLE postgres SET statement_timeout = 0."


def test_two_clocks_that_differ_are_seen(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() + 3600)

    (found,) = findings(database_url, "clock skew")

    assert "-3600" in found.found or "-3599" in found.found


def test_a_network_that_is_crossed_unencrypted_is_seen(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(*, is_local: bool, is_encrypted: bool) -> list[str]:
        monkeypatch.setattr(server, "ask", lambda conn, query: doctor.Way(is_local, is_encrypted, time.time()))
        return [each.name for each in server.connection(conn)]  # type: ignore[arg-type]

    conn.is_pooled = False  # type: ignore[attr-defined]
    assert judged(is_local=False, is_encrypted=False) == ["no TLS"]
    assert judged(is_local=True, is_encrypted=False) == judged(is_local=False, is_encrypted=True) == []


def test_a_database_that_will_soon_take_no_writes_is_broken(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "WRAPAROUND_AGE", 0)

    (found,) = findings(database_url, "wraparound")

    assert found.gravity == "broken"


@pytest.mark.skipif(not pooler.is_installed(), reason="pgbouncer is not installed")
def test_a_pooler_and_what_cannot_be_switched_off_behind_it_are_named(
    odd_server: OddServer, tmp_path: Path
) -> None:
    with psycopg.connect(odd_server.url, autocommit=True) as conn:
        conn.execute("ALTER ROLE postgres SET jit = on")
    with pooler.pooled(odd_server.url, tmp_path) as url:
        found = names(url)
    with psycopg.connect(odd_server.url, autocommit=True) as conn:
        conn.execute("ALTER ROLE postgres RESET jit")

    assert {"pooler", "jit"} <= set(found)
    assert not {"pooler", "jit"} & set(names(odd_server.url))


def test_a_server_that_is_set_up_wrongly_is_told_what_is_wrong(odd_server: OddServer) -> None:
    sessions = [psycopg.connect(odd_server.url) for _ in range(9)]
    try:
        found = {each.name: each for each in examine(odd_server.url).findings}
    finally:
        for session in sessions:
            session.close()

    # It is a throw-away server, after all.
    assert {"fsync", "full_page_writes", "synchronous_commit", "connections"} <= set(found)
    assert found["fsync"].gravity == "broken"
    assert found["autovacuum"].found == "autovacuum = off, track_counts = on"
    order = [each.gravity for each in examine(odd_server.url).findings]
    assert order == sorted(order, key=["broken", "risky", "note"].index)


def test_a_superuser_is_a_risk_where_others_can_reach_the_server_and_not_where_it_is_private(
    odd_server: OddServer,
) -> None:
    with connect(odd_server.url) as conn:
        facts = conn.run(doctor.server())
        private = [each.name for each in server.settings(conn, facts)]
        exposed = [each.name for each in server.settings(conn, {**facts, "listen_addresses": "*"})]
        shared = [each.name for each in server.settings(conn, {**facts, "unix_socket_permissions": "0777"})]

    assert "superuser" not in private
    assert "superuser" in exposed
    assert "superuser" in shared


def test_notifications_that_nobody_reads_are_seen(odd_server: OddServer) -> None:
    with psycopg.connect(odd_server.url, autocommit=True) as conn:
        if conn.info.server_version < 170000:
            pytest.skip("the queue cannot be made small")
    with psycopg.connect(odd_server.url) as sleeper, psycopg.connect(odd_server.url, autocommit=True) as conn:
        sleeper.execute("LISTEN anything")
        sleeper.commit()
        sleeper.execute("SELECT 1")
        for _ in range(16):
            conn.execute("SELECT pg_notify('anything', repeat('x', 7000))")

        assert findings(odd_server.url, "notification queue")


def test_who_keeps_dead_rows_and_wal_is_named_with_what_to_do(
    odd_server: OddServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "LONG_S", -1.0)
    monkeypatch.setattr(housekeeping, "KEPT_BYTES", -1)
    with psycopg.connect(odd_server.url) as other:
        other.execute("SELECT 1")
        with psycopg.connect(odd_server.url, autocommit=True) as conn:
            conn.execute("SELECT pg_create_logical_replication_slot('forgotten', 'pgoutput')")
            conn.execute("SELECT pg_create_physical_replication_slot('left', true)")
            conn.execute("BEGIN; CREATE TABLE public.held (); PREPARE TRANSACTION 'lost'")
            conn.execute("SELECT pg_switch_wal()")
            eventually(lambda: findings(odd_server.url, "archiving"), "archiving to have failed")

            found = {(each.name, each.found.split(" ")[0]): each for each in findings(odd_server.url)}
            sessions = [each.found for each in findings(odd_server.url, "old session")]

            conn.execute("ROLLBACK PREPARED 'lost'")
            conn.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")

            assert any(f"pid {other.info.backend_pid} " in each for each in sessions)
    assert "pg_drop_replication_slot" in found["old slot", "forgotten,"].advice
    assert "ROLLBACK PREPARED" in found["old prepared", "lost"].advice
    assert ("kept WAL", "the") in found
    assert not findings(odd_server.url, "old prepared")


def test_a_disk_that_is_nearly_full_is_seen_where_it_can_be(
    odd_server: OddServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "SCARCE", 2.0)
    (scarce,) = findings(odd_server.url, "disk space")
    monkeypatch.setattr(housekeeping, "GONE", 2.0)
    (gone,) = findings(odd_server.url, "disk space")

    assert str(odd_server.server.data) in scarce.found
    assert (scarce.gravity, gone.gravity) == ("risky", "broken")


def test_standbys_are_judged_by_what_they_promise(
    odd_server: OddServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other: none of them synchronous, the synchronous one away, queries there that hold back vacuum here."""
    home = odd_server.server.home
    data, sockets = home / "standby", home / "sockets"
    for directory in (data, sockets):
        directory.mkdir(mode=0o700)
        odd_server.server.account.give(directory)
    here = str(odd_server.server.socket_directory)
    said = odd_server.server.account.run(
        odd_server.server.program("pg_basebackup"), "-D", data, "-R", "-h", here, "-U", "postgres", "-c", "fast",
        "--no-sync",
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    options = f"-c listen_addresses= -c unix_socket_directories={sockets} -c hot_standby_feedback=on"
    options += " -c wal_receiver_status_interval=1"
    odd_server.control("start", "-D", str(data), "-l", str(home / "standby.log"), "-o", options)
    there = f"postgresql://postgres@/pgtasks?host={sockets}"
    try:
        (one,) = findings(there, "standby")
        eventually(lambda: findings(odd_server.url, "asynchronous replication"), "the standby to be known")
        with psycopg.connect(there) as reader:
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pgtasks.ready")
            monkeypatch.setattr(housekeeping, "MANY_TRANSACTIONS", -1)
            held = eventually(lambda: findings(odd_server.url, "old standby"), "its feedback")
    finally:
        odd_server.control("stop", "-D", str(data))
    with psycopg.connect(odd_server.url, autocommit=True) as conn:
        conn.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
        conn.execute("ALTER SYSTEM SET synchronous_commit = 'on'")
        conn.execute("SELECT pg_reload_conf()")
        away = eventually(lambda: findings(odd_server.url, "no synchronous standby"), "the settings")
        conn.execute("ALTER SYSTEM RESET synchronous_standby_names")
        conn.execute("SELECT pg_reload_conf()")

    assert one.gravity == "broken"
    assert "hot_standby_feedback" in held[0].advice
    assert "'gone'" in away[0].found
