"""What health checks and monitors do with a broker connection works on the database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgtasks import Celery
from pgtasks.exceptions import OperationalError


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    with Celery("proj", set_as_current=False) as app:
        yield app


def test_a_health_check_connects_and_closes(app: Celery) -> None:
    with app.connection_for_read() as connection:
        assert connection.ensure_connection(max_retries=1) is connection
        assert connection.connected

    with app.connection_or_acquire() as connection, app.producer_or_acquire() as producer:
        assert connection.as_uri() == producer.as_uri()


def test_a_health_check_of_a_database_that_is_not_there_fails() -> None:
    app = Celery("proj", set_as_current=False)
    connection = app.connection_for_write("postgresql://nobody:secret@127.0.0.1:1/nowhere")
    connection._database.patience_s = 0

    assert not connection.connected
    assert "secret" not in connection.as_uri()
    assert "secret" not in repr(connection)
    with pytest.raises(connection.recoverable_connection_errors):
        connection.ensure_connection()
    with pytest.raises(OperationalError):
        connection.connect()


def test_the_length_of_a_queue_counts_what_waits_and_what_is_due_later(app: Celery) -> None:
    app.send_task("unknown", queue="depth")
    app.send_task("unknown", queue="depth", countdown=3600)
    app.send_task("unknown", queue="other")

    with app.connection() as connection:
        declared = connection.default_channel.queue_declare("depth", passive=True)
        empty = connection.default_channel.queue_declare("never used", passive=True)

    assert (declared.queue, declared.message_count, empty.message_count) == ("depth", 2, 0)


def test_purging_a_queue_leaves_the_others_alone(app: Celery) -> None:
    app.send_task("unknown", queue="depth")
    app.send_task("unknown", queue="other")

    with app.pool.acquire(block=True) as connection, connection.channel() as channel:
        assert channel.queue_purge("depth") == 1
        assert connection.length("depth") == 0
        assert connection.length("other") == 1


def test_a_connection_or_producer_handed_to_a_call_does_no_harm(app: Celery) -> None:
    with app.producer_or_acquire() as producer:
        result = app.send_task("unknown", producer=producer)

    assert result.state == "PENDING"


def test_a_message_that_is_made_by_hand_is_a_task(app: Celery) -> None:
    headers = {"lang": "py", "task": "unknown", "id": "by-hand"}

    with app.connection_for_write() as connection:
        connection.Producer(auto_declare=False).publish(
            ((1,), {}, {}), serializer="json", exchange="", routing_key="hands", headers=headers
        )

        assert connection.length("hands") == 1
    assert app.AsyncResult("by-hand").state == "PENDING"
