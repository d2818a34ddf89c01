"""Django's connections in a worker: checked and closed around each task as Django does around each request.

    in the parent     nothing is left open by what modules did while they were imported
    after a fork      the child lets go of inherited connections without a word to the server
    around a task     a connection that broke or is older than CONN_MAX_AGE is closed; caches are closed after it

So CONN_MAX_AGE and CONN_HEALTH_CHECKS mean for a task what they mean for a request. A connection that is in a transaction
is left alone: that of a test, in which a task runs.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any

from asgiref.sync import sync_to_async
from django.core.cache import close_caches
from django.db import close_old_connections, connections

from pgtasks import signals

__all__ = ("DjangoWorkerFixup",)


class DjangoWorkerFixup:
    """Manages the connections of one app's worker."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._pid = os.getpid()

    def install(self) -> DjangoWorkerFixup:
        """Begin; what is open now is closed, before anything is forked."""
        self._pid = os.getpid()
        signals.task_prerun.connect(self.on_task_prerun)
        signals.task_postrun.connect(self.on_task_postrun)
        signals.worker_process_init.connect(self.on_worker_process_init)
        signals.beat_embedded_init.connect(self.close_database)
        self.close_database()
        close_caches()
        return self

    def on_worker_process_init(self, **kwargs: Any) -> None:
        """Let go of what the parent has open; the solo pool is the parent."""
        if os.getpid() == self._pid:
            return
        for connection in connections.all(initialized_only=True):
            _let_go(connection)

    def on_task_prerun(self, sender: Any = None, **kwargs: Any) -> None:
        if not _is_eager(sender):
            _in_threads_of_django(close_old_connections)

    def on_task_postrun(self, sender: Any = None, **kwargs: Any) -> None:
        if not _is_eager(sender):
            _in_threads_of_django(_close_old_connections_and_caches)

    def close_database(self, **kwargs: Any) -> None:
        """Close every connection of this thread, and the pools of connections, whose threads do not survive a fork."""
        for connection in connections.all(initialized_only=True):
            connection.close()
            if connection.alias in _pools(connection):
                connection.close_pool()


def _is_eager(task: Any) -> bool:
    return bool(getattr(getattr(task, "request", None), "is_eager", False))


def _close_old_connections_and_caches() -> None:
    close_old_connections()
    close_caches()


#: What is under way on event loops: a loop itself holds its tasks by weak references only.
_closing: set[asyncio.Task[None]] = set()


def _in_threads_of_django(close: Any) -> None:
    """Close where connections are: here, or, for a coroutine, in the thread where Django runs what is not asynchronous."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        close()
        return
    closing = loop.create_task(sync_to_async(close)())
    _closing.add(closing)
    closing.add_done_callback(_closing.discard)


def _let_go(connection: Any) -> None:
    """Forget an inherited connection: the socket is the parent's, so nothing may be written to it."""
    driver_connection, connection.connection = connection.connection, None
    if driver_connection is not None:
        with suppress(Exception):  # not every driver tells its descriptor
            # What closing it writes goes nowhere, and the number is not free for others before that.
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, driver_connection.fileno())
            os.close(nowhere)
        with suppress(Exception):
            driver_connection.close()
    # The threads of a pool of connections are not in this process.
    _pools(connection).pop(connection.alias, None)


def _pools(connection: Any) -> dict[str, Any]:
    """Django's pools of connections, by alias; there are some since Django 5.1, where OPTIONS ask for them."""
    pools: dict[str, Any] = getattr(type(connection), "_connection_pools", {})
    return pools
