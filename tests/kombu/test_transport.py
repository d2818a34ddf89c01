"""The transport as kombu's classes use it: routing, mailboxes, acknowledgements, what should not come."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from celery import Celery
from celery.exceptions import TimeoutError as GaveUp
from celery.exceptions import WorkerLostError
from kombu import Connection, Consumer, Exchange, Producer, Queue

import pgtasks
from pgtasks.execution import Site, execute
from pgtasks.kombu import letters, link
from pgtasks.message import id_of
from pgtasks.store import events, fleet, mail, tasks
from pgtasks.store import letters as store_letters
from pgtasks.store.database import Database
from tests.kombu.conftest import rows


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with Connection(f"pgtasks+{database_url}") as connection:
        yield connection


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def mailbox(name: str, exchange: Exchange, routing_key: str = "", **options: Any) -> Queue:
    return Queue(name, exchange, routing_key, auto_delete=True, durable=False, **options)


def received(connection: Connection, *queues: Queue, count: int = 1, no_ack: bool = True) -> list[Any]:
    """The messages that come to some queues."""
    messages: list[Any] = []
    with Consumer(connection, list(queues), no_ack=no_ack, on_message=messages.append, accept=None):
        while len(messages) < count:
            connection.drain_events(timeout=60)
    return messages


def publish(
    connection: Connection, body: Any, exchange: Exchange | str, routing_key: str = "", **kwargs: Any
) -> None:
    Producer(connection).publish(body, exchange=exchange, routing_key=routing_key, **kwargs)


# -- mailboxes


@pytest.mark.parametrize(
    ("kind", "bound", "fits", "misses"),
    [
        ("direct", "a.b", ["a.b"], ["a", "a.b.c", "x"]),
        ("topic", "worker.#", ["worker.online", "worker", "worker.a.b"], ["task.sent", "workers.x"]),
        ("topic", "*.sent", ["task.sent"], ["sent", "a.b.sent"]),
        ("topic", "#", ["a", "a.b"], []),
        ("topic", "a+(b).#", ["a+(b).c"], ["aab.c"]),
        ("fanout", "", ["", "anything"], []),
    ],
)
def test_an_exchange_sends_to_the_queues_whose_binding_fits(
    connection: Connection, kind: str, bound: str, fits: list[str], misses: list[str]
) -> None:
    exchange = Exchange("e", kind)
    queue = mailbox("box", exchange, bound)(connection.default_channel)
    queue.declare()

    for key in [*misses, *fits]:
        publish(connection, {"key": key}, exchange, key)

    found = received(connection, queue, count=len(fits))
    assert [message.payload["key"] for message in found] == fits
    assert [message.delivery_info["routing_key"] for message in found] == fits


def test_a_message_is_what_was_sent_with_its_headers_and_properties(connection: Connection) -> None:
    queue = mailbox("box", Exchange("e"), "k")(connection.default_channel)
    queue.declare()

    publish(
        connection, b"\x00\xff\x80", "", "box", headers={"ä": ["\ud800", 1]}, correlation_id="c", reply_to="r",
        content_type="application/data", content_encoding="binary",
    )  # fmt: skip

    (message,) = received(connection, queue)
    assert message.body == b"\x00\xff\x80"
    assert message.headers == {"ä": ["\ud800", 1]}
    assert (message.properties["correlation_id"], message.properties["reply_to"]) == ("c", "r")


def test_a_mailbox_that_nobody_reads_gets_no_more_and_is_thrown_away_with_all_that_is_in_it(
    connection: Connection, conn: psycopg.Connection[Any], database: Database
) -> None:
    exchange = Exchange("celeryev", "topic")
    mailbox("celeryev.flower", exchange, "#", expires=60)(connection.default_channel).declare()
    mailbox("other", Exchange("f", "fanout"), expires=60)(connection.default_channel).declare()
    publish(connection, {"type": "worker-online"}, exchange, "worker.online")
    publish(connection, {"n": 1}, Exchange("f", "fanout"))
    assert (rows(conn, "event"), rows(conn, "mail"), rows(conn, "listener")) == (1, 1, 1)

    conn.execute("UPDATE pgtasks.mailbox SET seen_at = seen_at - interval '61 seconds'")
    publish(connection, {"n": 2}, Exchange("f", "fanout"))
    assert rows(conn, "mail") == 1
    database.run(mail.sweep())
    database.run(events.sweep())

    assert [rows(conn, table) for table in ("mailbox", "mail", "listener", "event")] == [0, 0, 0, 0]
    assert not conn.execute("SELECT FROM pgtasks.binding WHERE is_mailbox").fetchall()


def test_a_full_mailbox_gets_no_more_so_that_nobody_fills_the_disk(
    connection: Connection, conn: psycopg.Connection[Any]
) -> None:
    mailbox("box", Exchange("f", "fanout"))(connection.default_channel).declare()
    conn.execute(
        "INSERT INTO pgtasks.mail (mailbox, properties, body) SELECT 'box', '{}', '' FROM generate_series(1, 10001)"
    )

    publish(connection, {}, Exchange("f", "fanout"))

    assert rows(conn, "mail") == 10_001


def test_a_message_that_has_expired_is_not_delivered(
    connection: Connection, conn: psycopg.Connection[Any]
) -> None:
    queue = mailbox("box", Exchange("f", "fanout"), message_ttl=5)(connection.default_channel)
    queue.declare()
    publish(connection, {"n": 1}, Exchange("f", "fanout"))
    conn.execute("UPDATE pgtasks.mail SET expires_at = expires_at - interval '6 seconds'")
    publish(connection, {"n": 2}, Exchange("f", "fanout"))

    assert [message.payload for message in received(connection, queue)] == [{"n": 2}]


def test_a_mailbox_that_the_database_has_lost_is_declared_anew(
    connection: Connection, conn: psycopg.Connection[Any]
) -> None:
    exchange = Exchange("f", "fanout")
    queue = mailbox("box", exchange)(connection.default_channel)
    messages: list[Any] = []
    with Consumer(connection, [queue], no_ack=True, on_message=messages.append):
        # Unlogged tables are empty after a crash.
        conn.execute("TRUNCATE pgtasks.mailbox, pgtasks.mail")
        while not rows(conn, "mailbox"):
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.1)
        publish(connection, {"n": 1}, exchange)
        connection.drain_events(timeout=60)

    assert messages[0].payload == {"n": 1}


def test_messages_come_without_notifications_too(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any) -> None:
        raise psycopg.NotSupportedError("a pooler")

    monkeypatch.setattr(link, "Doorbell", refused)
    queue = mailbox("box", Exchange("f", "fanout"))(connection.default_channel)
    messages: list[Any] = []
    with Consumer(connection, [queue], no_ack=True, on_message=messages.append):
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        publish(connection, {"n": 1}, Exchange("f", "fanout"))
        connection.drain_events(timeout=60)

    assert messages[0].payload == {"n": 1}


# -- tasks


def test_a_task_that_is_broadcast_reaches_every_consumer(connection: Connection, theirs: Celery) -> None:
    exchange = Exchange("all", "fanout")
    queues = [mailbox(f"all.{n}", exchange)(connection.default_channel) for n in range(2)]
    for queue in queues:
        queue.declare()

    theirs.send_task("mixed.add", (1, 1), queue=queues[0], task_id="once")

    assert [message.headers["id"] for message in received(connection, *queues, count=2)] == ["once", "once"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\x80\x04\x95random", "application/data"),
        (b"\x00" * 10, "application/json"),
        (b'{"no": "task"}', "application/json"),
        (b"[1, 2, 3]", "application/json"),
        (b"", "application/json"),
    ],
)
def test_bytes_that_are_no_task_fail_with_a_word_on_why_and_are_not_lost(
    connection: Connection,
    theirs: Celery,
    conn: psycopg.Connection[Any],
    database_url: str,
    body: bytes,
    kind: str,
) -> None:
    queue = Queue("celery", Exchange("celery"), "celery")(connection.default_channel)
    queue.declare()
    publish(connection, body, queue.exchange, "celery", content_type=kind, content_encoding="binary")
    app = pgtasks.Celery("ours", broker=database_url, set_as_current=False)
    worker = uuid4()
    app.database.run(
        fleet.enlist(
            worker,
            lease_s=60,
            hostname="w@m",
            machine="m",
            pid=1,
            pool="solo",
            concurrency=1,
            queues=[],
            version="0",
        )
    )
    (claim,) = app.database.run(tasks.claim(worker, [tasks.Lane("celery")], 5, max_deliveries=3))

    outcome = execute(Site(app, worker, "w@m"), claim)

    assert outcome.state == "FAILURE"
    assert claim.name == "celery.unknown_message"
    assert claim.payload == body


def test_bytes_that_are_no_task_are_what_they_were_to_a_program_of_celery(connection: Connection) -> None:
    queue = Queue("celery", Exchange("celery"), "celery")(connection.default_channel)
    queue.declare()

    publish(
        connection, b"\xff\x00", queue.exchange, "celery", content_type="application/data", content_encoding="binary",
        headers={"x": 1}, correlation_id="c",
    )  # fmt: skip

    (message,) = received(connection, queue)
    assert (message.body, message.content_type, message.content_encoding) == (
        b"\xff\x00",
        "application/data",
        "binary",
    )
    assert message.headers == {"x": 1}


def test_a_message_of_the_old_protocol_is_a_task(theirs: Celery, conn: psycopg.Connection[Any]) -> None:
    theirs.conf.task_protocol = 1

    theirs.send_task("mixed.add", (1, 2), {"k": 3}, task_id="old", countdown=60)

    name, due, payload = conn.execute("SELECT name, due, payload FROM pgtasks.message").fetchone() or ()
    assert name == "mixed.add"
    assert due is not None
    assert json.loads(payload)[:2] == [[1, 2], {"k": 3}]


@pytest.mark.parametrize("protocol", [1, 2])
def test_a_task_for_a_queue_that_the_database_has_lost_is_kept(
    theirs: Celery, conn: psycopg.Connection[Any], protocol: int
) -> None:
    theirs.conf.task_protocol = protocol
    theirs.send_task("mixed.add", (1, 2))
    conn.execute("DELETE FROM pgtasks.binding")

    theirs.send_task("mixed.add", (3, 4))

    assert rows(conn, "message") == 2


def test_a_task_sent_twice_under_one_id_is_there_once(theirs: Celery, conn: psycopg.Connection[Any]) -> None:
    for x in (1, 2):
        theirs.send_task("mixed.add", (x, x), task_id="same")

    assert (rows(conn, "message"), rows(conn, "ready")) == (1, 1)


@pytest.mark.parametrize("is_acknowledged", [False, True])
def test_a_retry_takes_the_place_of_its_attempt_once_however_often_it_is_sent(
    connection: Connection, theirs: Celery, conn: psycopg.Connection[Any], is_acknowledged: bool
) -> None:
    theirs.send_task("mixed.add", (1, 1), task_id="again")
    queue = theirs.amqp.queues["celery"](connection.default_channel)
    (message,) = received(connection, queue, no_ack=False)
    if is_acknowledged:
        message.ack()

    for _ in range(2):
        theirs.send_task("mixed.add", (2, 2), task_id="again", retries=1)
    if not is_acknowledged:
        message.ack()

    assert (rows(conn, "ready"), rows(conn, "claim"), rows(conn, "away")) == (1, 0, 0)
    (later,) = received(connection, queue, no_ack=False)
    assert (later.headers["retries"], later.payload[0]) == (1, [2, 2])


def test_what_a_channel_has_not_acknowledged_goes_back_when_it_closes(
    theirs: Celery, database_url: str, conn: psycopg.Connection[Any]
) -> None:
    theirs.send_task("mixed.add", (1, 1), task_id="one")
    with Connection(f"pgtasks+{database_url}") as connection:
        received(connection, theirs.amqp.queues["celery"](connection.default_channel), no_ack=False)
        assert (rows(conn, "ready"), rows(conn, "claim")) == (0, 1)

    assert (rows(conn, "ready"), rows(conn, "claim"), rows(conn, "worker")) == (1, 0, 0)


@pytest.mark.parametrize(("how", "ready", "away"), [("requeue", 1, 0), ("reject", 0, 1)])
def test_a_rejected_task_goes_back_or_away(
    connection: Connection, theirs: Celery, conn: psycopg.Connection[Any], how: str, ready: int, away: int
) -> None:
    theirs.send_task("mixed.add", (1, 1), task_id="one")
    (message,) = received(connection, theirs.amqp.queues["celery"](connection.default_channel), no_ack=False)

    getattr(message, how)()

    assert (rows(conn, "ready"), rows(conn, "claim"), rows(conn, "away")) == (ready, 0, away)


def test_a_consumer_gets_no_more_than_its_prefetch_count(
    connection: Connection, theirs: Celery, conn: psycopg.Connection[Any]
) -> None:
    for _ in range(5):
        theirs.send_task("mixed.add", (1, 1))
    channel = connection.default_channel
    channel.basic_qos(0, 2, False)
    messages: list[Any] = []
    with Consumer(channel, [theirs.amqp.queues["celery"]], on_message=messages.append):
        for _ in range(2):
            connection.drain_events(timeout=60)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        assert (len(messages), rows(conn, "claim")) == (2, 2)
        messages[0].ack()
        connection.drain_events(timeout=60)

    assert len(messages) == 3


def test_a_program_that_lost_its_lease_registers_anew_and_its_late_acknowledgement_takes_nothing_from_others(
    connection: Connection, theirs: Celery, conn: psycopg.Connection[Any], database: Database
) -> None:
    theirs.send_task("mixed.add", (1, 1), task_id="one")
    queue = theirs.amqp.queues["celery"](connection.default_channel)
    (late,) = received(connection, queue, no_ack=False)
    conn.execute("UPDATE pgtasks.worker SET heartbeat_at = heartbeat_at - interval '1 minute'")
    assert database.run(fleet.reap()).returned == 1

    (again,) = received(connection, queue, no_ack=False)
    late.ack()

    assert again.headers["id"] == "one"
    assert again.delivery_info["redelivered"]
    assert (rows(conn, "claim"), rows(conn, "away"), rows(conn, "worker")) == (1, 0, 1)


def test_a_task_that_was_lost_too_often_fails_instead_of_being_delivered(
    theirs: Celery, database_url: str, conn: psycopg.Connection[Any]
) -> None:
    theirs.send_task("mixed.add", (1, 1), task_id="poison")
    conn.execute("UPDATE pgtasks.ready SET losses = 2")
    with Connection(f"pgtasks+{database_url}", transport_options={"max_deliveries": 2}) as connection:
        with Consumer(connection, [theirs.amqp.queues["celery"]], on_message=lambda message: None):
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.5)

    with pytest.raises(WorkerLostError):
        theirs.AsyncResult("poison").get(timeout=60)


def test_a_purge_of_celery_ends_what_waits(theirs: Celery, conn: psycopg.Connection[Any]) -> None:
    for _ in range(3):
        theirs.send_task("mixed.add", (1, 1))

    assert theirs.control.purge() == 3

    assert (rows(conn, "ready"), rows(conn, "result")) == (0, 3)


# -- results


def test_a_result_can_be_waited_for_forgotten_and_grouped(theirs: Celery) -> None:
    backend = theirs.backend
    for task_id, value in (("a", 1), ("b", [2])):
        backend.store_result(task_id, value, "SUCCESS")
    backend.store_result("c", KeyError("k"), "FAILURE", traceback="tb")
    group = theirs.GroupResult("g", [theirs.AsyncResult("a"), theirs.AsyncResult("b")])
    group.save()

    assert theirs.GroupResult.restore("g").get(timeout=60) == [1, [2]]
    with pytest.raises(KeyError):
        theirs.AsyncResult("c").get(timeout=60)
    assert theirs.AsyncResult("c").traceback == "tb"
    theirs.AsyncResult("a").forget()
    assert theirs.AsyncResult("a").state == "PENDING"
    with pytest.raises(GaveUp):
        theirs.AsyncResult("nobody").get(timeout=0.1)


def test_the_first_end_of_a_task_stays(theirs: Celery) -> None:
    theirs.backend.store_result("a", 1, "SUCCESS")
    theirs.backend.store_result("a", 2, "SUCCESS")

    assert theirs.AsyncResult("a").get(timeout=60) == 1


# -- letters


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"arguments": {}}',
        b'{"method": 1}',
        b'{"method": "ping", "arguments": 3}',
    ],
)
def test_a_letter_that_cannot_be_read_is_logged_and_reaches_nobody(
    connection: Connection, conn: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    conn.execute(
        "INSERT INTO pgtasks.worker (id, lease, pid, concurrency, hostname, machine, pool, version, queues)"
        " VALUES (gen_random_uuid(), '1 minute', 1, 1, 'w@h', 'h', 'solo', '0', '{}')"
    )
    with caplog.at_level(logging.WARNING, "pgtasks.kombu"):
        publish(
            connection, body, Exchange("celery.pidbox", "fanout"), content_type="application/json",
            content_encoding="utf-8",
        )  # fmt: skip

    assert "cannot be read" in caplog.text
    assert rows(conn, "letter") == 0


def test_a_huge_letter_is_refused_with_its_size(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "LONGEST_LETTER", 1000)

    with pytest.raises(ValueError, match="2... bytes: 1000 fit"):
        publish(
            connection,
            {"method": "ping", "arguments": {"x": "y" * 2000}},
            Exchange("celery.pidbox", "fanout"),
        )


def test_a_reply_after_the_timeout_is_thrown_away(
    theirs: Celery, database: Database, conn: psycopg.Connection[Any]
) -> None:
    worker = uuid4()
    database.run(
        fleet.enlist(
            worker,
            lease_s=60,
            hostname="w@h",
            machine="h",
            pid=1,
            pool="solo",
            concurrency=1,
            queues=[],
            version="0",
        )
    )
    began_at = time.monotonic()
    assert theirs.control.ping(timeout=0.2) == []
    assert time.monotonic() - began_at < 30
    # A letter whose caller waits no longer is void by now; this one was taken just in time.
    conn.execute("UPDATE pgtasks.letter SET expires_at = NULL")
    (letter,) = database.run(store_letters.take(worker))
    assert letter.reply_mailbox is not None

    database.run(mail.reply(letter.reply_mailbox, b'{"headers": {}, "properties": {}}', b"{}"))

    assert (rows(conn, "mail"), rows(conn, "mailbox")) == (0, 0)
    assert id_of(letter.reply_ticket or "")
