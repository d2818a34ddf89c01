"""Django's own tasks framework, on workers of pgtasks: what its documentation says of tasks and of backends."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.contrib.django.conftest import Site

pytestmark = pytest.mark.skipif(
    find_spec("django.tasks") is None and find_spec("django_tasks") is None,
    reason="neither Django 6 nor django-tasks is installed",
)

FRAMEWORK = """
try:
    from django.tasks import task, task_backends, TaskResultStatus
    from django.tasks.exceptions import TaskResultDoesNotExist, TaskResultMismatch
    from django.tasks.exceptions import InvalidTask
except ImportError:
    from django_tasks import task, task_backends, TaskResultStatus
    from django_tasks.exceptions import TaskResultDoesNotExist, TaskResultMismatch
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
"""

TASKS = (
    FRAMEWORK
    + """

@task
def double(number):
    return number * 2


@task(takes_context=True, priority=5, queue_name="slow")
def look(context, word):
    result = context.task_result
    return [word, context.attempt, result.id, str(result.status), result.task.module_path]


@task
async def later(number):
    import asyncio
    await asyncio.sleep(0)
    return number + 1


@task
def broken():
    raise LookupError("not there")


@task
def not_json():
    return object()
"""
)

WAIT = (
    FRAMEWORK
    + """
import time, asyncio
from datetime import timedelta
from django.db import transaction
from django.utils import timezone
from polls.jobs.tasks import broken, double, later, look, not_json
from mysite.celery import app

def end(result):
    deadline = time.monotonic() + 30
    while not result.is_finished and time.monotonic() < deadline:
        time.sleep(0.02)
        result.refresh()
    return result
"""
)


@pytest.fixture
def jobs(site: Site) -> Site:
    package = site.directory / "polls" / "jobs"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tasks.py").write_text(TASKS)
    site.settings["CELERY_IMPORTS"] = ["polls.jobs.tasks"]
    if find_spec("django.tasks") is None:
        settings = site.directory / "mysite" / "settings.py"
        settings.write_text(settings.read_text().replace('"polls",', '"polls", "django_tasks",'))
    return site


def test_tasks_run_and_their_results_say_what_django_documents(jobs: Site) -> None:
    with jobs.worker("-Q", "celery,slow"):
        said = jobs.run(
            WAIT
            + """
one = double.enqueue(21)
said = [str(one.status), end(one).return_value, one.attempts, len(one.worker_ids), one.args, one.kwargs]
said.append([one.enqueued_at <= one.finished_at, one.started_at <= one.finished_at, one.errors])
said.append(end(look.enqueue("word")).return_value)
said.append(end(later.enqueue(number=1)).return_value)
bad = end(broken.enqueue())
said.append([str(bad.status), bad.errors[0].exception_class.__name__, "not there" in bad.errors[0].traceback])
try:
    bad.return_value
except ValueError as error:
    said.append(str(error))
said.append(str(end(not_json.enqueue()).status))
async def main():
    result = await double.aenqueue(4)
    await asyncio.to_thread(end, result)
    await result.arefresh()
    return [result.return_value, (await double.aget_result(result.id)).return_value]
said.append(asyncio.run(main()))
"""
        )

    assert said[:6] == ["READY", 42, 1, 1, [21], {}]
    assert said[6] == [True, True, []]
    assert said[7][:2] == ["word", 1]
    assert said[7][3:] == ["RUNNING", "polls.jobs.tasks.look"]
    assert said[8] == 2
    assert said[9] == ["FAILED", "LookupError", True]
    assert said[10] == "Task failed"
    assert said[11] == "FAILED"
    assert said[12] == [8, 8]


def test_enqueueing_keeps_the_frameworks_rules(jobs: Site) -> None:
    said = jobs.run(
        WAIT
        + """
backend = task_backends["default"]
said = [[backend.supports_defer, backend.supports_async_task, backend.supports_get_result, backend.supports_priority]]
run_after = timezone.now() + timedelta(hours=1)
result = double.using(run_after=run_after, priority=-7, queue_name="slow").enqueue(1)
found = double.get_result(result.id)
said.append([found.task.priority, found.task.queue_name, abs(found.task.run_after - run_after).total_seconds() < 1])
said.append([str(found.status), found.args, found.attempts, found.is_finished, found == result])
for wrong in (lambda: double.get_result("018f0000-0000-7000-8000-000000000000"), lambda: later.get_result(result.id),
              lambda: double.using(priority=101), lambda: double.enqueue(object()),
              lambda: task(lambda: None), lambda: backend.get_result(app.send_task("polls.tasks.add", (1, 2)).id)):
    try:
        wrong()
        said.append(None)
    except Exception as error:
        said.append(type(error).__name__)
with transaction.atomic():
    inside = double.enqueue(2)
    transaction.set_rollback(True)
try:
    double.get_result(inside.id)
except TaskResultDoesNotExist:
    said.append("gone")
"""
    )

    assert said[0] == [True, True, True, True]
    assert said[1] == [-7, "slow", True]
    assert said[2][:4] == ["READY", [1], 0, False]
    assert said[3:5] == ["TaskResultDoesNotExist", "TaskResultMismatch"]
    assert said[5] in ("InvalidTask", "InvalidTaskError")
    assert said[6] == "TypeError"
    assert said[7] in ("InvalidTask", "InvalidTaskError")
    assert said[8:] == ["TaskResultDoesNotExist", "gone"]
