"""What makes a Django app of an app: settings, task modules, transactions, connections.

    made        the app's tasks are `DjangoTask`s; the database is that of DATABASES when nothing else names one
    called      a call within `atomic()` is written through Django's own connection, when that leads to the same database
    imports     a worker or beat calls django.setup() and the system checks before it imports task modules
    runs tasks  connections are looked after around each task, as Django does around a request
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Self

import django
from asgiref.sync import sync_to_async
from django.apps import apps
from django.core.checks import run_checks
from django.db import connections
from django.db.backends.signals import connection_created
from django.utils import timezone

from pgtasks import _state, signals
from pgtasks.contrib.django.connections import DjangoWorkerFixup
from pgtasks.contrib.django.place import NO_DATABASE, Places, url_of
from pgtasks.local import Proxy

__all__ = ("DjangoFixup",)

TASK_CLASS = "pgtasks.contrib.django.task:DjangoTask"


class DjangoFixup:
    """The integration of one app."""

    def __init__(self, app: Any) -> None:
        self.app = app
        #: What `default_database` has said.
        self._followed: str | None = None
        if _state.default_app is None:
            app.set_default()

    def install(self) -> Self:
        """Hook into the app; nothing of the project is imported or configured yet."""
        # The project's directory comes first, as for manage.py.
        sys.path.insert(0, os.getcwd())
        app = self.app
        app.loader.now = self.now
        if not app._custom_task_cls_used:
            app.task_cls = TASK_CLASS
        app.default_database = self.default_database
        app.transaction_of_caller = self.transaction_of_caller
        app.atransaction_of_caller = self.atransaction_of_caller
        signals.import_modules.connect(self.on_import_modules, sender=app)
        signals.worker_init.connect(self.on_worker_init)
        connection_created.connect(self.on_connection_created)
        return self

    def now(self, utc: bool = False) -> datetime:
        return datetime.now(UTC) if utc else timezone.now()

    # -- task modules

    def on_import_modules(self, **kwargs: Any) -> None:
        """Set Django up, and have it check the project, before task modules are imported."""
        django.setup()
        # The option --skip-checks arrives here as well.
        if not os.environ.get("CELERY_SKIP_CHECKS"):
            run_checks()

    def autodiscover_tasks(self) -> list[str]:
        """The packages that are looked into for task modules: the installed apps."""
        return [config.name for config in apps.get_app_configs()]

    # -- workers

    @cached_property
    def worker_fixup(self) -> DjangoWorkerFixup:
        return DjangoWorkerFixup(self.app)

    def on_worker_init(self, sender: Any = None, **kwargs: Any) -> None:
        """Look after connections in the worker, if it is this app's."""
        app = getattr(sender, "app", None)
        if isinstance(app, Proxy):
            app = app._get_current_object()
        if app is None or app is self.app:
            self.worker_fixup.install()

    # -- the database

    @property
    def alias(self) -> str:
        """Which of DATABASES the tasks are in, if they are in any: the one that task_join_transaction names, or default."""
        joins = self.app.conf.task_join_transaction
        return joins if isinstance(joins, str) else "default"

    def default_database(self) -> str | None:
        """The database of the project, when that is Postgres."""
        self._followed = url_of(connections[self.alias]) if self.alias in connections else None
        return self._followed

    @cached_property
    def places(self) -> Places:
        return Places(self.app)

    def transaction_of_caller(self) -> Any:
        """Django's connection, if the caller is in a transaction on it and it leads to the database of the tasks."""
        for connection in connections.all(initialized_only=True):
            if _is_in_transaction(connection) and self._takes_calls(connection):
                return connection
        return None

    async def atransaction_of_caller(self) -> Any:
        """As `transaction_of_caller`, for a coroutine: in the thread where Django runs what is not asynchronous for it."""
        if not self.app.conf.task_join_transaction:
            return None
        return await sync_to_async(self.transaction_of_caller)()

    def _takes_calls(self, connection: Any) -> bool:
        joins = self.app.conf.task_join_transaction
        return (joins is True or joins == connection.alias) and self.places.is_ours(connection)

    def on_connection_created(self, connection: Any, **kwargs: Any) -> None:
        """Follow Django to its test database, and let go of that before it is dropped.

        Test runners change the name in the settings of a connection, and connect to no database at all to create and
        drop one.
        """
        made = self.app.__dict__.get("database")
        if made is None or made.url != self._followed:
            return
        if connection.alias == NO_DATABASE or (connection.alias == self.alias and url_of(connection) != made.url):
            self.app.forget_database()


def _is_in_transaction(connection: Any) -> bool:
    return bool(connection.in_atomic_block or (connection.connection is not None and not connection.autocommit))
