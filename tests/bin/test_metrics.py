"""`pgtasks metrics`: what Prometheus reads."""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pgtasks.app.discovery import find_app
from pgtasks.bin.metrics import server
from pgtasks.events.metrics import Counts, render
from pgtasks.exceptions import OperationalError
from pgtasks.store.health import Figure
from tests.bin.conftest import Command

_LINE = re.compile(r'^[a-z_]+(\{([a-z_]+="(\\.|[^"\\])*",?)+\})? [-+.\de]+$')


@pytest.fixture
def app(project: str, database_url: str) -> Any:
    return find_app(project)


def event(kind: str, uuid: str = "1", **fields: Any) -> dict[str, Any]:
    return {"type": f"task-{kind}", "uuid": uuid, "hostname": "w@h", **fields}


def read(page: str) -> dict[str, float]:
    """The lines of a page, each a metric with its labels."""
    lines = [line for line in page.splitlines() if not line.startswith("#")]
    assert all(_LINE.match(line) for line in lines), [line for line in lines if not _LINE.match(line)]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_tasks_are_counted_by_name_and_worker_although_most_events_do_not_name_them() -> None:
    counts = Counts()
    for uuid, runtime in (("1", 0.02), ("2", 3.0), ("3", 60.0)):
        counts.count(event("received", uuid, name="add"))
        counts.count(event("started", uuid))
        counts.count(event("succeeded", uuid, runtime=runtime))
    counts.count(event("received", "4", name="add"))
    counts.count(event("failed", "4", exception="errors.NoSuchThing('x')"))
    counts.count(event("progress", "4"))
    counts.count({"type": "worker-heartbeat", "hostname": "w@h"})

    seen = read(render(counts, []))

    labels = 'name="add",hostname="w@h",queue_name="celery"'
    assert seen[f"celery_task_received_total{{{labels}}}"] == 4
    assert seen[f"celery_task_started_total{{{labels}}}"] == 3
    assert seen[f'celery_task_failed_total{{{labels},exception="NoSuchThing"}}'] == 1
    assert seen[f'celery_task_failed_total{{{labels},exception=""}}'] == 0
    assert seen[f"celery_task_retried_total{{{labels}}}"] == 0
    assert seen[f'celery_task_runtime_bucket{{{labels},le="0.01"}}'] == 0
    assert seen[f'celery_task_runtime_bucket{{{labels},le="0.025"}}'] == 1
    assert seen[f'celery_task_runtime_bucket{{{labels},le="10.0"}}'] == 2
    assert seen[f'celery_task_runtime_bucket{{{labels},le="+Inf"}}'] == 3
    assert seen[f"celery_task_runtime_count{{{labels}}}"] == 3
    assert seen[f"celery_task_runtime_sum{{{labels}}}"] == pytest.approx(63.02)


def test_tasks_are_counted_by_queue_where_an_event_names_it() -> None:
    counts = Counts()
    counts.count(event("sent", "1", name="add", queue="mail"))
    counts.count(event("received", "1", name="add"))
    counts.count(event("succeeded", "1", runtime=1.0))

    seen = read(render(counts, []))

    assert seen['celery_task_sent_total{name="add",hostname="w@h",queue_name="mail"}'] == 1
    assert seen['celery_task_succeeded_total{name="add",hostname="w@h",queue_name="mail"}'] == 1
    assert seen['celery_task_runtime_count{name="add",hostname="w@h",queue_name="mail"}'] == 1


def test_the_metrics_that_dashboards_for_celery_read_are_all_there() -> None:
    page = render(Counts(), [])

    counted = ("sent", "received", "started", "succeeded", "failed", "rejected", "revoked", "retried")
    read_by_others = (
        *(f"celery_task_{kind}_total" for kind in counted),
        *("celery_task_runtime", "celery_worker_up", "celery_worker_tasks_active", "celery_queue_length"),
        *("celery_active_consumer_count", "celery_active_worker_count", "celery_active_process_count"),
    )
    assert [name for name in read_by_others if f"# TYPE {name} " not in page] == []


def test_labels_are_escaped() -> None:
    page = render(Counts(), [Figure("queue_length", 'a"b\\c\nd', 1.0)])

    assert 'celery_queue_length{queue_name="a\\"b\\\\c\\nd"} 1.0\n' in page
    read(page)


def test_every_metric_says_once_what_it_is() -> None:
    page = render(Counts(), [])

    told = re.findall(r"^# TYPE (\S+) (\S+)$", page, re.M)
    assert len({name for name, _ in told}) == len(told) > 15
    assert re.findall(r"^# HELP (\S+) .+$", page, re.M) == [name for name, _ in told]


def test_the_database_is_asked_what_waits_and_what_is_stuck(
    command: Command, app: Any, project: str, conn: psycopg.Connection[Any]
) -> None:
    app.send_task("t", queue="mail")
    app.send_task("t", queue="mail", countdown=3600)
    conn.execute(
        "INSERT INTO pgtasks.worker (id, hostname, machine, pid, pool, concurrency, queues, version, lease)"
        " VALUES (gen_random_uuid(), 'w@h', 'h', 1, 'prefork', 4, '{celery,other}', '1', '20 s')"
    )
    conn.execute(
        "INSERT INTO pgtasks.schedule (app, name, task, schedule, last_run_at, next_run_at)"
        " VALUES ('a', 'nightly', 't', 's', now(), now() - interval '1 hour')"
    )

    seen = read(command("-A", project, "metrics", "--once").stdout)

    assert seen['celery_queue_length{queue_name="mail"}'] == 1
    assert seen['pgtasks_queue_scheduled{queue_name="mail"}'] == 1
    assert seen['pgtasks_queue_oldest_seconds{queue_name="mail"}'] >= 0
    assert seen['celery_worker_up{hostname="w@h"}'] == 1
    assert seen['pgtasks_worker_slots{hostname="w@h"}'] == 4
    assert seen['celery_active_consumer_count{queue_name="other"}'] == 1
    assert seen['celery_active_worker_count{queue_name="other"}'] == 1
    assert seen['celery_active_process_count{queue_name="other"}'] == 4
    assert seen['pgtasks_stuck_tasks{why="no live worker consumes this queue"}'] == 1
    assert 3500 < seen['pgtasks_schedule_late_seconds{name="nightly"}'] < 3700
    assert "pgtasks_notification_queue_usage" in seen


@contextmanager
def serving(app: Any, counts: Counts) -> Iterator[str]:
    with server(app, counts, "127.0.0.1", 0) as it:
        thread = threading.Thread(target=it.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{it.server_port}"
        it.shutdown()
        thread.join()


def test_it_is_served_over_http_and_says_when_the_database_is_away(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts()
    counts.count(event("received", name="add"))
    with serving(app, counts) as url:
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert read(answer.read().decode())[
                'celery_task_received_total{name="add",hostname="w@h",queue_name="celery"}'
            ] == 1
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/other")

        def away(query: Any) -> Any:
            raise OperationalError("gone")

        monkeypatch.setattr(app.database, "run", away)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{url}/health")
