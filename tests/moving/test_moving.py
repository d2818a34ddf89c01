"""Taking over what a running Celery left in its broker: each message as it was, and nothing lost on the way."""

from __future__ import annotations

import json
import signal
import socket
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import celery
import psycopg
import pytest
from click.testing import CliRunner
from kombu import Queue
from kombu.exceptions import OperationalError

import pgtasks
from pgtasks.bin.base import cli
from pgtasks.message import id_of
from pgtasks.moving import amqp, to_broker
from pgtasks.moving.amqp import AmqpSource
from pgtasks.moving.to_broker import ToBroker
from tests.moving.conftest import Killable, Move, stop
from tests.support.brokers import Redis
from tests.support.workers import eventually


def rows(conn: psycopg.Connection[Any], query: str, *values: Any) -> list[Any]:
    return conn.execute(query, values).fetchall()  # type: ignore[call-overload]


def test_what_waits_is_taken_over_once_in_its_order(move: Move, conn: psycopg.Connection[Any]) -> None:
    sent = [move.sig("add", n, 1).apply_async().id for n in range(20)]

    said = json.loads(move.bridge("--once", "--json"))
    again = json.loads(move.bridge("--once", "--json"))

    assert said["taken"] == 20
    assert again["taken"] == 0
    assert sum(again["waiting"].values()) == 0
    assert [str(row[0]) for row in rows(conn, "SELECT id FROM pgtasks.ready ORDER BY rank, seq")] == sent


def test_all_that_a_message_says_is_kept(move: Move, conn: psycopg.Connection[Any]) -> None:
    eta = datetime.now(UTC) + timedelta(hours=1)
    move.sig("add", 1, 2).apply_async(
        task_id="a-name-of-my-own",
        eta=eta,
        expires=eta + timedelta(hours=1),
        headers={"tenant": "acme"},
        reply_to="answers",
        time_limit=60,
        soft_time_limit=50,
        shadow="sum",
        argsrepr="(secret)",
        retries=1,
        root_id="r",
        parent_id="p",
        compression="gzip",
        message_id="m",
        stamped_headers=["region"],
        region="eu",
    )

    move.bridge("--once")

    ((found, due, expires, task_id, raw, payload, retries),) = rows(
        conn,
        "SELECT m.id, m.due, m.expires, m.task_id, m.options, m.payload, s.retries"
        " FROM pgtasks.message m JOIN pgtasks.scheduled s USING (id)",
    )
    options = json.loads(raw)
    assert found == id_of("a-name-of-my-own")
    assert (task_id, due, expires) == ("a-name-of-my-own", eta, eta + timedelta(hours=1))
    assert json.loads(payload)[:2] == [[1, 2], {}]
    assert options["headers"] == {"tenant": "acme"}
    assert options["timelimit"] == [60, 50]
    assert options["shadow"] == "sum"
    assert options["argsrepr"] == "(secret)"
    assert options["reply_to"] == "answers"
    assert options["retries"] + retries == 1
    assert (options["root_id"], options["parent_id"]) == ("r", "p")
    assert options["stamps"] == {"region": "eu"}
    assert options["properties"]["message_id"] == "m"


def test_messages_of_the_first_protocol_are_read_too(move: Move, conn: psycopg.Connection[Any]) -> None:
    move.old.conf.task_protocol = 1
    later = datetime.now(UTC) + timedelta(hours=1)
    plain = move.sig("add", 1, 2).apply_async()
    held = move.sig("add", 3, 4).apply_async(eta=later)
    linked = move.sig("add", 5, 6, link=[move.sig("mail")]).apply_async()

    move.bridge("--once")

    where = dict(rows(conn, "SELECT id::text, state FROM pgtasks.tasks"))
    assert where.pop(plain.id) == "READY"
    assert where.pop(held.id) == "SCHEDULED"
    assert where.pop(linked.id) == "READY"
    assert list(where.values()) == ["WAITING"]


def test_priorities_keep_the_order_they_had(move: Move, conn: psycopg.Connection[Any]) -> None:
    for priority in (3, 9, 0, 6):
        move.sig("add", priority, 0).apply_async(priority=priority)

    move.bridge("--once")

    order = [
        json.loads(row[0])[0][0]
        for row in rows(
            conn, "SELECT payload FROM pgtasks.ready r JOIN pgtasks.message m USING (id) ORDER BY r.rank, r.seq"
        )
    ]
    # Redis hands out the lowest number first, RabbitMQ and pgtasks the highest.
    assert order == ([0, 3, 6, 9] if isinstance(move.server, Redis) else [9, 6, 3, 0])


def test_chains_and_callbacks_become_tasks_that_wait_and_run_in_the_new_world(
    move: Move, conn: psycopg.Connection[Any]
) -> None:
    chain = celery.chain(move.sig("add", 1, 2), move.sig("add", 3), move.sig("mail")).apply_async()
    linked = move.sig("add", 10, 20, link=[move.sig("mail")]).apply_async()
    failing = move.sig("fail").apply_async(link_error=move.sig("tell"))
    stubborn = move.sig("stubborn").apply_async()

    move.bridge("--once")
    worker = move.start("new", "worker", "-c", "2", "-Q", "celery,mail", "-l", "INFO")
    query = "SELECT count(*) FROM pgtasks.tasks WHERE done_at IS NULL"
    eventually(lambda: not rows(conn, query)[0][0], "the end of all tasks")
    stop(worker)

    results = dict(rows(conn, "SELECT id::text, result FROM pgtasks.tasks"))
    assert results[chain.id] == "6"
    assert results[stubborn.id] == "2"
    assert sorted(words[3] for words in move.notes("new", "mail")) == ["30", "6"]
    assert [words[2] for words in move.notes("new", "told")] == [failing.id]
    assert results[linked.id] == "30"


def test_the_same_canvas_delivered_twice_is_one_canvas(move: Move, conn: psycopg.Connection[Any]) -> None:
    chain = celery.chain(move.sig("add", 1, 2), celery.group(move.sig("add", n) for n in range(3)), move.sig("total"))
    signature = move.sig("add", 1, 2, link=[move.sig("mail")])
    for _ in range(2):
        signature.apply_async(task_id="one")
    del chain

    move.bridge("--once")
    before = rows(conn, "SELECT id FROM pgtasks.message ORDER BY id")
    signature.apply_async(task_id="one")
    move.bridge("--once")

    assert len(before) == 2
    assert rows(conn, "SELECT id FROM pgtasks.message ORDER BY id") == before


def test_a_chord_under_way_is_left_to_an_old_worker_and_its_body_runs_in_the_new_world(
    move: Move, conn: psycopg.Connection[Any]
) -> None:
    chord = celery.chord([move.sig("add", n, n) for n in range(3)], move.sig("total")).apply_async()
    plain = move.sig("add", 1, 1).apply_async()

    said = move.bridge("--once")
    old = move.start("old", "worker", "-c", "1", "-Q", "pgtasks.chords", "-l", "INFO")

    def has_body() -> bool:
        move.bridge("--once")
        return bool(rows(conn, "SELECT FROM pgtasks.message WHERE id = %s", chord.id))

    eventually(has_body, "the body of the chord")
    stop(old)

    assert "Left to the old workers: 3" in said
    assert {words[2] for words in move.notes("old", "add")} == {member.id for member in chord.parent.results}
    ((payload,),) = rows(conn, "SELECT payload FROM pgtasks.message WHERE id = %s", chord.id)
    assert json.loads(payload)[0] == [[0, 2, 4]]
    assert rows(conn, "SELECT FROM pgtasks.message WHERE id = %s", plain.id)


def test_a_message_that_cannot_be_read_is_kept_and_blocks_no_other(
    move: Move, conn: psycopg.Connection[Any]
) -> None:
    with move.old.connection_for_write() as connection:
        producer = connection.Producer()
        for body, headers in (
            (b"\xff\xfe not json", {"task": "proj.add", "id": "1"}),
            (b'{"neither": "task"}', {}),
            (b"[[], {}, {}]", {"task": "proj.add", "id": "2", "eta": "tomorrow"}),
            (b"[[], {}]", {"task": "proj.add", "id": "3"}),
            (b"[[], {}, {}]", {"task": "nul\0", "id": "4"}),
        ):
            producer.publish(
                body, routing_key="celery", content_type="application/json", content_encoding="utf-8", headers=headers,
                declare=[move.old.amqp.queues["celery"]],
            )  # fmt: skip
    if isinstance(move.server, Redis):
        with move.old.connection_for_write() as connection:
            connection.default_channel.client.lpush("celery", b"\x00\xff{")
    move.sig("add", 1, 1).apply_async(serializer="pickle")
    good = move.sig("add", 2, 2).apply_async()

    said = move.bridge("--once")
    for_people = rows(conn, "SELECT reason FROM pgtasks.set_aside ORDER BY reason")
    taken = json.loads(move.run("bridge", "--again", "--accept", "json,pickle", "--json"))

    assert [str(row[0]) for row in rows(conn, "SELECT id FROM pgtasks.message LIMIT 1")] == [good.id]
    assert len(for_people) == 6 + isinstance(move.server, Redis)
    assert "Set aside" in said
    assert any("pickle" in row[0] for row in for_people)
    assert taken == {"taken": 1, "aside": len(for_people) - 1}


def test_a_dry_run_changes_nothing(move: Move, conn: psycopg.Connection[Any]) -> None:
    sent = [move.sig("add", n, n).apply_async().id for n in range(3)]
    move.sig("add", 1, 1).apply_async(serializer="pickle")

    said = json.loads(move.bridge("--dry-run", "--json"))

    assert said["waiting"]["celery"] == 4
    assert said["read"] == {"taken": 3, "aside": 1, "following": 0}
    assert list(said["reasons"].values()) == [1]
    assert rows(conn, "SELECT count(*) FROM pgtasks.message") == [(0,)]
    assert json.loads(move.bridge("--once", "--json"))["taken"] == 3
    assert [str(row[0]) for row in rows(conn, "SELECT id FROM pgtasks.ready ORDER BY rank, seq")] == sent


def test_results_of_what_was_taken_over_reach_the_old_callers(move: Move, conn: psycopg.Connection[Any]) -> None:
    waiting = move.sig("add", 20, 22).apply_async()
    failing = move.sig("fail").apply_async()
    bridge = move.start("new", "bridge", "--queues", "celery,mail", "--results", move.environ["OLD_RESULTS"])
    worker = move.start("new", "worker", "-c", "1", "-l", "INFO")

    value = waiting.get(timeout=60)
    with pytest.raises(ValueError, match="no"):
        failing.get(timeout=60)
    statuses = stop(worker, bridge)

    assert value == 42
    assert statuses == [0, 0]
    assert rows(conn, "SELECT count(*) FROM pgtasks.owed") == [(0,)]


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_what_old_workers_hold_is_theirs_until_they_give_it_back_or_are_declared_gone(
    move: Move, conn: psycopg.Connection[Any]
) -> None:
    held = move.sig("add", 1, 1).apply_async(countdown=3600).id
    worker = move.start("old", "worker", "-c", "1", "-l", "INFO", "-P", "solo")
    eventually(lambda: "received" in move.log("old-worker"), "the worker to hold the task")
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    waiting = move.sig("add", 2, 2).apply_async(countdown=3600).id

    kept = json.loads(move.bridge("--once", "--json"))
    reclaimed = json.loads(move.bridge("--once", "--reclaim", "--json"))

    assert (kept["taken"], kept["held"]) == (1, 1)
    assert (reclaimed["taken"], reclaimed["held"]) == (1, 0)
    assert {str(row[0]) for row in rows(conn, "SELECT id FROM pgtasks.scheduled")} == {held, waiting}


def test_the_way_back_takes_along_all_that_celery_can_run(move: Move, conn: psycopg.Connection[Any]) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    move.new.conf.database_url = move.environ["PGTASKS_DATABASE_URL"]
    plain = [move.new.signature("proj.add", args=(n, n)).apply_async().id for n in range(5)]
    held = move.new.signature("proj.mail", args=("x",)).apply_async(eta=later, headers={"tenant": "acme"})
    canvas = (move.new.signature("proj.add", args=(1, 1)) | move.new.signature("proj.mail")).apply_async()

    said = json.loads(move.bridge("--to", move.server.url, "--json"))
    left = rows(conn, "SELECT name, state FROM pgtasks.tasks ORDER BY name")
    worker = move.start("old", "worker", "-c", "1", "-l", "INFO", "-Q", "celery,mail")
    eventually(lambda: len(move.notes("old", "add")) == 5, "the old worker to run what came back")
    stop(worker)
    back = json.loads(move.bridge("--once", "--json"))

    assert said["moved"] == 6
    assert said["staying"] == {"part of a canvas": 1}
    assert left == [("proj.add", "READY"), ("proj.mail", "WAITING")]
    assert [words[2] for words in move.notes("old", "add")] == plain
    assert back["taken"] in (1, 2)  # the old worker may have had no time to acknowledge the last one
    ((due, raw),) = rows(
        conn, "SELECT s.due, m.options FROM pgtasks.scheduled s JOIN pgtasks.message m USING (id) WHERE id = %s", held.id
    )
    assert due == later
    assert json.loads(raw)["headers"] == {"tenant": "acme"}
    assert canvas.id


class Killed(BaseException):
    """The process ends here."""


def test_a_way_back_that_is_killed_at_any_point_loses_nothing(
    move: Move, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after everything that it asks of either side, and after the commit."""
    move.new.conf.database_url = move.environ["PGTASKS_DATABASE_URL"]
    points, left = 0, -1

    def pass_point() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Killed

    def surrounded(act: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            pass_point()
            said = act(*args, **kwargs)
            pass_point()
            return said

        return run

    monkeypatch.setattr(to_broker.OwnConnection, "run", surrounded(to_broker.OwnConnection.run))
    monkeypatch.setattr(to_broker.Producer, "publish", surrounded(to_broker.Producer.publish))
    while True:
        points += 1
        sent = {move.new.signature("proj.add", args=(n, n)).apply_async().id for n in range(2)}
        moving = ToBroker(move.new, move.new.database, move.server.url, ["celery"], tell=lambda moved: pass_point())
        is_over = False
        left = points
        try:
            moving.run()
            is_over = True
        except Killed:
            ToBroker(move.new, move.new.database, move.server.url, ["celery"]).run()

        assert rows(conn, "SELECT FROM pgtasks.message") == []
        with move.old.connection_for_read() as connection:
            queue = Queue("celery", channel=connection.default_channel)
            found = Counter[str]()
            while (message := queue.get(no_ack=True)) is not None:
                found[message.headers["id"]] += 1
        assert set(found) == sent
        assert max(found.values()) <= 2
        if is_over:
            break

    # Two turns, each of a statement and a report, and two messages.
    assert points == 2 * 3 + 2 * 2 + 1


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_a_way_back_lives_through_the_death_of_its_broker(move: Move, conn: psycopg.Connection[Any]) -> None:
    move.new.conf.database_url = move.environ["PGTASKS_DATABASE_URL"]
    sent = {move.new.signature("proj.add", args=(n, n)).apply_async().id for n in range(30)}
    told: list[int] = []

    def tell(moved: int) -> None:
        if not told:
            move.server.kill()
            move.server.start()
        told.append(moved)

    ToBroker(move.new, move.new.database, move.server.url, ["celery"], limit=10, tell=tell).run()

    assert told == [10, 20, 30, 30]
    with move.old.connection_for_read() as connection:
        queue = Queue("celery", channel=connection.default_channel)
        assert {message.headers["id"] for message in iter(lambda: queue.get(no_ack=True), None)} == sent


def test_a_way_back_to_a_broker_that_is_not_there_says_so_at_once(database_url: str) -> None:
    tried = CliRunner().invoke(cli, ["-b", database_url, "bridge", "--to", "redis://127.0.0.1:1/0"])

    assert tried.exit_code == 69
    assert "redis://127.0.0.1:1/0 does not answer" in tried.output


@pytest.mark.parametrize("module", [amqp, to_broker])
def test_how_long_a_broker_may_take_to_let_the_bridge_in_is_for_the_bridge_to_say(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"amqp://guest:guest@127.0.0.1:{silent.getsockname()[1]}//"

        with pytest.raises(OperationalError, match="timed out"):
            if module is amqp:
                AmqpSource(url, ["celery"])
            else:
                ToBroker(pgtasks.Celery(set_as_current=False), Mock(), url, ["celery"]).connect()


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_groups_stay_with_the_old_workers_where_their_result_store_counts_them(
    move: Move, conn: psycopg.Connection[Any]
) -> None:
    members = celery.group(move.sig("add", n, n) for n in range(3)).apply_async()
    plain = move.sig("add", 1, 1).apply_async()

    said = json.loads(move.bridge("--once", "--json", "--leave", "groups", "--leave-to", "left"))
    old = move.start("old", "worker", "-c", "1", "-Q", "left", "-l", "INFO")
    values = members.get(timeout=60)
    stop(old)

    assert (said["taken"], said["left"]) == (1, 3)
    assert values == [0, 2, 4]
    assert [str(row[0]) for row in rows(conn, "SELECT id FROM pgtasks.message")] == [plain.id]


def test_a_bridge_killed_again_and_again_loses_nothing_and_doubles_nothing(
    move: Move, conn: psycopg.Connection[Any]
) -> None:
    sent = [move.sig("add", n, n).apply_async().id for n in range(1500)]

    for kills in range(1, 7):
        bridge = move.start("new", "bridge", "--queues", "celery,mail", "--batch", "20")
        count = "SELECT count(*) FROM pgtasks.message"
        eventually(lambda: move.lives(bridge) and rows(conn, count)[0][0] >= min(150 * kills, 1500), "the bridge to take some")
        bridge.send_signal(signal.SIGKILL)
        bridge.wait()
    rest = json.loads(move.bridge("--until-empty", "--json"))

    found = [str(row[0]) for row in rows(conn, "SELECT id FROM pgtasks.ready ORDER BY rank, seq")]
    assert Counter(found) == Counter(sent)
    assert rest["aside"] == 0
    assert sum(rest["waiting"].values()) == 0


def test_a_broker_that_is_killed_meanwhile_loses_nothing(move: Move, conn: psycopg.Connection[Any]) -> None:
    sent = [move.sig("add", n, n).apply_async().id for n in range(1000)]
    bridge = move.start("new", "bridge", "--queues", "celery", "--batch", "20")
    count = "SELECT count(*) FROM pgtasks.message"
    eventually(lambda: move.lives(bridge) and rows(conn, count)[0][0] >= 100, "the bridge to take some")

    move.server.kill()
    move.server.start()
    eventually(lambda: rows(conn, count)[0][0] == 1000, "the bridge to take the rest")

    assert stop(bridge) == [0]
    assert {str(row[0]) for row in rows(conn, "SELECT id FROM pgtasks.ready")} == set(sent)


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_a_postgres_that_is_killed_meanwhile_loses_nothing_even_where_commits_do_not_wait_for_the_disk(
    move: Move, killable: Killable
) -> None:
    move.environ["PGTASKS_DATABASE_URL"] = killable.url
    sent = [move.sig("add", n, n).apply_async().id for n in range(600)]
    bridge = move.start("new", "bridge", "--queues", "celery", "--batch", "20")

    for part in (100, 300):
        eventually(lambda part=part: move.lives(bridge) and killable.count() >= part, "the bridge to take some")
        killable.kill()
        killable.server.start()
    eventually(lambda: killable.count() >= 600, "the bridge to take the rest")

    assert stop(bridge) == [0]
    with psycopg.connect(killable.url) as conn:
        assert [str(row[0]) for row in rows(conn, "SELECT id FROM pgtasks.ready ORDER BY rank, seq")] == sent


def test_connections_to_postgres_that_are_cut_lose_nothing(move: Move, conn: psycopg.Connection[Any]) -> None:
    sent = [move.sig("add", n, n).apply_async().id for n in range(1000)]
    bridge = move.start("new", "bridge", "--queues", "celery", "--batch", "20")
    count = "SELECT count(*) FROM pgtasks.message"

    for part in range(1, 9):
        eventually(lambda: move.lives(bridge) and rows(conn, count)[0][0] >= 100 * part, "the bridge to take some")
        rows(conn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgtasks'"
                   " AND datname = current_database()")  # fmt: skip
    eventually(lambda: rows(conn, count)[0][0] == 1000, "the bridge to take the rest")

    assert stop(bridge) == [0]
    assert [str(row[0]) for row in rows(conn, "SELECT id FROM pgtasks.ready ORDER BY rank, seq")] == sent


def test_moving_with_no_downtime_loses_and_doubles_nothing(move: Move, conn: psycopg.Connection[Any]) -> None:
    """The steps of docs/migration.md, under load."""
    sent: list[str] = []

    def call(count: int) -> None:
        for n in range(count):
            sent.append(move.sig("add", n, 1).apply_async().id)

    old = move.start("old", "worker", "-c", "1", "-Q", "celery,mail", "-l", "INFO")
    call(100)
    eventually(lambda: bool(move.notes("old", "add")), "the old workers to run something")
    # 1. New workers, with nothing to do yet. 2. The bridge; old workers go on. 3. Old workers stop.
    new = move.start("new", "worker", "-c", "1", "-Q", "celery,mail", "-l", "INFO")
    bridge = move.start("new", "bridge", "--queues", "celery,mail")
    call(100)
    eventually(lambda: bool(move.notes("new", "add")), "the new workers to get something from the bridge")
    assert stop(old) == [0]
    # 4. Producers move one by one; those that have not still reach the new workers.
    call(50)
    move.new.conf.database_url = move.environ["PGTASKS_DATABASE_URL"]
    sent += [move.new.signature("proj.add", args=(n, 1)).apply_async().id for n in range(50)]
    # 5. When no old producer is left, the bridge ends by itself.
    assert stop(bridge) == [0]
    last = json.loads(move.bridge("--until-empty", "--json"))
    eventually(lambda: len(move.notes()) >= 300, "all tasks to run")
    stop(new)

    ran = Counter(words[2] for words in move.notes())
    assert set(ran) == set(sent)
    assert max(ran.values()) == 1
    assert sum(last["waiting"].values()) == 0


