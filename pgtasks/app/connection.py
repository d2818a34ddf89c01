"""`app.connection()`: the database behind the interface of a kombu connection.

Health checks ask a broker connection whether it can connect, and monitoring asks it how long a queue is;
tasks are published with `connection=` or `producer=` handed through. All of that works here. What speaks of messages that
are no tasks, `publish` and the consumers of `bootsteps.ConsumerStep`, goes by kombu's own connection, `of_kombu`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit

from pgtasks.app.control import purge
from pgtasks.exceptions import OperationalError
from pgtasks.store import tasks
from pgtasks.store.database import Database
from pgtasks.utils.text import mask_url

__all__ = ("Channel", "Connection", "ConnectionPool", "Connections", "QueueLength")


class QueueLength(NamedTuple):
    """What AMQP says of a queue when it is declared."""

    queue: str
    message_count: int
    consumer_count: int


class Transport(NamedTuple):
    """What monitoring calls the kind of connection."""

    driver_type: str = "postgresql"
    driver_name: str = "psycopg"


class Connection:
    """A connection that is open whenever the database answers, and needs no closing."""

    connection_errors: tuple[type[Exception], ...] = (OperationalError,)
    recoverable_connection_errors = connection_errors
    channel_errors: tuple[type[Exception], ...] = ()
    transport = Transport()
    recoverable_channel_errors = channel_errors

    def __init__(self, app: Any, database: Database) -> None:
        self.app = app
        self._database = database
        self._kombu: Any = None

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Self:
        """Make sure that the database answers; raises `OperationalError` when it does not.

        The arguments of kombu's method, which say how often to try, are accepted: the database has its own
        patience.
        """
        self._database.ping()
        return self

    connect = ensure_connection

    @property
    def connected(self) -> bool:
        """Does the database answer right now?"""
        try:
            self._database.ping()
        except OperationalError:
            return False
        return True

    def of_kombu(self) -> Any:
        """A connection of kombu itself to the database, by the transport that is registered for it."""
        from kombu.connection import Connection as KombuConnection  # slow, and hardly ever needed

        return KombuConnection(f"pgtasks+{self._database.url}")

    def Producer(self, channel: Any = None, **options: Any) -> Any:
        """A producer of kombu's, for messages that are made by hand; of use until this is closed."""
        self._kombu = self._kombu or self.of_kombu()
        return self._kombu.Producer(**options)

    def publish(self, body: Any, **options: Any) -> None:
        """Send a message that is no task, as kombu's producers do."""
        with self.of_kombu() as connection:
            connection.Producer().publish(body, **options)

    def as_uri(self, include_password: bool = False, **kwargs: Any) -> str:
        url = self._database.url
        return url if include_password else mask_url(url)

    def info(self) -> dict[str, Any]:
        """Where the database is, in the words of a broker."""
        parts = urlsplit(self._database.url)
        return {
            "hostname": parts.hostname,
            "userid": parts.username,
            "virtual_host": parts.path.lstrip("/"),
            "port": parts.port,
            "transport": "postgresql",
        }

    @property
    def default_channel(self) -> Channel:
        return Channel(self)

    def channel(self) -> Channel:
        return Channel(self)

    def length(self, queue: str) -> int:
        """How many tasks wait in a queue, those with a countdown among them."""
        ((_, ready, scheduled),) = self._database.run(tasks.lengths([queue]))
        return int(ready + scheduled)

    def close(self) -> None:
        """Close what producers of kombu's use; the app's connections are shared, and closed with it."""
        if self._kombu is not None:
            self._kombu.release()
            self._kombu = None

    release = close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Connection: {self.as_uri()}>"


class Channel:
    """Declares and purges queues, which is to say, counts and empties them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def queue_declare(self, queue: str = "", passive: bool = False, **kwargs: Any) -> QueueLength:
        """Say how long a queue is; every queue exists."""
        return QueueLength(queue, self.connection.length(queue), 0)

    def queue_purge(self, queue: str, **kwargs: Any) -> int:
        """End all tasks that wait in a queue; returns how many there were."""
        return purge(self.connection.app, [queue])

    def close(self) -> None:
        """Nothing to do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class ConnectionPool:
    """Hands out connections, as many as are asked for."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.limit = app.conf.broker_pool_limit

    def acquire(self, block: bool = False, timeout: float | None = None) -> Connection:
        connection: Connection = self.app.connection_for_write()
        return connection

    def force_close_all(self) -> None:
        """Close the app's idle connections to the database."""
        self.app.database.close()


class Connections:
    """The methods by which an app gives out broker connections, and producers, which are the same here."""

    if TYPE_CHECKING:

        @property
        def database(self) -> Database: ...

    def connection_for_write(self, url: str | None = None, **kwargs: Any) -> Connection:
        """A connection to the app's database, or to the one of `url`."""
        return Connection(self, self.database if url is None else Database(url))

    connection_for_read = connection = broker_connection = connection_for_write

    @property
    def pool(self) -> ConnectionPool:
        return ConnectionPool(self)

    producer_pool = pool

    @contextmanager
    def connection_or_acquire(self, connection: Any = None, *_: Any, **__: Any) -> Iterator[Any]:
        """The given connection, or one of the app's."""
        yield connection or self.connection_for_write()

    @contextmanager
    def producer_or_acquire(self, producer: Any = None) -> Iterator[Any]:
        """The given producer, or a connection of the app's, which calls take for one."""
        yield producer or self.connection_for_write()

    default_connection = connection_or_acquire
    default_producer = producer_or_acquire
