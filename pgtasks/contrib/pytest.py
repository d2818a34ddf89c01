"""Fixtures for pytest: an app on a throw-away database, and a worker in a thread of the test process.

Enable them by `pytest_plugins = ("pgtasks.contrib.pytest",)` in a conftest.py, or `pytest -p pgtasks.contrib.pytest`.

    def test_add(celery_app, celery_worker):
        @celery_app.task
        def add(x, y):
            return x + y

        celery_worker.reload()
        assert add.delay(4, 4).get(timeout=10) == 8

These names are Celery's, and so is the marker: `@pytest.mark.celery(task_always_eager=True)` changes settings for a test.
Fixtures that only return settings are there to be redefined.

Of our own is `pgtasks`, for tests of a project's own app, on a database for each process of the test run:

    def test_an_order_is_shipped(pgtasks):
        place_order(7)
        pgtasks.assert_enqueued(ship, (7,))
        pgtasks.drain()
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pgtasks.contrib.testing.tester import Tester

#: Set in the environment to run the tests against a worker that was started elsewhere.
NO_WORKER = os.environ.get("NO_WORKER")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, so that --strict-markers knows it."""
    config.addinivalue_line("markers", "celery(**overrides): override celery configuration for a test case")


# -- what to redefine


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """Should the use of the current or the default app raise?"""
    return False


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """Should the app set up logging?"""
    return False


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """Modules that the worker imports."""
    return ()


@pytest.fixture(scope="session")
def celery_worker_pool() -> Any:
    """The pool of the worker."""
    return "solo"


@pytest.fixture(scope="session")
def celery_config() -> Mapping[str, Any]:
    """Settings of the app."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> Mapping[str, Any]:
    """Arguments of the app's constructor."""
    return {}


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    """Arguments of the worker, such as `queues`."""
    return {}


@pytest.fixture(scope="session")
def celery_class_tasks() -> list[Any]:
    """Class-based tasks to register with the session's app."""
    return []


# -- what to use


@pytest.fixture(scope="session")
def celery_session_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Any]:
    """An app for the whole session; the current and the default one, unless these are trapped."""
    settings = {**celery_config, **_marked(request)}
    with _app(settings, celery_parameters, celery_enable_logging, use_celery_app_trap) as app:
        if not use_celery_app_trap:
            app.set_default()
            app.set_current()
        yield app


@pytest.fixture(scope="session")
def celery_session_worker(
    celery_session_app: Any,
    celery_includes: Sequence[str],
    celery_class_tasks: Sequence[Any],
    celery_worker_pool: Any,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[Any]:
    """A worker for the whole session."""
    if NO_WORKER:
        yield None
        return
    for task in celery_class_tasks:
        celery_session_app.register_task(task)
    with _worker(celery_session_app, celery_includes, celery_worker_pool, celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def celery_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Any]:
    """An app for one test."""
    settings = {**celery_config, **_marked(request)}
    with _app(settings, celery_parameters, celery_enable_logging, use_celery_app_trap) as app:
        yield app


@pytest.fixture
def celery_worker(
    celery_app: Any,
    celery_includes: Sequence[str],
    celery_worker_pool: Any,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[Any]:
    """A worker for one test."""
    if NO_WORKER:
        yield None
        return
    with _worker(celery_app, celery_includes, celery_worker_pool, celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def depends_on_current_app(celery_app: Any) -> None:
    """Make the app of the test the current one."""
    celery_app.set_current()


# -- our own


@pytest.fixture(scope="session")
def pgtasks_app() -> Any:
    """The app under test: the current one, which the import of a project makes. To be redefined."""
    # Here, so that enabling the plugin imports nothing that a coverage measurement, started later, would miss.
    from pgtasks import current_app

    return current_app._get_current_object()


@pytest.fixture(scope="session")
def pgtasks_database() -> Iterator[str]:
    """The URL of a database for this process of the test run, with the schema; gone afterwards.

    It is on the server that PGTASKS_TEST_DATABASE_URL names, by a role that may create databases; without one, on a server
    that is started for it.
    """
    # For the same reason as above.
    from pgtasks.contrib.testing.database import new_database

    with new_database() as url:
        yield url


@pytest.fixture
def pgtasks(pgtasks_app: Any, pgtasks_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tester]:
    """The app under test, on this process's database, with no tasks in it; see `pgtasks.contrib.testing.tester`."""
    # For the same reason as above.
    from pgtasks.contrib.testing.database import empty
    from pgtasks.contrib.testing.tester import Tester

    empty(pgtasks_database)
    # Also for processes that the test starts.
    monkeypatch.setenv("PGTASKS_DATABASE_URL", pgtasks_database)
    pgtasks_app.forget_database()
    yield Tester(pgtasks_app)
    pgtasks_app.forget_database()


def _marked(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    mark = request.node.get_closest_marker("celery")
    return mark.kwargs if mark else {}


@contextmanager
def _app(settings: Mapping[str, Any], parameters: Mapping[str, Any], logs: bool, traps: bool) -> Iterator[Any]:
    # Here, so that enabling the plugin imports nothing that a coverage measurement, started later, would miss.
    from pgtasks.contrib.testing.app import TestApp, setup_default_app

    app = TestApp(set_as_current=False, enable_logging=logs, config=settings, **parameters)
    with setup_default_app(app, use_trap=traps):
        yield app


@contextmanager
def _worker(app: Any, modules: Sequence[str], pool: Any, parameters: Mapping[str, Any]) -> Iterator[Any]:
    # For the same reason as above.
    from pgtasks.contrib.testing.worker import start_worker

    for module in modules:
        app.loader.import_task_module(module)
    with start_worker(app, pool=pool, **parameters) as worker:
        yield worker
