"""The parts of an app, each made when it is first asked for."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Generic, NoReturn, Self, TypeVar, overload
from uuid import NAMESPACE_OID, uuid3

from kombu.clocks import LamportClock

from pgtasks.app.annotations import prepare as prepare_annotations
from pgtasks.app.loader import BaseLoader, get_loader_cls
from pgtasks.app.pickling import subclass_with_app
from pgtasks.app.pipeline import LINGER_S, SIZE, Pipeline
from pgtasks.app.report import bugreport
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.store.database import AsyncDatabase, Database
from pgtasks.store.outbox import AsyncOutbox, Outbox
from pgtasks.store.url import database_url
from pgtasks.utils.dispatch import Signal
from pgtasks.utils.imports import instantiate, symbol_by_name
from pgtasks.utils.nodenames import anon_nodename, reply_address

__all__ = ("Parts",)

T = TypeVar("T")


#: Beyond this no clock is believed: one that counts a million a second gets there in 36,000 years.
_CLOCK_MOST = 1 << 60


class Clock(LamportClock):
    """Lamport's logical clock. It ignores a time so large that no clock can have reached it: 63 bits are stored."""

    def adjust(self, other: int) -> int:
        value: int = super().adjust(other if other < _CLOCK_MOST else 0)
        return value


class _part(Generic[T]):
    """A part that is made once and then an attribute like any other.

    Threads may ask for one at the same moment, and two databases are one too many: `functools.cached_property` takes no
    lock since Python 3.12.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self.make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, app: None, owner: type) -> Self: ...
    @overload
    def __get__(self, app: Parts, owner: type) -> T: ...

    def __get__(self, app: Parts | None, owner: type) -> Any:
        if app is None:
            return self
        with app._parts_lock:
            if self.name not in app.__dict__:
                app.__dict__[self.name] = self.make(app)
        return app.__dict__[self.name]


class Parts:
    """Makes what an app consists of. The `_cls` attributes are classes or their dotted names."""

    amqp_cls: Any = "pgtasks.app.amqp:AMQP"
    backend_cls: Any = "pgtasks.app.backend:Backend"
    control_cls: Any = "pgtasks.app.control:Control"
    events_cls: Any = "pgtasks.app.events:Events"
    loader_cls: Any = None
    log_cls: Any = "pgtasks.app.log:Logging"
    task_cls: Any = "pgtasks.app.task:Task"
    #: Put before the class of tasks in the bases of a workflow.
    workflow_cls: Any = "pgtasks.workflow.task:Workflow"
    transactional_cls: Any = "pgtasks.app.transactional:Transactional"

    #: What an integration knows: which database it is when nothing names one, and whose transaction a call is part of that
    #: names none.
    default_database: Callable[[], str | None] | None = None
    transaction_of_caller: Callable[[], Any] | None = None
    atransaction_of_caller: Callable[[], Awaitable[Any]] | None = None
    #: A wrapper for the body of each workflow step, set by monitoring.
    around_step: Callable[..., Callable[[], Any]] | None = None

    conf: Any
    on_after_fork: Signal

    def _init_parts(self, *, loader: Any, **classes: Any) -> None:
        """Note which classes to use in place of the class attributes."""
        # The --loader option of the command line arrives as an environment variable.
        self.loader_cls = loader or os.environ.get("CELERY_LOADER") or self.loader_cls or "app"
        for part, cls in classes.items():
            attribute = part if part == "task_cls" else f"{part}_cls"
            setattr(self, attribute, cls or getattr(self, attribute))
        self._parts_lock = threading.RLock()
        self._adatabases: dict[asyncio.AbstractEventLoop, AsyncDatabase] = {}
        self._aoutboxes: dict[asyncio.AbstractEventLoop, AsyncOutbox] = {}

    # -- the database

    @property
    def database_url(self) -> str:
        """Where the database is, as libpq understands it; finding out may start the private server."""
        conf = self.conf
        return database_url(conf.database_url or conf.broker_url, conf.result_backend, default=self.default_database)

    @_part
    def database(self) -> Database:
        """The way to the database; connections are made as they are needed."""
        return Database(self.database_url)

    @_part
    def outbox(self) -> Outbox:
        """Where calls go on their way to the database, so that concurrent ones share a commit."""
        return Outbox(self.database)

    @property
    def adatabase(self) -> AsyncDatabase:
        """The same for coroutines: one for each event loop."""
        loop = asyncio.get_running_loop()
        database = self._adatabases.get(loop)
        if database is None:
            self._forget_closed_loops()
            database = self._adatabases[loop] = AsyncDatabase(self.database_url)
        return database

    def _forget_closed_loops(self) -> None:
        """Close the connections of loops that have ended, such as those of earlier calls of `asyncio.run`."""
        for loop in [loop for loop in self._adatabases if loop.is_closed()]:
            self._aoutboxes.pop(loop, None)
            self._adatabases.pop(loop).abandon()

    @property
    def aoutbox(self) -> AsyncOutbox:
        """`outbox` for coroutines: one for each event loop."""
        loop = asyncio.get_running_loop()
        outbox = self._aoutboxes.get(loop)
        if outbox is None:
            outbox = self._aoutboxes[loop] = AsyncOutbox(self.adatabase)
        return outbox

    def pipeline(self, *, size: int = SIZE, linger_s: float = LINGER_S) -> Pipeline:
        """Gather the calls of a block, `with` or `async with`, and send them together.

        They go when the block ends, also by an exception; when there are `size` of them; when the first has waited
        for `linger_s` seconds; when a result is asked for in the block; and with `flush()` of what this returns. Until
        then they are in this process only. Calls that name a connection go at once, and so do large groups.
        """
        return Pipeline(self, size=size, linger_s=linger_s)

    def forget_database(self) -> None:
        """Close what is open, and look up the database's URL again when it is next needed."""
        self._close_parts()
        self.__dict__.pop("backend", None)
        self._adatabases.clear()
        self._aoutboxes.clear()

    def _close_parts(self) -> None:
        self.__dict__.pop("outbox", None)
        if "backend" in self.__dict__:
            self.backend.close()
        database = self.__dict__.pop("database", None)
        if database is not None:
            database.close()

    def _after_fork(self) -> None:
        """Tell listeners that this is a new process."""
        self.on_after_fork.send(sender=self)

    # -- parts by name

    @_part
    def amqp(self) -> Any:
        """Queues and routes."""
        return instantiate(self.amqp_cls, app=self)

    @_part
    def backend(self) -> Any:
        """Results."""
        return instantiate(self.backend_cls, app=self)

    @_part
    def control(self) -> Any:
        """Orders to workers and questions about them."""
        return instantiate(self.control_cls, app=self)

    @_part
    def clock(self) -> Clock:
        """A logical clock (Lamport's): letters to workers and their replies carry it."""
        return Clock()

    @_part
    def events(self) -> Any:
        """Monitoring events."""
        return instantiate(self.events_cls, app=self)

    @_part
    def loader(self) -> BaseLoader:
        """Where the configuration and the task modules come from."""
        loader: BaseLoader = get_loader_cls(self.loader_cls)(app=self)
        return loader

    @_part
    def log(self) -> Any:
        """Logging."""
        return instantiate(self.log_cls, app=self)

    def select_queues(self, queues: Any = None) -> None:
        """Consume these queues only."""
        self.amqp.queues.select(queues)

    @_part
    def annotations(self) -> Any:
        return prepare_annotations(self.conf.task_annotations)

    # -- classes that know the app

    def subclass_with_self(self, Class: Any, name: str | None = None, **kwargs: Any) -> Any:
        """Subclass a class so that its `app` attribute is this app; see `pgtasks.app.pickling`."""
        return subclass_with_app(self, Class, name, **kwargs)

    def create_task_cls(self) -> Any:
        return self.subclass_with_self(self.task_cls, name="Task", attribute="_app", keep_reduce=True, abstract=True)

    @_part
    def Task(self) -> Any:
        """The base class of this app's tasks; may be set."""
        return self.create_task_cls()

    @_part
    def AsyncResult(self) -> Any:
        return self.subclass_with_self("pgtasks.result:AsyncResult")

    @_part
    def ResultSet(self) -> Any:
        return self.subclass_with_self("pgtasks.result:ResultSet")

    @_part
    def GroupResult(self) -> Any:
        return self.subclass_with_self("pgtasks.result:GroupResult")

    @_part
    def Worker(self) -> Any:
        """A worker of this app, made of the options of the command `worker`; its `start` runs it. May be subclassed."""
        base = symbol_by_name("pgtasks.worker.supervisor:Worker")

        def __init__(worker: Any, app: Any = None, **options: Any) -> None:
            base.__init__(worker, app or worker.app, **options)

        return self.subclass_with_self(base, keep_reduce=True, __init__=__init__)

    @_part
    def Beat(self) -> Any:
        """The program that runs this app's scheduler, made of the options of the command `beat`. May be subclassed."""
        return self.subclass_with_self("pgtasks.beat.service:Beat", keep_reduce=True)

    @property
    def WorkController(self) -> Any:
        return self.Worker

    # -- identity

    @_part
    def oid(self) -> str:
        """An id of this app in this process."""
        return str(uuid3(NAMESPACE_OID, f"{socket.gethostname()}-{os.getpid()}-{id(self):x}"))

    @property
    def thread_oid(self) -> str | None:
        """What the tasks that this process calls see as `request.reply_to`."""
        return reply_address(anon_nodename())

    def setup_security(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: a project that signs its messages relies on it."""
        raise ImproperlyConfigured(
            "pgtasks does not sign messages: who may write to the database may send tasks, and that is for Postgres' roles"
            " and TLS to decide. Remove the call."
        )

    def bugreport(self) -> str:
        """What a maintainer wants to know first: versions, platform and settings, without secrets."""
        return bugreport(self)
