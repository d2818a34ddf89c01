"""The two executors: `Database` runs queries for threads, `AsyncDatabase` for coroutines.

Both keep a few connections open, open them lazily, and survive what databases do: a lost connection is replaced and
the statement sent again, with backoff and jitter. Sending again is right because every statement of the store may run
twice: an enqueue names the id it adds, and whatever a worker writes names the claim it holds. Nothing is ever decided
by transaction ids, which a failover can hand out twice.

Every call has a deadline after which its socket is shut: TCP keepalive does not notice a server that is frozen.
A forked child forgets its parent's connections without a word to the server and opens its own.

`conn=` runs a query in the caller's own transaction instead: a psycopg connection, a SQLAlchemy connection or session,
a Django connection or the alias of one.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor, Connection, RawCursor
from psycopg.abc import RV, PQGen
from psycopg.types.array import ListBinaryDumper

from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.store import arrays, borrow, faults, migrate
from pgtasks.store.sql import Query
from pgtasks.store.wire import Wire
from pgtasks.utils.text import mask_url

T = TypeVar("T")

#: Seconds after which a call on an own connection is given up and its socket cut.
DEADLINE_S = 30.0
#: Seconds for which a call is tried again while the database cannot be reached.
PATIENCE_S = 5.0
#: Connections that stay open between calls; more are opened when more threads ask at once.
KEEP = 4
#: Connections that the coroutines of one event loop, or the threads of a process, have at a time; the others wait for their turn.
CROWD = 16
#: A thread waits so long for its turn, then it opens one more: what holds the others may be waiting for it.
TURN_S = 1.0

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 5.0
_IDLE = psycopg.pq.TransactionStatus.IDLE  # that of a lost connection is UNKNOWN

#: Sent once per connection. Every statement is written for READ COMMITTED, whatever a role's default says;
#: a generic plan is the same as a planned one for statements that probe primary keys, and saves the planning. A plan
#: made while the tables are nearly empty would scan them, and be kept until they are not: no sequential scans, then. To
#: compile a plan would cost more than to run any of these for an hour.
#: Behind a pooler nothing of it happens, since the session belongs to many: it shows by the process that answers being
#: another one than the process that was introduced at the start.
_SESSION = (
    "SELECT set_config('default_transaction_isolation', 'read committed', false),"
    " set_config('plan_cache_mode', 'force_generic_plan', false), set_config('enable_seqscan', 'off', false),"
    " set_config('jit', 'off', false), set_config('idle_in_transaction_session_timeout', '60s', false)"
    " WHERE pg_backend_pid() = {backend_pid}"
)
_ISOLATION = "SHOW default_transaction_isolation"


class OwnConnection(Connection[Any]):
    """A connection whose calls end at a deadline, even when the server no longer answers."""

    deadline_s: float = DEADLINE_S
    #: A pooler stands between: nothing is prepared here, and nothing is heard.
    is_pooled = False

    @cached_property
    def _wire(self) -> Wire:
        return Wire(self)

    @cached_property
    def _only_cursor(self) -> RawCursor[Any]:
        """One cursor for all that takes one: to make one takes as long as a fifth of a small query."""
        return RawCursor(self)

    def run(self, query: Query[T]) -> T:
        """Run one query and read its rows."""
        if not self.is_pooled:
            return query.read(self.wait(self._wire.exchange(query)))
        return self._run_by_cursor(query)

    def _run_by_cursor(self, query: Query[T]) -> T:
        cursor, statement = self._only_cursor, query.statement
        values = [query.values[name] for name in statement.names]
        cursor.execute(statement.numbered, values, prepare=not self.is_pooled, binary=True)
        # Not `cursor.description`, which makes an object per column.
        result = cursor.pgresult
        return query.read(cursor.fetchall() if result and result.nfields else ())

    def run_at_once(self, queries: Sequence[Query[Any]]) -> list[Any]:
        """Run a few queries in one transaction and one round trip; the first that fails undoes all."""
        if self.is_pooled:
            with self.transaction():
                return [self._run_by_cursor(query) for query in queries]
        found = self.wait(self._wire.exchange_all(queries))
        return [query.read(rows) for query, rows in zip(queries, found, strict=True)]

    def run_all(self, queries: Iterable[Query[None]]) -> None:
        """Run queries in one transaction, each sent while the server still works on those before it."""
        with ExitStack() as stack:
            if psycopg.Pipeline.is_supported() and not self.is_pooled:
                stack.enter_context(self.pipeline())
            stack.enter_context(self.transaction())
            cursor = RawCursor(self)
            for query in queries:
                values = [query.values[name] for name in query.statement.names]
                cursor.execute(query.statement.numbered, values, prepare=not self.is_pooled, binary=True)

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        began_at = time.monotonic()
        try:
            return super().wait(gen, interval, self.deadline_s if timeout is None else timeout)
        except psycopg.errors.OperationalError as error:
            if timeout is None and time.monotonic() - began_at >= self.deadline_s:
                cut_socket(self.pgconn.socket)
                raise psycopg.OperationalError(
                    f"no answer within {self.deadline_s:g} s; the connection was cut"
                ) from error
            raise


def cut_socket(fileno: int) -> None:
    """Shut a socket down under its owner, without closing the descriptor that still belongs to it."""
    with suppress(OSError), socket.fromfd(fileno, socket.AF_INET, socket.SOCK_STREAM) as twin:
        twin.shutdown(socket.SHUT_RDWR)


def connect(url: str) -> OwnConnection:
    """Open one connection, set up as all of pgtasks' own are; raises what psycopg raises."""
    conn = OwnConnection.connect(url, autocommit=True, **_connect_options(url))
    conn.adapters.register_dumper(list, ListBinaryDumper)  # a third of the time that text takes
    arrays.register(conn)
    conn.is_pooled = conn.execute(_session(conn)).fetchone() is None
    if conn.is_pooled:
        _check_isolation(url, conn.execute(_ISOLATION).fetchone())
    conn.prepare_threshold = None if conn.is_pooled else 5
    return conn


def _connect_options(url: str) -> dict[str, Any]:
    given = psycopg.conninfo.conninfo_to_dict(url)
    defaults = {
        "application_name": "pgtasks",
        "connect_timeout": 10,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 8000,
    }
    return {key: value for key, value in defaults.items() if key not in given}


def _session(conn: Connection[Any] | AsyncConnection[Any]) -> bytes:
    return _SESSION.format(backend_pid=conn.info.backend_pid).encode()


def _check_isolation(url: str, found: tuple[Any, ...] | None) -> None:
    """Refuse another isolation level behind a pooler, where it cannot be set without being set for others."""
    if found != ("read committed",):
        raise ImproperlyConfigured(
            f"At {mask_url(url)}, behind a connection pooler, transactions are {found[0] if found else found!r} by "
            "default, and pgtasks needs 'read committed': ALTER ROLE ... SET default_transaction_isolation TO"
            " 'read committed'."
        )


def _upgrade_at(url: str) -> None:
    with connect(url) as conn:
        migrate.upgrade(conn)


def backoff(attempt: int) -> float:
    """Seconds to wait before try `attempt` (from 0): doubling from 50 ms to 5 s, with full jitter."""
    return random.uniform(0, min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt)) + 0.01


class OwnAsyncConnection(AsyncConnection[Any]):
    """The same for coroutines; it is whoever awaits a call that gives it up."""

    is_pooled = False

    @cached_property
    def _wire(self) -> Wire:
        return Wire(self)

    async def run(self, query: Query[T]) -> T:
        """Run one query and read its rows."""
        if not self.is_pooled:
            return query.read(await self.wait(self._wire.exchange(query)))
        statement = query.statement
        async with AsyncRawCursor(self) as cursor:
            values = [query.values[name] for name in statement.names]
            await cursor.execute(statement.numbered, values, prepare=False, binary=True)
            has_rows = cursor.pgresult is not None and cursor.pgresult.nfields
            return query.read(await cursor.fetchall() if has_rows else ())


class Database:
    """Runs queries on a few connections of its own; safe for threads and over forks.

    Raises `pgtasks.exceptions.OperationalError` when the database cannot be reached for `patience_s` seconds, and
    other errors of the same tree when it refuses; see `pgtasks.store.faults`.
    """

    def __init__(self, url: str, *, patience_s: float = PATIENCE_S) -> None:
        self.url = url
        self.patience_s = patience_s
        #: Known when a connection has been opened; then there is no listening.
        self.is_pooled = False
        #: How many connections were opened; one more than before means that one was lost, perhaps with its server.
        self.connects = 0
        self._idle: deque[OwnConnection] = deque()
        self._pid = os.getpid()
        self._is_current = False
        self._make_locks()

    def _make_locks(self) -> None:
        self._lock = threading.Lock()
        self._returned = threading.Condition(self._lock)
        self._lent = 0
        self._waiting = 0

    def run(self, query: Query[T], conn: Any = None) -> T:
        """Run one query: on the caller's connection if one is given, else on an own one, tried again when that is lost."""
        if conn is not None:
            return borrow.run(conn, query)
        return self._insist(lambda own: own.run(query))

    def run_once(self, query: Query[T]) -> T:
        """Run one query, and not again when the connection is lost; raises what psycopg raises."""
        return self._once(lambda own: own.run(query))

    def run_together(self, *queries: Query[Any]) -> list[Any]:
        """Run several queries in one transaction; when the first one gives 0, its fence has failed and nothing is done."""
        return self.run_in_turn(queries[0], *(lambda _, query=query: query for query in queries[1:]))

    def run_in_turn(self, query: Query[Any], *others: Callable[[Any], Query[Any]]) -> list[Any]:
        """Run queries in one transaction, each made of the answer before it; when the first gives 0, no other."""

        def in_turn(ask: Callable[[Query[Any]], Any]) -> list[Any]:
            answers = [ask(query)]
            for make in others if answers[0] else ():
                answers.append(ask(make(answers[-1])))
            return answers

        return self.transact(in_turn)

    def run_at_once(self, *queries: Query[Any]) -> list[Any]:
        """Run a few queries in one transaction and one round trip; the first that fails undoes all."""
        return self._insist(lambda own: own.run_at_once(queries))

    def transact(self, work: Callable[[Callable[[Query[Any]], Any]], T]) -> T:
        """Call `work` with what runs queries in one transaction; called again, from its start, when the connection is lost."""

        def transacted(own: OwnConnection) -> T:
            with own.transaction():
                return work(own.run)

        return self._insist(transacted)

    def run_all(self, queries: Iterable[Query[None]]) -> None:
        """Run queries in one transaction, each while the next one is made; all or nothing, also when making one fails.

        All are kept until the end, to be sent again when the connection is lost.
        """
        made: list[Query[None]] = []
        rest = iter(queries)

        def once_more() -> Iterator[Query[None]]:
            yield from made
            for query in rest:
                made.append(query)
                yield query

        self._insist(lambda own: own.run_all(once_more()))

    def connection(self) -> OwnConnection:
        """The connection by which a caller that is the only one here runs its queries, until it is lost."""
        return self._insist(lambda own: own)

    def ping(self) -> None:
        """Make sure that the database answers and its schema fits; raises if not."""
        self._insist(lambda own: own.execute("SELECT 1"))

    def close(self) -> None:
        """Close the idle connections; the next call opens new ones."""
        for conn in self._forget():
            conn.close()

    def descriptors(self) -> list[int]:
        """The sockets of idle connections, for a child to close that must not hold them open."""
        with self._lock:
            return [conn.fileno() for conn in self._idle if not conn.closed]

    def _insist(self, call: Callable[[OwnConnection], T]) -> T:
        deadline = time.monotonic() + self.patience_s
        attempt = 0
        while True:
            try:
                return self._once(call)
            except psycopg.Error as error:
                if not faults.is_passing(error) or time.monotonic() > deadline:
                    raise faults.translate(error, self.url) from error
            time.sleep(backoff(attempt))
            attempt += 1

    def _once(self, call: Callable[[OwnConnection], T]) -> T:
        """Lend an idle connection or open one; it comes back unless it broke."""
        conn = self._take()
        try:
            return call(conn)
        except psycopg.Error as error:
            if faults.breaks_connection(error):
                conn.close()
            raise
        finally:
            self._give(conn)

    def _take(self) -> OwnConnection:
        if self._pid != os.getpid():
            self._forget()
        with self._lock:
            if self._lent >= CROWD:
                self._await_turn()
            self._lent += 1
            if self._idle:
                return self._idle.pop()
        try:
            return self._open()
        except BaseException:
            self._note_return()
            raise

    def _await_turn(self) -> None:
        self._waiting += 1
        try:
            self._returned.wait_for(lambda: self._lent < CROWD, TURN_S)
        finally:
            self._waiting -= 1

    def _note_return(self, conn: OwnConnection | None = None) -> bool:
        """Let the next one have its turn, with this connection if it is to be kept; False if it is one too many."""
        with self._lock:
            self._lent -= 1
            is_kept = conn is not None and len(self._idle) < KEEP + self._waiting
            if conn is not None and is_kept:
                self._idle.append(conn)
            if self._waiting:
                self._returned.notify()
            return is_kept

    def _open(self) -> OwnConnection:
        conn = connect(self.url)
        self.connects += 1
        self.is_pooled = conn.is_pooled
        if not self._is_current:
            migrate.upgrade(conn)
            self._is_current = True
        return conn

    def _give(self, conn: OwnConnection) -> None:
        if not self._note_return(conn if conn.pgconn.transaction_status == _IDLE else None):
            conn.close()

    def _forget(self) -> list[OwnConnection]:
        """Drop all connections; those of a parent process are only forgotten, since it will close them itself."""
        is_child = self._pid != os.getpid()
        self._pid = os.getpid()
        if is_child:
            self._make_locks()
        with self._lock:
            mine = [] if is_child else list(self._idle)
            self._idle = deque()
        return mine


class AsyncDatabase:
    """Runs queries for coroutines of one event loop, as `Database` does for threads."""

    def __init__(self, url: str, *, patience_s: float = PATIENCE_S) -> None:
        self.url = url
        self.patience_s = patience_s
        #: Known when a connection has been opened; then there is no listening.
        self.is_pooled = False
        self._idle: deque[OwnAsyncConnection] = deque()
        self._owner: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._turns = asyncio.Semaphore(CROWD)
        self._is_current = False

    async def run(self, query: Query[T], conn: Any = None) -> T:
        """Run one query: on the caller's async connection if one is given, else on an own one."""
        if conn is not None:
            return await borrow.arun(conn, query)
        deadline = time.monotonic() + self.patience_s
        attempt = 0
        while True:
            try:
                # Not wait_for, which before Python 3.12 forgets that it was cancelled when the answer is there.
                async with self._turn(), asyncio.timeout(DEADLINE_S):
                    return await self._once(query)
            except (psycopg.Error, TimeoutError) as error:
                if not faults.is_passing(error) or time.monotonic() > deadline:
                    raise faults.translate(error, self.url) from error
            await asyncio.sleep(backoff(attempt))
            attempt += 1

    async def close(self) -> None:
        """Close the idle connections; the next call opens new ones."""
        while self._idle:
            await self._idle.pop().close()

    def abandon(self) -> None:
        """Close the idle connections of a loop that has ended, but not those of a parent process."""
        if self._owner is not None and self._owner[0] == os.getpid():
            for conn in self._idle:
                conn.pgconn.finish()
        self._idle.clear()

    async def _once(self, query: Query[T]) -> T:
        conn = await self._take()
        is_whole = False
        try:
            value = await conn.run(query)
            is_whole = True
            return value
        finally:
            if is_whole and len(self._idle) < KEEP:
                self._idle.append(conn)
            else:
                await conn.close()

    def _turn(self) -> asyncio.Semaphore:
        """What bounds the connections of the running loop; another loop, or process, starts without any."""
        owner = (os.getpid(), asyncio.get_running_loop())
        if self._owner != owner:
            self._idle.clear()
            self._owner, self._turns = owner, asyncio.Semaphore(CROWD)
        return self._turns

    async def _take(self) -> OwnAsyncConnection:
        if self._idle:
            return self._idle.pop()
        if not self._is_current:
            await asyncio.to_thread(_upgrade_at, self.url)
            self._is_current = True
        conn = await OwnAsyncConnection.connect(self.url, autocommit=True, **_connect_options(self.url))
        conn.adapters.register_dumper(list, ListBinaryDumper)
        arrays.register(conn)
        self.is_pooled = conn.is_pooled = await (await conn.execute(_session(conn))).fetchone() is None
        if self.is_pooled:
            _check_isolation(self.url, await (await conn.execute(_ISOLATION)).fetchone())
        conn.prepare_threshold = None if self.is_pooled else 5
        return conn
