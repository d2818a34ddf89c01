"""`install_as_celery`, each time in a process of its own, for it cannot be undone."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version

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
        ("celery.worker", "WorkController"),
        ("celery.worker.control", "Panel, control_command, inspect_command"),
        ("celery.worker.request", "Request"),
        ("celery.worker.state", "active_requests, revoked, successful_requests, total_count"),
    ],
)
def test_third_party_code_finds_what_it_imports_where_celery_has_it(module: str, names: str) -> None:
    assert said(f"{ALIASED}from {module} import {names}; print('found')") == "found"


@pytest.mark.parametrize("name", ["result", "signals", "exceptions", "app.task", "app.trace", "canvas", "utils.log"])
def test_a_module_under_both_names_is_one_object_and_its_spec_stays_its_own(name: str) -> None:
    program = f"import celery.{name} as one, pgtasks.{name} as other; print(one is other, one.__spec__.name)"

    assert said(ALIASED + program) == f"True pgtasks.{name}"


@pytest.mark.parametrize("name", ["celery", "celery.loaders", "celery.worker.consumer", "billiard"])
def test_a_program_that_asks_whether_there_is_a_celery_is_told_so_before_and_after_it_was_imported(name: str) -> None:
    program = f"""
from importlib import import_module
from importlib.util import find_spec
before = find_spec({name!r}).name
import_module({name!r})
print(before, find_spec({name!r}).name)
"""

    assert said(ALIASED + program) == f"{name} {name}"


def test_the_names_of_the_package_are_shared_too() -> None:
    program = """
from celery import Celery, Task, chain, current_app, shared_task, signals, states
print([Celery, Task, chain] == [pgtasks.Celery, pgtasks.Task, pgtasks.chain], current_app is pgtasks.current_app)
"""

    assert said(ALIASED + program) == "True True"


def test_what_a_library_puts_in_the_place_of_a_method_is_there_under_both_names() -> None:
    program = """
from celery.app import task, trace
import pgtasks.app.task, pgtasks.app.trace
trace.build_tracer = task.Task.apply_async = "patched"
print(pgtasks.app.trace.build_tracer, pgtasks.app.task.Task.apply_async)
"""

    assert said(ALIASED + program) == "patched patched"


def test_the_oldest_path_to_the_tasks_leads_to_those_of_the_current_app() -> None:
    program = """
from celery import Celery, registry
app = Celery("shop")
app.task(lambda: None, name="order")
print(registry.tasks.get("order") is app.tasks["order"], registry.tasks.get("nothing"))
"""

    assert said(ALIASED + program) == "True None"


def test_billiard_is_answered_for_also_where_kombu_has_imported_the_real_one() -> None:
    program = """
import billiard, celery.exceptions, os
from billiard import VERSION, cpu_count, current_process
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from billiard.pool import Pool, Worker
from billiard.util import register_after_fork
print(VERSION >= (4, 0, 1), SoftTimeLimitExceeded is celery.exceptions.SoftTimeLimitExceeded)
print(callable(Worker.workloop), current_process().pid == os.getpid())
"""

    assert said(ALIASED + program) == "True True\nTrue True"


def test_installing_it_again_changes_nothing() -> None:
    program = """
import celery, sys
finders = list(sys.meta_path)
pgtasks.install_as_celery()
import celery as again
print(sys.meta_path == finders, again is celery)
"""

    assert said(ALIASED + program) == "True True"


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


def test_the_versions_of_other_packages_stay_theirs() -> None:
    program = "from importlib.metadata import metadata, version; print(metadata('Celery')['Name'], version('kombu'))"

    assert said(ALIASED + program) == f"celery {version('kombu')}"


def test_celery_itself_cannot_have_been_imported_before() -> None:
    pytest.importorskip("celery")
    program = """
import celery, pgtasks
try:
    pgtasks.install_as_celery()
except pgtasks.exceptions.ImproperlyConfigured as error:
    print(error)
"""

    assert re.fullmatch(
        r"celery was imported already, from \S+/celery/__init__\.py\. Call pgtasks\.install_as_celery\(\) before"
        r" anything imports celery: at the top of the first module of the project, or start with"
        r" `pgtasks --as-celery`\.",
        said(program),
    )


def test_the_command_line_is_there_under_celerys_name() -> None:
    program = f"""{ALIASED}
import runpy, sys
sys.argv = ["celery", "--help"]
runpy.run_module("celery", run_name="__main__", alter_sys=True)
"""

    assert "worker" in said(program)
