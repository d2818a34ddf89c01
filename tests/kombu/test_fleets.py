"""Producers and workers of both kinds on the same queues."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import ChordError

import pgtasks
from pgtasks.store.embedded import Server
from tests.kombu.common import declare
from tests.kombu.conftest import eventually, rows
from tests.support import pooler
from tests.support.workers import STUCK_S, WorkerProcess

Start = Callable[..., WorkerProcess]


def ours(database_url: str) -> pgtasks.Celery:
    app = pgtasks.Celery("ours", broker=database_url, set_as_current=False)
    declare(app)
    return app


def canvases(app: Any, chain: Any, group: Any, chord: Any) -> dict[str, Any]:
    """Canvases of every kind, with what comes of them."""
    add, total, again = (app.tasks[f"mixed.{name}"] for name in ("add", "total", "again"))
    return {
        "chain": (chain(add.s(1, 2), add.s(3), add.s(4)), 10),
        "group": (group(add.s(i, i) for i in range(4)), [0, 2, 4, 6]),
        "chord": (chord([add.s(i, i) for i in range(4)], total.s()), 12),
        "chord in a chain": (chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s(), add.s(100)), 107),
        "chord in a chord": (
            chord([chord([add.s(1, 1), add.s(2, 2)], total.s()), add.s(5, 5)], total.s()),
            16,
        ),
        "chain in a header": (
            chord([chain(add.s(1, 1), add.s(2)), add.s(5, 5)], chain(total.s(), add.s(1))),
            15,
        ),
        "immutable body": (chord([add.s(1, 1), add.s(2, 2)], add.si(20, 1)), 21),
        "group as a body": (chord([add.s(1, 1), add.s(2, 2)], group(total.s(), total.s())), [6, 6]),
        "retry before a step": (chain(again.s(1), add.s(3), add.s(4)), 8),
        "retry in a header": (chord([again.s(1), add.s(5, 5)], total.s()), 11),
        "retry in a chain in a header": (chord([chain(again.s(1), add.s(2)), add.s(5, 5)], total.s()), 13),
    }


@pytest.mark.parametrize("workers", [["ours"], ["theirs"], ["ours", "theirs"]], ids="+".join)
def test_programs_of_either_kind_get_the_results_of_whoever_works(
    theirs: Celery, database_url: str, start: Start, workers: list[str], conn: psycopg.Connection[Any]
) -> None:
    for kind in workers:
        start(kind)

    for app, words in (
        (theirs, (chain, group, chord)),
        (ours(database_url), (pgtasks.chain, pgtasks.group, pgtasks.chord)),
    ):
        for what, (canvas, expected) in canvases(app, *words).items():
            assert canvas.apply_async().get(timeout=STUCK_S) == expected, (what, app.main)
        assert app.tasks["mixed.again"].delay(2).get(timeout=STUCK_S) == 2
        assert app.tasks["mixed.add"].apply_async((1, 1), countdown=0.1).get(timeout=STUCK_S) == 2
        with pytest.raises(ValueError, match="as asked"):
            app.tasks["mixed.fail"].delay().get(timeout=STUCK_S)
    eventually(lambda: not rows(conn, "claim") and not rows(conn, "away") and not rows(conn, "ready"))


def test_what_follows_a_task_of_a_celery_producer_survives_its_retries(
    theirs: Celery, start: Start, conn: psycopg.Connection[Any]
) -> None:
    start("ours")
    add, again, who = (theirs.tasks[f"mixed.{name}"] for name in ("add", "again", "who"))

    again.apply_async((2,), link=[add.s(10).set(task_id="link")])
    again.apply_async((9,), link_error=who.s().set(task_id="link_error"))
    again.apply_async((2,), chain=[add.s(2).set(task_id="second"), add.s(1).set(task_id="first")])

    assert theirs.AsyncResult("link").get(timeout=STUCK_S) == 12
    assert theirs.AsyncResult("second").get(timeout=STUCK_S) == 5
    assert theirs.AsyncResult("link_error").get(timeout=STUCK_S) == "ours@h"


@pytest.mark.parametrize("worker", ["ours", "theirs"])
def test_a_header_that_fails_fails_the_body_and_nobody_waits_for_ever(
    theirs: Celery, database_url: str, start: Start, worker: str
) -> None:
    start(worker)
    add, fail, total = (theirs.tasks[f"mixed.{name}"] for name in ("add", "fail", "total"))
    own = ours(database_url)

    sent = chord([add.s(1, 1), fail.s()], total.s()).apply_async()
    own_sent = pgtasks.chain(own.tasks["mixed.fail"].si(), own.tasks["mixed.add"].s(1)).apply_async()

    with pytest.raises(ChordError, match="as asked"):
        theirs.AsyncResult(sent.id).get(timeout=STUCK_S)
    with pytest.raises(ValueError, match="as asked"):
        own.AsyncResult(own_sent.id).get(timeout=STUCK_S)


def test_a_task_sees_what_its_caller_said_whichever_way_it_came(
    theirs: Celery, database_url: str, start: Start
) -> None:
    start("theirs")
    options = {
        "priority": 3,
        "expires": 600,
        "time_limit": 60,
        "soft_time_limit": 50,
        "headers": {"trace": "t"},
    }
    seen = {}
    for app in (theirs, ours(database_url)):
        result = app.tasks["mixed.request"].apply_async((1, "ä\U0001f600"), {"k": [None]}, **options)
        seen[app.main] = result.get(timeout=STUCK_S)
        assert seen[app.main].pop("id") == result.id == seen[app.main].pop("root_id")
        assert seen[app.main].pop("expires")

    assert seen["theirs"] == seen["ours"]
    assert seen["ours"]["args"] == [1, "ä\U0001f600"]
    assert (seen["ours"]["priority"], seen["ours"]["timelimit"], seen["ours"]["trace"]) == (3, [60, 50], "t")


@pytest.mark.skipif(not pooler.is_installed(), reason="pgbouncer is not installed")
def test_programs_of_celery_work_behind_a_pooler_as_without(
    database_url: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pooler.pooled(database_url, tmp_path, size=10) as url:
        monkeypatch.setenv("PGTASKS_DATABASE_URL", url)
        start("theirs", "-P", "solo")
        # An app chooses a protocol once.
        with Celery("old", broker=f"pgtasks+{url}", backend=f"pgtasks+{url}", set_as_current=False) as old:
            old.conf.task_protocol = 1
            assert old.send_task("mixed.add", (20, 1)).get(timeout=STUCK_S) == 21
        with Celery("theirs", broker=f"pgtasks+{url}", backend=f"pgtasks+{url}", set_as_current=False) as theirs:
            declare(theirs)
            add, again = theirs.tasks["mixed.add"], theirs.tasks["mixed.again"]

            assert chain(add.s(1, 2), again.si(1), add.s(3)).apply_async().get(timeout=STUCK_S) == 4
            assert chord([add.s(1, 1), add.s(2, 2)], theirs.tasks["mixed.total"].s())().get(timeout=STUCK_S) == 6
            assert theirs.control.inspect(timeout=STUCK_S, limit=1).ping() == {"theirs@h": {"ok": "pong"}}


def test_programs_of_celery_go_on_when_the_server_has_been_killed(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server.throw_away()
    url = server.start()
    monkeypatch.setenv("PGTASKS_DATABASE_URL", url)
    worker = start("theirs", "-P", "solo")
    with Celery("theirs", broker=f"pgtasks+{url}", backend=f"pgtasks+{url}", set_as_current=False) as theirs:
        declare(theirs)
        add = theirs.tasks["mixed.add"]
        assert add.delay(1, 1).get(timeout=STUCK_S) == 2

        os.kill(server.status().pid or 0, signal.SIGKILL)
        eventually(lambda: server.status().pid is None)
        server.start()

        assert add.apply_async((2, 2), retry=True).get(timeout=STUCK_S) == 4
        assert theirs.control.inspect(timeout=STUCK_S, limit=1).ping() == {"theirs@h": {"ok": "pong"}}
    assert worker.stop() == 0
    server.stop()


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_killed_worker_of_celery_loses_no_task_that_it_had_not_acknowledged(
    theirs: Celery, start: Start, tmp_path: Path, pool: str
) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    victim = start("theirs", "-P", pool, name="victim@h")
    result = theirs.tasks["mixed.hold"].delay(str(stage))
    eventually(lambda: list(stage.glob("began-*")), victim.output())

    victim.kill()
    (stage / "gate").touch()
    with psycopg.connect(os.environ["PGTASKS_DATABASE_URL"], autocommit=True) as conn:
        # So that nobody has to wait for the lease to end.
        conn.execute("UPDATE pgtasks.worker SET heartbeat_at = heartbeat_at - interval '1 minute'")
    start("ours")

    assert result.get(timeout=STUCK_S) == "ours@h"


def test_a_worker_of_celery_that_stops_gives_back_what_it_has_not_begun(
    theirs: Celery, start: Start, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    worker = start("theirs", "-P", "solo")
    held = theirs.tasks["mixed.hold"].delay(str(stage))
    others = [theirs.tasks["mixed.who"].delay() for _ in range(3)]
    eventually(lambda: list(stage.glob("began-*")), worker.output())

    worker.send(15)
    (stage / "gate").touch()
    worker.join()
    assert not rows(conn, "claim")
    assert not conn.execute("SELECT FROM pgtasks.worker WHERE pool = 'kombu'").fetchall()
    start("ours")

    assert held.get(timeout=STUCK_S) == "theirs@h"
    assert {each.get(timeout=STUCK_S) for each in others} <= {"theirs@h", "ours@h"}


def test_a_worker_of_celery_takes_no_more_than_it_has_room_for(
    theirs: Celery, start: Start, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    start("theirs", "--prefetch-multiplier", "1")
    results = [theirs.tasks["mixed.hold"].delay(str(stage)) for _ in range(6)]

    eventually(lambda: len(list(stage.glob("began-*"))) == 2)
    assert (rows(conn, "claim"), rows(conn, "ready")) == (2, 4)
    (stage / "gate").touch()

    assert {result.get(timeout=STUCK_S) for result in results} == {"theirs@h"}


def test_a_revocation_holds_for_a_task_that_a_worker_of_celery_has_not_begun(
    theirs: Celery, database_url: str, start: Start
) -> None:
    own = ours(database_url)
    result = own.tasks["mixed.add"].delay(1, 1)
    own.control.revoke(result.id)
    after = pgtasks.chain(
        own.tasks["mixed.add"].s(1, 1).set(task_id="revoked-first"), own.tasks["mixed.add"].s(1)
    )
    sent = after.apply_async()
    own.control.revoke("revoked-first")

    start("theirs")

    for each in (result, sent):
        with pytest.raises(pgtasks.exceptions.TaskRevokedError):
            each.get(timeout=STUCK_S)
    assert own.tasks["mixed.add"].delay(2, 2).get(timeout=STUCK_S) == 4
