"""The root command: global options, finding the app, errors, plugins."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import pytest

from pgtasks import signals
from pgtasks.app.base import Celery
from pgtasks.bin import base
from pgtasks.bin.options import CeleryCommand, CLIContext
from tests.bin.conftest import Command


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Entry points that other packages seem to have."""
    found: list[EntryPoint] = []
    monkeypatch.setattr(base, "_plugins", lambda: found)
    monkeypatch.setattr(base.cli, "commands", {})
    return found


@click.command(cls=CeleryCommand)
@click.pass_obj
def plugged_in(obj: CLIContext) -> None:
    """Be plugged in."""
    click.echo(f"app={obj.given_app and obj.given_app.main}")


@pytest.mark.parametrize("name", base.COMMANDS)
def test_every_command_explains_itself(command: Command, name: str) -> None:
    result = command(name, "--help")

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Usage: ")
    assert re.findall(r"(?m)^  \[?[A-Z_|]+\]?$", result.stdout) == [], "an argument listed like an option without help"


def test_the_list_of_commands_imports_none_of_them() -> None:
    program = (
        "import sys; from pgtasks.bin.base import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print([name for name in sys.modules if name.startswith('pgtasks.bin.')])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert said.splitlines()[-1] == "['pgtasks.bin.options', 'pgtasks.bin.base']"


def test_python_m_pgtasks_is_the_command() -> None:
    said = subprocess.run([sys.executable, "-m", "pgtasks", "--version"], capture_output=True, text=True)

    assert said.stdout.startswith("pgtasks ")
    assert said.returncode == 0


def test_a_misspelt_command_is_guessed(command: Command) -> None:
    result = command("wroker")

    assert result.exit_code == 2
    assert "Did you mean worker?" in result.stderr


def test_app_after_the_subcommand_is_told_where_it_belongs(command: Command) -> None:
    result = command("db", "status", "-A", "proj")

    assert result.exit_code == 2
    assert "`-A` as an option of the status sub-command. It is a global option" in result.stderr


def test_a_module_that_is_not_there_is_one_line_with_where_it_was_looked_for(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = command("-A", "no_such_module.celery", "report")

    assert result.exit_code == 2
    assert "The module no_such_module was not found" in result.stderr
    assert str(tmp_path) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_module_that_fails_to_import_something_shows_where(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_project.py").write_text("import what_is_not_installed\n")
    monkeypatch.chdir(tmp_path)

    result = command("-A", "broken_project", "report")

    assert result.exit_code == 2
    assert "While trying to load the module broken_project" in result.stderr
    assert "what_is_not_installed" in result.stderr
    assert "Traceback" in result.stderr


def test_a_module_without_an_app_is_one_line(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "appless_project.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)

    result = command("-A", "appless_project", "report")

    assert result.exit_code == 2
    assert "Module 'appless_project' has no attribute 'celery'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_database_that_does_not_answer_is_one_line_without_the_password(
    command: Command, project: str, tmp_path: Path
) -> None:
    url = f"postgresql://user:secret@/db?host={tmp_path}"

    result = command("-A", project, "-b", url, "db", "check")

    assert result.exit_code == 69
    assert result.stderr.count("\n") == 1
    assert "Is it running" in result.stderr
    assert "secret" not in result.stderr


def test_a_broker_that_is_not_postgres_is_one_line_that_says_what_to_set(command: Command, project: str) -> None:
    result = command("-A", project, "-b", "redis://:secret@h", "call", "tasks.add")

    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "PGTASKS_DATABASE_URL" in result.stderr
    assert "secret" not in result.stderr


def test_a_broker_on_the_command_line_wins_over_the_environment(
    command: Command, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTASKS_DATABASE_URL", "postgresql://elsewhere/db")

    result = command("-b", database_url, "db", "url")

    assert result.stdout.strip() == database_url


@pytest.mark.parametrize("prefix", ["PGTASKS", "CELERY"])
def test_options_are_read_from_variables_of_either_prefix(
    command: Command, project: str, database_url: str, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setenv(f"{prefix}_APP", project)
    monkeypatch.setenv(f"{prefix}_CALL_QUEUE", "from-the-environment")

    command("call", "tasks.add")

    assert "from-the-environment" in command("-A", project, "db", "url").stdout + queue_of_last_task(database_url)


def queue_of_last_task(url: str) -> str:
    import psycopg

    with psycopg.connect(url) as conn:
        row = conn.execute("SELECT queue FROM pgtasks.message ORDER BY id DESC LIMIT 1").fetchone()
    return str(row and row[0])


def test_the_working_directory_is_changed_before_the_app_is_looked_for(
    command: Command, project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")

    result = command("-A", project, "--workdir", tmp_path, "report")

    assert result.exit_code == 0, result.output
    assert os.getcwd() == str(tmp_path)


def test_a_plugin_is_listed_and_run_with_the_app(command: Command, plugins: list[EntryPoint], project: str) -> None:
    plugins.append(EntryPoint("plugged", "tests.bin.test_base:plugged_in", "celery.commands"))

    assert "Be plugged in." in command("--help").stdout
    assert command("-A", project, "plugged").stdout == "app=proj\n"


def test_a_plugin_that_cannot_be_imported_breaks_itself_only(command: Command, plugins: list[EntryPoint]) -> None:
    plugins.append(EntryPoint("bad", "no_such_package:command", "pgtasks.commands"))

    listed, called = command("--help"), command("bad")

    assert listed.exit_code == 0
    assert "(broken)" in listed.stdout
    assert called.exit_code == 1
    assert "no_such_package" in called.stderr


def test_options_that_an_app_adds_are_announced_and_kept_from_commands_that_do_not_know_them(
    plugins: list[EntryPoint],
) -> None:
    plugins.append(EntryPoint("plugged", "tests.bin.test_base:plugged_in", "celery.commands"))
    app = Celery("proj", set_as_current=False)
    app.user_options["preload"].add(click.Option(["--tenant"]))
    announced: list[Any] = []

    def announce(options: Any = None, **_: Any) -> None:
        announced.append(options)

    signals.user_preload_options.connect(announce)
    try:
        base.main(["plugged", "--tenant", "acme"], app=app)
    finally:
        signals.user_preload_options.disconnect(announce)

    assert announced == [{"tenant": "acme"}]


def test_an_app_that_runs_a_command_gets_errors_raised() -> None:
    app = Celery("proj", set_as_current=False)

    with pytest.raises(click.UsageError):
        base.main(["no-such-command"], app=app)
