"""Schedulers answer `inspect ping` while they are well, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from pgtasks import Celery
from pgtasks.app import pidbox
from pgtasks.beat import BeatPidbox, EmbeddedService, Scheduler, Service, beat_nodename, remote
from pgtasks.exceptions import OperationalError
from pgtasks.store import mail
from pgtasks.utils.nodenames import gethostname
from tests.support import pooler
from tests.support.workers import STUCK_S, eventually

Conn = psycopg.Connection[Any]
NODE = "celerybeat@h"
PONG = {NODE: {"ok": "pong"}}


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    with Celery("remote", broker=database_url, set_as_current=False) as app:
        app.conf.beat_scheduler = Scheduler
        yield app


@pytest.fixture
def start() -> Iterator[Callable[..., Service]]:
    """Starts the service of an app in a thread, which answers by the name of NODE."""
    running: list[tuple[Service, threading.Thread]] = []

    def start(app: Celery, **options: Any) -> Service:
        service = Service(app, remote_control=True, hostname="h", **options)
        thread = threading.Thread(target=service.start)
        running.append((service, thread))
        thread.start()
        eventually(lambda: ping(app) == PONG, "an answer")
        return service

    yield start
    for service, thread in running:
        service.stop()
        thread.join()


def ping(app: Celery, timeout: float = STUCK_S, **options: Any) -> Any:
    return app.control.inspect(timeout=timeout, **options).ping()


def mailboxes(conn: Conn) -> list[str]:
    return [name for (name,) in conn.execute("SELECT name FROM pgtasks.mailbox")]


@pytest.mark.parametrize(
    ("options", "is_meant"),
    [
        ({"destination": [NODE, "other@h"]}, True),
        ({"destination": ["other@h"]}, False),
        ({"pattern": "celerybeat@*", "matcher": "glob"}, True),
        ({"pattern": "celery@*", "matcher": "glob"}, False),
    ],
)
def test_a_scheduler_answers_only_when_it_is_meant(
    app: Celery, start: Callable[..., Service], options: dict[str, Any], is_meant: bool
) -> None:
    start(app)

    assert ping(app, **options) == (PONG if is_meant else None)


def test_nobody_waits_for_a_scheduler_to_answer_what_only_workers_know(
    app: Celery, start: Callable[..., Service]
) -> None:
    start(app)

    assert pidbox.nodes(app, "ping", None, None, None) == [NODE]
    assert pidbox.nodes(app, "stats", None, None, None) == []
    assert app.control.broadcast("ping", reply=True, timeout=STUCK_S, only_workers=True) == []
    assert app.control.inspect(timeout=STUCK_S).stats() is None


def test_a_notification_wakes_it_so_that_an_idle_scheduler_need_not_look(
    app: Celery, start: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LOOK_EVERY_S", 3600)
    start(app)

    for _ in range(20):
        assert ping(app) == PONG


def test_one_that_stands_still_is_silent_until_it_goes_on(
    app: Celery, start: Callable[..., Service], caplog: pytest.LogCaptureFixture
) -> None:
    service = start(app)
    eventually(lambda: service.effective_max_interval)

    service._last_tick = time.monotonic() - 2 * Scheduler.max_interval - 1
    assert ping(app, timeout=0.2) is None
    eventually(lambda: "the scheduler has not ticked for" in caplog.text)

    app.conf.beat_remote_control_max_tick_age = 0
    assert ping(app) == PONG


@pytest.mark.parametrize(
    ("configured", "own_s", "wanted_s", "most_s"),
    [
        (None, 300, 0, 600),
        (None, None, 100, 200),
        (None, None, 0, 600),
        (None, 5, 0, 60),
        (7.5, 300, 0, 7.5),
        (0, 300, 0, 0),
    ],
)
def test_how_long_is_too_long_follows_the_interval_of_the_scheduler(
    configured: float | None, own_s: float | None, wanted_s: float, most_s: float
) -> None:
    app = SimpleNamespace(conf=SimpleNamespace(beat_remote_control_max_tick_age=configured))
    service = SimpleNamespace(
        app=app, hostname=None, effective_max_interval=own_s, max_interval=wanted_s, _last_tick=None
    )
    node = BeatPidbox(service)

    assert node.max_tick_age == most_s
    assert not node.is_stale()
    service._last_tick = time.monotonic() - most_s - 3600
    assert node.is_stale() is bool(most_s)


def test_a_look_at_the_schedule_that_fails_does_not_count(app: Celery) -> None:
    seen: list[float | None] = []

    class Failing(Scheduler):
        def tick(self) -> float:
            seen.append(service._last_tick)
            if len(seen) < 3:
                raise OperationalError("no database")
            return 0

    service = Service(app, scheduler_cls=Failing)
    thread = threading.Thread(target=service.start)
    thread.start()
    eventually(lambda: len(seen) > 3)
    service.stop()
    thread.join()

    # It counts as begun at the start, so that one that never gets any further is found out.
    assert seen[0] is not None
    assert seen[1:3] == [seen[0]] * 2
    assert seen[3] != seen[0]


def test_it_answers_again_after_its_connections_were_cut(
    app: Celery, start: Callable[..., Service], conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    start(app)

    for times in (1, 2):
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        eventually(lambda times=times: caplog.text.count(f"{NODE} cannot be asked at the moment") == times)
        eventually(lambda: ping(app, timeout=1) == PONG)


def test_it_answers_again_after_its_mailbox_was_swept_away(
    app: Celery, start: Callable[..., Service], conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LOOK_EVERY_S", 0.05)
    start(app)

    conn.execute("UPDATE pgtasks.mailbox SET seen_at = '-infinity'")
    app.database.run(mail.sweep())

    eventually(lambda: ping(app, timeout=1) == PONG)


def test_nobody_asks_a_scheduler_that_has_ended(app: Celery, start: Callable[..., Service], conn: Conn) -> None:
    service = start(app)
    assert mailboxes(conn) == [f"{NODE}.celery.pidbox"]

    service.stop()

    eventually(lambda: not mailboxes(conn))
    assert ping(app) is None


def test_letters_that_cannot_be_read_do_not_end_it(app: Celery, start: Callable[..., Service]) -> None:
    start(app)
    plain = b'{"content_type": "application/json", "content_encoding": "utf-8", "headers": {"clock": "x"}, "properties": {}}'

    for properties, body in [
        (plain, b"\xff"),
        (plain, b"[]"),
        (plain, b"{}"),
        (plain, b'{"method": "ping"}'),
        (plain, b'{"method": "ping", "ticket": "t", "reply_to": {"exchange": "no", "routing_key": "no"}}'),
        (plain, b'{"method": "ping", "destination": 1}'),
        (plain, b'{"method": "ping", "pattern": "(", "matcher": "pcre"}'),
        (b'{"content_type": "application/x-python-serialize"}', b"cos\nsystem\n."),
        (b"{", b"{}"),
    ]:
        app.database.run(mail.deliver("celery.pidbox", "", properties, body))

    assert ping(app) == PONG


def test_the_scheduler_within_a_worker_leaves_answering_to_the_worker(app: Celery, conn: Conn) -> None:
    app.conf.beat_enable_remote_control = True

    assert Service(app).remote_control
    assert not Service(app, remote_control=False).remote_control
    assert not EmbeddedService(app, thread=True).service.remote_control
    assert not EmbeddedService(app).service.remote_control


def test_a_node_has_the_name_of_its_host_unless_it_gets_another() -> None:
    host = gethostname()
    short, _, domain = host.partition(".")

    assert beat_nodename() == f"celerybeat@{host}"
    assert beat_nodename("pod-1") == "celerybeat@pod-1"
    assert beat_nodename("clock@pod-1") == "clock@pod-1"
    assert beat_nodename("%n@%d") == f"{short}@{domain}"
    assert beat_nodename("clock@%h") == f"clock@{host}"


@pytest.mark.skipif(not pooler.is_installed(), reason="pgbouncer is not installed")
def test_behind_a_pooler_it_looks_by_itself(
    database_url: str, tmp_path: Path, start: Callable[..., Service], conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LOOK_UNHEARING_S", 0.1)
    with pooler.pooled(database_url, tmp_path) as url, Celery("pooled", set_as_current=False) as app:
        monkeypatch.setenv("PGTASKS_DATABASE_URL", url)
        app.conf.beat_scheduler = Scheduler
        service = start(app)

        assert service.app.database.is_pooled
        service.stop()
        eventually(lambda: not mailboxes(conn))
