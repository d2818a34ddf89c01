"""celery.contrib.pytest: its fixtures and its mark, as projects use them in conftest.py"""

import pytest
from celery import shared_task

from compat.harness import scratch

TESTS = '''
import pytest
from celery import shared_task


@pytest.fixture(scope="session")
def celery_config():
    return {"broker_url": "memory://", "result_backend": "cache+memory://", "task_default_queue": "tests"}


@pytest.fixture(scope="session")
def celery_enable_logging():
    return False


@pytest.fixture(scope="session")
def celery_includes():
    return []


@pytest.fixture(scope="session")
def celery_worker_pool():
    return "solo"


@pytest.fixture(scope="session")
def celery_parameters():
    return {"strict_typing": False}


@shared_task
def mul(x, y):
    return x * y


def test_config(celery_app, celery_config):
    assert celery_app.conf.task_default_queue == "tests"
    assert celery_app.strict_typing is False


def test_worker(celery_app, celery_worker):
    @celery_app.task
    def add(x, y):
        return x + y

    celery_worker.reload()
    assert add.delay(4, 4).get(timeout=30) == 8


def test_shared(celery_session_app, celery_session_worker):
    assert mul.delay(4, 4).get(timeout=30) == 16


@pytest.mark.celery(result_serializer="pickle", task_default_queue="marked")
def test_mark(celery_app):
    assert celery_app.conf.result_serializer == "pickle"
    assert celery_app.conf.task_default_queue == "marked"


def test_depends(depends_on_current_app, celery_app):
    from celery import current_app

    assert current_app.main == celery_app.main
'''


class Outcomes:
    def __init__(self):
        self.lines = []

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.lines.append(f"{report.nodeid.rpartition('::')[2]} {report.when} {report.outcome}")
            if report.failed:
                self.lines.append(str(report.longrepr)[-1500:])


@shared_task
def outside():
    return None


def main():
    path = scratch("test_project.py")
    with open(path, "w") as file:
        file.write(TESTS)
    outcomes = Outcomes()
    options = ["-q", "-p", "no:cacheprovider", "-p", "celery.contrib.pytest", "--rootdir", scratch(""), path]
    with open(scratch("pytest.out"), "w") as quiet:
        import contextlib

        with contextlib.redirect_stdout(quiet):
            status = pytest.main(options, plugins=[outcomes])
    print(int(status))
    for line in outcomes.lines:
        print(line)
