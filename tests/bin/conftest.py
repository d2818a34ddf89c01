"""Fixtures for commands: `command` runs one in this process, on an app in a module of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pgtasks.bin.base import cli

Command = Callable[..., Result]

PROJECT = """
from pgtasks.app.base import Celery

app = Celery("proj", set_as_current=False)

@app.task
def add(x, y):
    return x + y
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands tell apps and subprocesses by environment variables: undo that."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module with an app, in the current directory."""
    name = f"proj_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.fixture
def command() -> Command:
    """Run a command in this process; `result.stdout`, `.stderr` and `.exit_code` say what came of it."""

    def run(*arguments: object, input: str | None = None) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=input)

    return run
