"""Fixtures for every test. The ones about databases:

database_url        a database with the current schema and empty tables; PGTASKS_DATABASE_URL names it
                    too, for subprocesses and for apps without a broker
conn                an autocommit psycopg connection to it
empty_database_url  a database of the test's own, without the schema
proxy               a TCP proxy before the database of `database_url`, which cuts and freezes connections
far                 an executor that reaches that database through the proxy
stage               where a test meets the jobs of its workers: a journal, and gates
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest

from pgtasks import _state
from pgtasks.app import base  # registers the built-in tasks, which every app shall have
from pgtasks.store.database import Database
from tests.support import postgres
from tests.support.proxy import FaultProxy
from tests.support.workers import Stage

# The same examples in every run, as whoever changes one thing shall not be told of another. To look for new
# ones: `pytest --hypothesis-profile=explore`.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("explore", derandomize=False)
hypothesis.settings.load_profile("same")

_numbers = count(1)
#: What there is before any test module has made tasks that all apps share.
_BUILT_IN = (base.Celery, dict(_state._on_app_finalizers))[1]


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Keep the tests of a module together in processes of pytest-xdist: workers that serve all of them start once."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


def pytest_configure(config: pytest.Config) -> None:
    # No test may touch a database of the person who runs it.
    for name in ("PGTASKS_DATABASE_URL", "DATABASE_URL"):
        os.environ.pop(name, None)
    os.environ["PGTASKS_HOME"] = "/dev/null/pgtasks"  # nothing can be made below it
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        _keep_bytecode_elsewhere(config)
    if getattr(config.option, "numprocesses", None):
        config.stash[_server_url] = postgres.start_server()


def _keep_bytecode_elsewhere(config: pytest.Config) -> None:
    """Let the programs that tests start share bytecode, outside the checkout of somebody who wants none there.

    They are some hundred, and compiling the package is half the time that a worker takes to start.
    """
    directory = tempfile.mkdtemp(prefix="pgtasks-bytecode-")
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = directory


_server_url = pytest.StashKey[str]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist which server its parent has started."""
    node.workerinput["server_url"] = node.config.stash[_server_url]


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable(report: Any) -> Generator[None, Any, Any]:
    """Let pytest-xdist, which stops at lone surrogates, report the failures of tests that are about them."""
    return _printable((yield))


def _printable(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_printable(key): _printable(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(map(_printable, value))
    return value


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what apps do to logging: a test that looks for log lines finds none where they stopped propagating."""
    known = [logging.root, *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    before = [(each, each.handlers[:], each.propagate, each.level, each.disabled) for each in known]
    yield
    for logger, handlers, propagate, level, disabled in before:
        logger.handlers[:] = handlers
        logger.propagate, logger.disabled = propagate, disabled
        logger.setLevel(level)


@pytest.fixture(autouse=True)
def _no_words_of_commands_left() -> Iterator[None]:
    """Commands tell apps and subprocesses by environment variables: what one said is not for the next test."""
    before = {name: value for name, value in os.environ.items() if name.startswith("CELERY_")}
    yield
    for name in [name for name in os.environ if name.startswith("CELERY_") and name not in before]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def only_built_in_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """New apps get no tasks that other test modules share with all apps."""
    monkeypatch.setattr(_state, "_on_app_finalizers", dict(_BUILT_IN))


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> str:
    """The URL of a server on which databases may be made."""
    workerinput = getattr(request.config, "workerinput", None)
    return workerinput["server_url"] if workerinput else postgres.start_server()


@pytest.fixture(scope="session")
def _database(server_url: str) -> Iterator[str]:
    template = postgres.make_template(server_url)
    with postgres.new_database(server_url, f"pgtasks_test_{os.getpid()}", template) as url:
        yield url


@pytest.fixture
def database_url(_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    postgres.empty(_database)
    monkeypatch.setenv("PGTASKS_DATABASE_URL", _database)
    return _database


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as conn:
        yield conn


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    with postgres.new_database(server_url, f"pgtasks_empty_{os.getpid()}_{next(_numbers)}") as url:
        yield url


@pytest.fixture
def proxy(database_url: str) -> Iterator[FaultProxy]:
    with FaultProxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def far(proxy: FaultProxy) -> Iterator[Database]:
    """An executor that reaches the database through the proxy."""
    far = Database(proxy.url)
    far.ping()
    yield far
    far.close()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage(tmp_path)
    for name, value in stage.environ().items():
        monkeypatch.setenv(name, value)
    return stage
