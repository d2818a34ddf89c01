"""Tasks whose completion is committed with their own writes: exactly once.

    with the task's transaction:
        body            writes through self.connection
        commit_within   the task's result, what it releases, and the end of its claim: the fence
    COMMIT              all of it or nothing

A worker that has lost the task finds its claim gone, and all that the body wrote is rolled back. When the answer to COMMIT is
lost on the way, the result says whether it was; it is not done twice. `transactional=True` opens a psycopg connection to the
database of pgtasks; a Django alias, or a SQLAlchemy engine or sessionmaker on psycopg, name one to that same database. A
coroutine function gets an asynchronous connection, or those of an asynchronous engine or sessionmaker.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import psycopg

from pgtasks import _state
from pgtasks.app.task import Task
from pgtasks.exceptions import ImproperlyConfigured, RunLost
from pgtasks.store import faults

__all__ = ("Transactional", "ambient", "atransaction", "is_connection_lost", "transaction")

#: The connection of the transaction under way here, for tasks that are called in it.
ambient: ContextVar[Any] = ContextVar("pgtasks.transaction", default=None)


class Transactional(Task[Any, Any]):
    """Base class of tasks with `transactional=`."""

    abstract = True
    #: Which transaction to use: True for a psycopg one, a Django alias, or a SQLAlchemy engine or sessionmaker.
    transactional: Any = True

    @classmethod
    def on_bound(cls, app: Any) -> None:
        super().on_bound(app)
        if cls.remembers:
            raise ImproperlyConfigured(
                f"Workflow {cls.name} cannot be transactional: it lasts longer than a transaction may. Make its steps so."
            )

    @property
    def connection(self) -> Any:
        """The connection, or session, whose transaction is committed with the task."""
        connection = ambient.get()
        if connection is None:
            raise RuntimeError(f"Task {self.name} is not running: it has a connection only while it does.")
        return connection

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body in its transaction, or in that of the step that it is."""
        run = _state.current_run.get()
        if run is not None:
            return run.call(self, args, kwargs)
        if ambient.get() is not None:
            return super().__call__(*args, **kwargs)
        if self.is_coroutine:
            return self._acommitted(args, kwargs)
        request = self.request_stack.top
        commit = _taken(request)
        is_settled = False
        try:
            with transaction(self.transactional, self.app) as connection:
                value = super().__call__(*args, **kwargs)
                if commit is not None:
                    if not commit(self, request, value, connection):
                        raise RunLost(f"Task {self.name} is not held by this worker any more")
                    is_settled = True
        except Exception as error:
            if not is_settled or request is None or not request.was_committed(error):
                raise
        return value

    async def _acommitted(self, args: Any, kwargs: Any) -> Any:
        """`__call__`, for coroutine functions."""
        request = self.request_stack.top
        commit = _taken(request)
        is_settled = False
        try:
            async with atransaction(self.transactional, self.app) as connection:
                value = await super().__call__(*args, **kwargs)
                if commit is not None:
                    if not await commit(self, request, value, connection):
                        raise RunLost(f"Task {self.name} is not held by this worker any more")
                    is_settled = True
        except Exception as error:
            if not is_settled or not await asyncio.to_thread(request.was_committed, error):
                raise
        return value


def _taken(request: Any) -> Any:
    """Take what commits the task together with its writes; None if there is none, or it is taken already.

    It is for the task's own body. When that calls the task's function again, the inner call must not commit the task.
    """
    if request is None:
        return None
    commit, request.commit_within = request.commit_within, None
    return commit


@contextmanager
def transaction(source: Any, app: Any) -> Iterator[Any]:
    """Open a transaction of this kind, commit it at the end of the block, and give what writes in it."""
    with _opened(source, app) as connection, _as_ambient(connection):
        yield connection


@asynccontextmanager
async def atransaction(source: Any, app: Any) -> AsyncIterator[Any]:
    """`transaction`, for coroutines: on an asynchronous connection, engine or sessionmaker."""
    async with _aopened(source, app) as connection:
        with _as_ambient(connection):
            yield connection


@contextmanager
def _as_ambient(connection: Any) -> Iterator[None]:
    token = ambient.set(connection)
    try:
        yield
    finally:
        ambient.reset(token)


@asynccontextmanager
async def _aopened(source: Any, app: Any) -> AsyncIterator[Any]:
    if source is True:
        # One for each: a connection belongs to an event loop, and outside of the pool aio every task has its own.
        async with await psycopg.AsyncConnection.connect(
            app.database_url, autocommit=True, application_name="pgtasks task"
        ) as connection:
            await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            async with connection.transaction():
                yield connection
    elif hasattr(source, "begin") and hasattr(opened := source.begin(), "__aenter__"):
        async with opened as connection:
            yield connection
    else:
        raise ImproperlyConfigured(
            f"transactional={source!r} opens no transaction for a coroutine function. Pass True, an asynchronous SQLAlchemy"
            " engine or sessionmaker, or make it a plain function."
        )


@contextmanager
def _opened(source: Any, app: Any) -> Iterator[Any]:
    if source is True:
        connection = _own_connection(app.database_url)
        with connection.transaction():
            yield connection
    elif isinstance(source, str):
        django = sys.modules.get("django.db")
        if django is None:
            raise ImproperlyConfigured(
                f"transactional={source!r} names a Django database, but Django is not loaded here. Call django.setup()"
                " before the worker starts, or set DJANGO_SETTINGS_MODULE."
            )
        with django.transaction.atomic(using=source):
            yield django.connections[source]
    elif hasattr(source, "begin"):
        with source.begin() as connection:
            yield connection
    else:
        raise ImproperlyConfigured(
            f"transactional={source!r} is neither True, nor a Django alias, nor a SQLAlchemy engine or sessionmaker."
            " Give one of these."
        )


class _Kept(threading.local):
    connection: Any = None
    key: Any = None


_kept = _Kept()


def _own_connection(url: str) -> psycopg.Connection[Any]:
    """One connection per thread and process: the settings of pgtasks' own ones are not for the queries of others."""
    key = url, os.getpid()
    if _kept.key != key or _kept.connection.closed or _kept.connection.broken:
        _kept.connection = psycopg.connect(url, autocommit=True, application_name="pgtasks task")
        _kept.connection.execute("SET default_transaction_isolation TO 'read committed'")
        _kept.key = key
    connection: psycopg.Connection[Any] = _kept.connection
    return connection


def is_connection_lost(error: BaseException) -> bool:
    """Was the connection lost, so that it is not known whether a COMMIT was done?"""
    original = getattr(error, "orig", None) or error.__cause__ or error
    return any(isinstance(each, psycopg.Error) and faults.breaks_connection(each) for each in (error, original))
