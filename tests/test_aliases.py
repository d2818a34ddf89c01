"""`install_as_celery`, each time in a process of its own, for it cannot be undone."""

from __future__ import annotations

import subprocess
import sys

import pytest


def said(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ALIASED = "import pgtasks; pgtasks.install_as_celery()\n"


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("celery.app.task", "Task, Context"),
        ("celery.app.control", "Control, Inspect"),
        ("celery.app.trace", "build_tracer"),
        ("celery.apps.worker", "Worker"),
        ("celery.backends.base", "BaseBackend, BaseKeyValueStoreBackend, DisabledBackend, states"),
        ("celery.contrib.abortable", "AbortableTask, AbortableAsyncResult"),
        ("celery.contrib.testing.app", "TestApp, setup_default_app"),
        ("celery.contrib.testing.manager", "Manager"),
        ("celery.contrib.testing.mocks", "TaskMessage, task_message_from_sig, ContextMock"),
        ("celery.contrib.testing.tasks", "ping"),
        ("celery.contrib.testing.worker", "start_worker, TestWorkController"),
        ("celery.loaders.app", "AppLoader"),
        ("celery.worker.control", "Panel, control_command, inspect_command"),
        ("celery.worker.request", "Request"),
        ("celery.worker.state", "active_requests, revoked, successful_requests, total_count"),
    ],
)
def test_third_party_code_finds_what_it_imports_where_celery_has_it(module: str, names: str) -> None:
    assert said(f"{ALIASED}from {module} import {names}; print('found')") == "found"


def test_a_module_under_both_names_is_one_object() -> None:
    program = f"{ALIASED}import celery.worker.state, pgtasks.worker.state as own; print(celery.worker.state is own)"

    assert said(program) == "True"


def test_a_package_of_celery_that_is_a_module_here_is_both() -> None:
    program = f"{ALIASED}import celery.backends, celery.backends.base as b; print(celery.backends.Backend is b.Backend)"

    assert said(program) == "True"


def test_what_is_not_there_is_an_import_error_as_elsewhere() -> None:
    program = f"""{ALIASED}
try:
    import celery.no_such_module
except ModuleNotFoundError as error:
    print(error)
"""

    assert said(program) == "No module named 'celery.no_such_module'"


def test_libraries_that_ask_for_the_version_are_told_celerys() -> None:
    program = f"{ALIASED}import celery, importlib.metadata as m; print(celery.VERSION[:2], m.version('celery'))"

    assert said(program) == "(5, 7) 5.7.0"


def test_celery_itself_cannot_have_been_imported_before() -> None:
    pytest.importorskip("celery")
    program = """
import celery, pgtasks
try:
    pgtasks.install_as_celery()
except pgtasks.exceptions.ImproperlyConfigured as error:
    print("before anything imports celery" in str(error))
"""

    assert said(program) == "True"
