"""From Postgres back to a broker of Celery, so that a move can be undone.

    BEGIN; take a batch out of the queues; publish it and have it confirmed; COMMIT

The transaction's locks keep workers from tasks that are on their way. A bridge that dies leaves all as it was, in its order
and with its times; what it had published is then sent again: a task is sent twice, never not at all.

Messages are of Celery's protocol 2, the body byte for byte what a producer made. Tasks of a canvas, workflows and what is
running stay, since only pgtasks can finish them. They are counted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Producer

from pgtasks.app.interchange import headers_of, reply_to_of
from pgtasks.exceptions import OperationalError
from pgtasks.moving.parcel import CONNECT_S, is_brokers
from pgtasks.serialization import JSON
from pgtasks.store import database, faults, moving
from pgtasks.store.database import Database, OwnConnection, backoff
from pgtasks.store.moving import Departing
from pgtasks.utils.log import get_logger
from pgtasks.utils.text import mask_url

__all__ = ("ToBroker",)

logger = get_logger("celery.bridge")

#: Redis knows priorities from 0, the most urgent, to 9.
_LAST_PRIORITY = 9


class ToBroker:
    """Moves what waits in some queues to a broker, until nothing is left that can be moved."""

    def __init__(
        self,
        app: Any,
        database: Database,
        url: str,
        queues: Sequence[str],
        *,
        limit: int = 200,
        options: dict[str, Any] | None = None,
        tell: Callable[[int], None] = lambda moved: None,
    ) -> None:
        self.database = database
        self.queues = list(queues)
        self.limit = limit
        self.moved = 0
        self.is_stopping = False
        self.name = mask_url(url)
        self._app = app
        self._url = url
        self._is_redis = url.startswith(("redis", "rediss", "sentinel"))
        self._options = {"confirm_publish": True, **(options or {})}
        self._tell = tell
        self._staying = sorted(name for name, task in app.tasks.items() if getattr(task, "remembers", False))
        self._connection: Any = None
        self._conn: OwnConnection | None = None

    def stop(self, *_: Any) -> None:
        """End after the batch that is under way."""
        self.is_stopping = True

    def run(self) -> int:
        """Move everything that can be moved; gives how many tasks that were."""
        attempt = 0
        try:
            while not self.is_stopping:
                try:
                    if not self._turn():
                        break
                    attempt = 0
                except Exception as error:
                    if isinstance(error, psycopg.Error) and not faults.is_passing(error):
                        raise faults.translate(error, self.database.url) from error
                    if not isinstance(error, (psycopg.Error, OperationalError, OSError)) and not is_brokers(error):
                        raise
                    logger.warning("Waiting, nothing is lost: %s: %s", type(error).__name__, error)
                    self._disconnect()
                    time.sleep(backoff(attempt + 2))
                    attempt += 1
        finally:
            self._disconnect()
        return self.moved

    def connect(self) -> None:
        """Connect to the broker, if that has not been done, and make the queues that it lacks."""
        if self._connection is None:
            self._connection = Connection(self._url, transport_options=self._options, connect_timeout=CONNECT_S)
            self._connection.ensure_connection(max_retries=1)
            self._producer = Producer(self._connection.default_channel)
            self._declare()

    def staying(self) -> dict[str, int]:
        """How many tasks cannot be moved, by the reason; `waiting` are those that can."""
        return self.database.run(moving.staying(self.queues, self._staying))

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        conn, self._conn = self._conn, None
        with suppress(Exception):
            if connection is not None:
                connection.release()
        if conn is not None:
            conn.close()

    def _turn(self) -> bool:
        if self._conn is None:
            self._conn = database.connect(self.database.url)
        with self._conn.transaction():
            found = self._conn.run(moving.depart(self.queues, self._staying, self.limit))
            self._publish(found)
        self.moved += len(found)
        self._tell(self.moved)
        return bool(found)

    def _publish(self, departing: Sequence[Departing]) -> None:
        self.connect()
        for each in departing:
            self._producer.publish(each.payload, **self._message(each))

    def _declare(self) -> None:
        """Make queues that are not there, as Celery would; one that is keeps its own arguments."""
        for name in self.queues:
            try:
                with self._connection.channel() as channel:
                    channel.queue_declare(name, passive=True)
            except self._connection.channel_errors:
                Queue(name, Exchange(name), routing_key=name)(self._connection.default_channel).declare()

    def _message(self, task: Departing) -> dict[str, Any]:
        """What `Producer.publish` takes for a task: Celery's headers and properties."""
        options: dict[str, Any] = json.loads(task.options) if task.options else {}
        content_encoding, _, compression = (task.content_encoding or "utf-8").partition(";")
        headers = headers_of(task, options)
        if compression:
            headers["compression"] = compression
        return {
            "exchange": "",
            "routing_key": task.queue,
            "serializer": None,
            "content_type": task.content_type or JSON,
            "content_encoding": content_encoding,
            "headers": headers,
            "priority": self._priority(task.priority),
            "correlation_id": task.public_id,
            "reply_to": reply_to_of(options) or "",
            "delivery_mode": 2,
            **(options.get("properties") or {}),
        }

    def _priority(self, priority: int) -> int:
        """Redis takes the lowest number first and the bridge made negative ones of them; RabbitMQ the highest."""
        return min(_LAST_PRIORITY, max(0, -priority)) if self._is_redis else min(255, max(0, priority))
