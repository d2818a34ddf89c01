"""The parts of an app, each made when it is first asked for."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import weakref
from functools import cached_property
from typing import Any
from uuid import NAMESPACE_OID, uuid3

from pgtasks.app.annotations import prepare as prepare_annotations
from pgtasks.app.loader import BaseLoader, get_loader_cls
from pgtasks.app.pickling import subclass_with_app
from pgtasks.app.report import bugreport
from pgtasks.store.database import AsyncDatabase, Database
from pgtasks.store.outbox import Outbox
from pgtasks.store.url import database_url
from pgtasks.utils.dispatch import Signal
from pgtasks.utils.imports import instantiate

__all__ = ("Parts",)


class Parts:
    """Makes what an app consists of. The `_cls` attributes are classes or their dotted names."""

    amqp_cls: Any = "pgtasks.app.amqp:AMQP"
    backend_cls: Any = "pgtasks.app.backend:Backend"
    control_cls: Any = "pgtasks.app.control:Control"
    events_cls: Any = "pgtasks.app.events:Events"
    loader_cls: Any = None
    log_cls: Any = "pgtasks.app.log:Logging"
    task_cls: Any = "pgtasks.app.task:Task"

    conf: Any
    on_after_fork: Signal

    def _init_parts(self, *, loader: Any, **classes: Any) -> None:
        """Note which classes to use in place of the class attributes."""
        # The --loader option of the command line arrives as an environment variable.
        self.loader_cls = loader or os.environ.get("CELERY_LOADER") or self.loader_cls or "app"
        for part, cls in classes.items():
            attribute = part if part == "task_cls" else f"{part}_cls"
            setattr(self, attribute, cls or getattr(self, attribute))
        self._local = threading.local()
        self._database: Database | None = None
        self._outbox: Outbox | None = None
        self._database_lock = threading.Lock()
        self._adatabases: weakref.WeakKeyDictionary[Any, AsyncDatabase] = weakref.WeakKeyDictionary()

    # -- the database

    @property
    def database_url(self) -> str:
        """Where the database is, as libpq understands it; finding out may start the private server."""
        conf = self.conf
        return database_url(conf.database_url or conf.broker_url, conf.result_backend)

    @property
    def database(self) -> Database:
        """The way to the database; connections are made as they are needed."""
        if self._database is None:
            with self._database_lock:
                self._opened_database()
        return self._database  # type: ignore[return-value]  # opened above

    def _opened_database(self) -> Database:
        if self._database is None:
            self._database = Database(self.database_url)
        return self._database

    @property
    def outbox(self) -> Outbox:
        """Where calls go on their way to the database, so that concurrent ones share a commit."""
        if self._outbox is None:
            with self._database_lock:
                if self._outbox is None:
                    self._outbox = Outbox(self._opened_database())
        return self._outbox

    @property
    def adatabase(self) -> AsyncDatabase:
        """The same for coroutines: one for each event loop."""
        loop = asyncio.get_running_loop()
        database = self._adatabases.get(loop)
        if database is None:
            database = self._adatabases[loop] = AsyncDatabase(self.database_url)
        return database

    def _close_parts(self) -> None:
        database, self._database, self._outbox = self._database, None, None
        if database is not None:
            database.close()

    def _after_fork(self) -> None:
        """Tell listeners that this is a new process."""
        self.on_after_fork.send(sender=self)

    # -- parts by name

    @cached_property
    def amqp(self) -> Any:
        """Queues and routes."""
        return instantiate(self.amqp_cls, app=self)

    @cached_property
    def backend(self) -> Any:
        """Results."""
        return instantiate(self.backend_cls, app=self)

    @cached_property
    def control(self) -> Any:
        """Orders to workers and questions about them."""
        return instantiate(self.control_cls, app=self)

    @cached_property
    def events(self) -> Any:
        """Monitoring events."""
        return instantiate(self.events_cls, app=self)

    @cached_property
    def loader(self) -> BaseLoader:
        """Where the configuration and the task modules come from."""
        loader: BaseLoader = get_loader_cls(self.loader_cls)(app=self)
        return loader

    @cached_property
    def log(self) -> Any:
        """Logging."""
        return instantiate(self.log_cls, app=self)

    def select_queues(self, queues: Any = None) -> None:
        """Consume these queues only."""
        self.amqp.queues.select(queues)

    @cached_property
    def annotations(self) -> Any:
        return prepare_annotations(self.conf.task_annotations)

    # -- classes that know the app

    def subclass_with_self(self, Class: Any, name: str | None = None, **kwargs: Any) -> Any:
        """Subclass a class so that its `app` attribute is this app; see `pgtasks.app.pickling`."""
        return subclass_with_app(self, Class, name, **kwargs)

    def create_task_cls(self) -> Any:
        return self.subclass_with_self(
            self.task_cls, name="Task", attribute="_app", keep_reduce=True, abstract=True
        )

    @cached_property
    def Task(self) -> Any:
        """The base class of this app's tasks; may be set."""
        return self.create_task_cls()

    @cached_property
    def AsyncResult(self) -> Any:
        return self.subclass_with_self("pgtasks.result:AsyncResult")

    @cached_property
    def ResultSet(self) -> Any:
        return self.subclass_with_self("pgtasks.result:ResultSet")

    @cached_property
    def GroupResult(self) -> Any:
        return self.subclass_with_self("pgtasks.result:GroupResult")

    @cached_property
    def Worker(self) -> Any:
        return self.subclass_with_self("pgtasks.apps.worker:Worker")

    @cached_property
    def WorkController(self) -> Any:
        return self.subclass_with_self("pgtasks.worker:WorkController")

    @cached_property
    def Beat(self) -> Any:
        return self.subclass_with_self("pgtasks.apps.beat:Beat")

    # -- identity

    @cached_property
    def oid(self) -> str:
        """An id of this app in this process."""
        return _object_id(self)

    @property
    def thread_oid(self) -> str:
        """An id of this app in this thread."""
        try:
            oid: str = self._local.oid
        except AttributeError:
            oid = self._local.oid = _object_id(self, threading.get_ident())
        return oid

    def bugreport(self) -> str:
        """What a maintainer wants to know first: versions, platform and settings, without secrets."""
        return bugreport(self)


def _object_id(app: Any, thread: int = 0) -> str:
    return str(uuid3(NAMESPACE_OID, f"{socket.gethostname()}-{os.getpid()}-{thread}-{id(app):x}"))
