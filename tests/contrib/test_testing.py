"""The plugin's own fixtures, in projects of their own: draining, looking, travelling, killing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

pytest_plugins = ("pytester",)

PROJECT = """
from datetime import timedelta
from pgtasks import Celery, chord, wf

app = Celery("proj")
ran = []

@app.task
def add(x, y):
    ran.append((x, y))
    return x + y

@app.task
def total(numbers):
    return sum(numbers)

@app.task(bind=True, max_retries=3)
def flaky(self):
    if self.request.retries < 2:
        raise self.retry(countdown=600)
    return self.request.retries

@app.task
def fan_out(n):
    return chord([add.s(k, k) for k in range(n)], total.s())().id

@app.task
def fail():
    raise ValueError("no")

@app.task(queue="elsewhere")
def slow(path):
    import time
    open(path, "a").write("x")
    while open(path).read() == "x":
        time.sleep(0.02)
    return "done"

@app.workflow
def patient():
    wf.sleep(86400)
    return "awake"

@app.task
def again():
    again.delay()
"""


@pytest.fixture
def project(pytester: pytest.Pytester, server_url: str, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PGTASKS_TEST_DATABASE_URL", server_url)
    monkeypatch.delenv("PGTASKS_DATABASE_URL", raising=False)
    pytester.makeconftest(
        """
        import sys
        import proj
        pytest_plugins = ("pgtasks.contrib.pytest",)
        """
    )
    pytester.makepyfile(proj=PROJECT)
    return pytester


def passed(project: pytest.Pytester, count: int, *options: str) -> Any:
    said = project.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers", *options)
    said.assert_outcomes(passed=count)
    return said


def test_what_was_called_is_seen_and_run_and_gone_in_the_next_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from proj import add, again, fail, fan_out, ran, slow
        from pgtasks.contrib.testing import draining

        def test_calls(pgtasks):
            result = add.apply_async((1, 2), priority=4)
            call = pgtasks.assert_enqueued(add, (1, 2), {}, queue="celery", priority=4, count=1)
            assert call.id == result.id
            with pytest.raises(AssertionError, match=r"add\\(args=\\(9, 9\\)\\) should be(.|\\n)*proj.add\\(1, 2\\) in 'celery'"):
                pgtasks.assert_enqueued(add, (9, 9))
            with pytest.raises(AssertionError, match="should not be enqueued"):
                pgtasks.assert_not_enqueued()
            assert [(each.name, each.state) for each in pgtasks.drain()] == [("proj.add", "SUCCESS")]
            assert result.get(timeout=60) == 3
            pgtasks.assert_not_enqueued()

        def test_nothing_is_left_of_another_test(pgtasks):
            assert pgtasks.enqueued() == []

        def test_what_tasks_call_runs_too_in_whatever_queue_it_is(pgtasks):
            result = fan_out.delay(4)
            add.apply_async((5, 5), queue="unheard-of")
            states = [each.state for each in pgtasks.drain()]
            assert states == ["SUCCESS"] * 7
            assert pgtasks.app.AsyncResult(result.result).result == 12
            fail.delay()
            assert [each.state for each in pgtasks.drain()] == ["FAILURE"]
            slow.delay("/nowhere")
            assert pgtasks.drain(queues=["celery"]) == []

        def test_what_calls_itself_is_stopped(pgtasks, monkeypatch):
            monkeypatch.setattr(draining, "MOST", 20)
            again.delay()
            with pytest.raises(RuntimeError, match="20 tasks have run, the last of them proj.again"):
                pgtasks.drain()
        """
    )

    passed(project, 4)


def test_a_drain_keeps_to_the_tests_own_transaction(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import psycopg, pytest, sqlalchemy
        from sqlalchemy.orm import Session
        from proj import add, app, fan_out

        def seen(pgtasks):
            with psycopg.connect(pgtasks.database_url) as other:
                return other.execute("SELECT count(*) FROM pgtasks.message").fetchone()[0]

        def test_psycopg(pgtasks):
            with psycopg.connect(pgtasks.database_url) as conn:
                result = fan_out.apply_async((3,), conn=conn)
                pgtasks.assert_enqueued(fan_out, conn=conn)
                assert len(pgtasks.drain(conn)) == 5
                pgtasks.assert_not_enqueued(conn=conn)
                assert conn.execute("SELECT count(*) FROM pgtasks.result").fetchone() == (5,)
                assert conn.execute("SELECT count(*) FROM pgtasks.worker").fetchone() == (0,)
                assert seen(pgtasks) == 0
                conn.rollback()
            assert seen(pgtasks) == 0
            assert result.state == "PENDING"

        def test_sqlalchemy(pgtasks):
            engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(pgtasks.database_url))
            with Session(engine) as session:
                add.apply_async((1, 1), conn=session)
                assert len(pgtasks.drain(session)) == 1
                session.rollback()
            assert seen(pgtasks) == 0
            with Session(engine) as session:  # which has done nothing yet
                assert pgtasks.drain(session) == []
                add.apply_async((1, 1), conn=session)
                session.rollback()
            assert seen(pgtasks) == 0
        """
    )

    passed(project, 2)


def test_time_goes_on_to_what_is_due_and_stands_where_it_was_told_to(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from datetime import UTC, datetime, timedelta
        import psycopg
        from proj import add, app, flaky, patient, ran

        def test_due_tasks_run_in_their_order(pgtasks):
            del ran[:]
            add.apply_async((2, 2), countdown=7200)
            add.apply_async((1, 1), countdown=3600)
            add.apply_async((3, 3), countdown=999999)
            result = flaky.delay()
            assert len(pgtasks.drain()) == 1
            assert result.state == "RETRY"
            pgtasks.drain(until=timedelta(hours=3))
            assert result.get(timeout=60) == 2
            assert ran == [(1, 1), (2, 2)]
            pgtasks.assert_enqueued(add, (3, 3), state="SCHEDULED")

        def test_a_workflow_sleeps_for_a_day_in_no_time(pgtasks):
            result = patient.delay()
            pgtasks.drain(until=timedelta(days=2))
            assert result.get(timeout=60) == "awake"

        def test_in_a_transaction_time_goes_back_with_it(pgtasks):
            with psycopg.connect(pgtasks.database_url) as conn:
                add.apply_async((4, 4), countdown=3600, conn=conn)
                assert len(pgtasks.drain(conn, until=timedelta(days=1))) == 1
                assert conn.execute("SELECT pgtasks.clock() - now() < interval '1 minute'").fetchone() == (True,)
                conn.rollback()

        def test_expired_elsewhen(pgtasks):
            result = add.apply_async((1, 1), expires=60)
            with pgtasks.travel(timedelta(hours=1)) as moment:
                assert [each.state for each in pgtasks.drain()] == ["REVOKED"]
                later = add.apply_async((1, 1), countdown=10)
                assert pgtasks.enqueued(add)[0].due == moment + timedelta(seconds=10)
            with pgtasks.travel(datetime(2030, 1, 1, tzinfo=UTC)):
                assert len(pgtasks.drain()) == 1
            assert later.result == 2
        """
    )

    passed(project, 4)


def test_a_worker_that_is_killed_loses_nothing(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import time
        import psycopg
        from proj import add, app, slow

        def test_thread(pgtasks):
            with pgtasks.worker(perform_ping_check=False):
                assert add.delay(1, 2).get(timeout=60) == 3

        def test_processes(pgtasks, tmp_path):
            path = tmp_path / "ran"
            result = slow.delay(str(path))
            with pgtasks.worker_process("proj", "-c", "1", "-Q", "elsewhere") as worker:
                worker.await_log("received")
                while not path.exists() or not path.read_text():
                    time.sleep(0.02)
                worker.kill()
            path.write_text("again")
            with psycopg.connect(pgtasks.database_url, autocommit=True) as conn:
                conn.execute("UPDATE pgtasks.worker SET heartbeat_at = heartbeat_at - interval '1 hour'")
            with pgtasks.worker_process("proj", "-c", "1", "-Q", "elsewhere") as worker:
                assert result.get(timeout=60) == "done"
                assert worker.children()
                assert worker.stop() == 0
        """
    )

    passed(project, 2)


def test_processes_of_xdist_have_a_database_each_and_leave_none(project: pytest.Pytester, server_url: str) -> None:
    pytest.importorskip("xdist")
    project.makepyfile(
        """
        import pytest
        from proj import add

        @pytest.mark.parametrize("n", range(6))
        def test_alone(pgtasks, n, worker_id):
            assert worker_id in pgtasks.database_url
            add.delay(n, n)
            assert len(pgtasks.enqueued()) == 1
        """
    )

    passed(project, 6, "-n2")
    with psycopg.connect(server_url) as conn:
        left = conn.execute("SELECT datname FROM pg_database WHERE datname LIKE 'pgtasks_test_gw__%'").fetchall()
    assert [name for (name,) in left if "test_main" in name] == []


def test_the_tests_that_the_documentation_shows_pass(project: pytest.Pytester) -> None:
    page = Path(__file__).parents[2] / "docs" / "testing.md"
    for name, text in re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", page.read_text(), re.M | re.S):
        project.makepyfile(**{name: text})

    passed(project, 2)
