"""The plugin for pytest, run by pytest on a project of its own."""

from __future__ import annotations

import pytest

pytest_plugins = ("pytester",)


@pytest.fixture
def project(pytester: pytest.Pytester, database_url: str) -> pytest.Pytester:
    pytester.makeconftest('pytest_plugins = ("pgtasks.contrib.pytest",)')
    return pytester


def passed(project: pytest.Pytester, count: int) -> None:
    project.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers").assert_outcomes(passed=count)


def test_an_app_and_a_worker_for_each_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_add(celery_app, celery_worker):
            @celery_app.task
            def add(x, y):
                return x + y

            assert add.delay(4, 4).get(timeout=60) == 8

        def test_the_app_of_another_test_is_forgotten(celery_app):
            assert "test_an_app_and_a_worker_for_each_test.add" not in celery_app.tasks
        """
    )

    passed(project, 2)


def test_a_worker_for_the_whole_session_with_the_settings_that_fixtures_name(project: pytest.Pytester) -> None:
    project.makepyfile(
        jobs="""
        from pgtasks import shared_task

        @shared_task
        def echo(x):
            return x
        """,
        test_session="""
        import pytest
        from pgtasks import Task
        from jobs import echo

        class Own(Task):
            name = "own"
            def run(self):
                return self.app.conf.task_default_queue

        @pytest.fixture(scope="session")
        def celery_config():
            return {"task_default_queue": "theirs"}

        @pytest.fixture(scope="session")
        def celery_includes():
            return ["jobs"]

        @pytest.fixture(scope="session")
        def celery_class_tasks():
            return [Own]

        @pytest.fixture(scope="session")
        def celery_worker_pool():
            return "prefork"

        def test_a_function(celery_session_worker):
            assert echo.delay(1).get(timeout=60) == 1

        def test_a_class(celery_session_app, celery_session_worker):
            assert celery_session_app.tasks["own"].delay().get(timeout=60) == "theirs"
        """,
    )

    passed(project, 2)


def test_the_marker_changes_settings_and_the_trap_catches_the_current_app(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from pgtasks import current_app

        @pytest.fixture(scope="session")
        def use_celery_app_trap():
            return True

        @pytest.mark.celery(task_always_eager=True)
        def test_marked(celery_app):
            assert celery_app.conf.task_always_eager

        def test_not_marked(celery_app):
            assert not celery_app.conf.task_always_eager
            with pytest.raises(RuntimeError, match="current_app.conf"):
                current_app.conf

        def test_current(depends_on_current_app, celery_app):
            assert current_app.main == celery_app.main
        """
    )

    passed(project, 3)
