"""`pgtasks db`, on real databases."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgtasks.store import migrate, roles
from pgtasks.store.embedded import Server
from tests.bin.conftest import Command

NEWEST = str(migrate.migrations()[-1])


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="pgtasks-test-", dir="/tmp"))
    directory.chmod(0o755)
    monkeypatch.setenv("PGTASKS_HOME", str(directory))
    yield directory
    Server.at(directory).stop("immediate")
    shutil.rmtree(directory)


def test_the_private_server_is_started_shown_and_stopped(command: Command, home: Path) -> None:
    absent = json.loads(command("db", "status", "--json").stdout)
    started = command("db", "start")
    running = json.loads(command("db", "status", "--json").stdout)
    stopped = command("db", "stop")
    again = json.loads(command("db", "stop", "--json").stdout)

    assert absent["state"] == "absent"
    assert not started.exit_code, started.output
    assert running["state"] == "ready"
    assert running["schema"][-1] == NEWEST
    assert "Stopped Postgres" in stopped.stdout
    assert again["was_running"] is False


def test_status_of_a_database_that_lacks_the_schema_names_what_is_pending(
    command: Command, empty_database_url: str
) -> None:
    status = json.loads(command("-b", empty_database_url, "db", "status", "--json").stdout)

    assert status["schema"] == []
    assert status["pending"][-1] == NEWEST


def test_check_fails_until_upgrade_was_run(command: Command, empty_database_url: str) -> None:
    before = command("-b", empty_database_url, "db", "check")
    upgrade = json.loads(command("-b", empty_database_url, "db", "upgrade", "--json").stdout)
    after = command("-b", empty_database_url, "db", "check")

    assert before.exit_code == 1
    assert "`pgtasks db upgrade`" in before.stderr
    assert upgrade["applied"][-1] == NEWEST
    assert after.exit_code == 0
    assert command("-b", empty_database_url, "db", "upgrade").stdout == "Nothing to do.\n"


def test_the_sql_is_printed_without_a_database_and_what_is_pending_with_one(
    command: Command, database_url: str
) -> None:
    everything = command("db", "sql").stdout
    pending = command("db", "sql", "--pending").stdout

    assert "CREATE TABLE pgtasks.message" in everything
    assert "CREATE TABLE" not in pending


def test_grants_for_a_role_are_printed(command: Command) -> None:
    assert 'GRANT USAGE ON SCHEMA pgtasks TO "app";' in command("db", "sql", "--grant", "app").stdout


def test_a_role_is_granted_what_it_needs_and_may_be_of_one_kind_only(
    command: Command, database_url: str, conn: psycopg.Connection[Any]
) -> None:
    role = f"pgtasks_granted_{os.getpid()}"
    conn.execute(f"CREATE ROLE {role}")
    try:
        granted = command("db", "grant", "--observer", role)
        both = command("db", "grant", "--observer", role, "--producer", role)
        nobody = command("db", "grant", "--worker", "no-such-role")

        assert granted.stdout == f"{role} is an observer now.\n"
        assert conn.execute("SELECT has_table_privilege(%s, 'pgtasks.tasks', 'SELECT')", [role]).fetchone() == (True,)
    finally:
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert both.exit_code == 2
    assert "is to be of two kinds" in both.stderr
    assert nobody.exit_code
    assert 'role "no-such-role" does not exist' in nobody.stderr
    assert command("db", "grant").exit_code == 2


def test_the_grants_of_a_kind_are_printed_without_a_database(command: Command) -> None:
    printed = command("db", "sql", "--producer", "web", "--observer", "grafana").stdout

    assert printed == roles.statements("producer", "web") + roles.statements("observer", "grafana")


def test_the_url_of_the_environment_is_printed_whole_for_programs_and_masked_for_people(
    command: Command, database_url: str
) -> None:
    assert json.loads(command("db", "url", "--json").stdout) == {"url": database_url}
    assert command("db", "status").exit_code == 0


def test_a_throw_away_broker_has_no_database_to_look_after(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    result = command("-b", "memory://", "db", "upgrade")

    assert result.exit_code == 2
    assert "none to manage" in result.stderr
