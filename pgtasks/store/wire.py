"""Prepared statements without psycopg's cursors, which cost a small statement's caller more than all the rest of it.

A cursor finds out at every call which types the values have, whether to prepare, and what the columns are: 40 of
the 65 us of a small statement, and 5 us for every array. Here the server says once, when a statement is prepared, which
types it takes. Values are written in the server's binary form by a table of small functions, rows are read by psycopg's
loaders, and waiting, with its deadlines and signals, is the connection's own.

`exchange` is a generator like psycopg's own protocol generators: `Connection.wait` and `AsyncConnection.wait` run it, so
that there is one of it for threads and coroutines. Binary forms: the *send functions in PostgreSQL's src/backend/utils/adt.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg
from psycopg import errors, generators, pq
from psycopg.abc import PQGen
from psycopg.adapt import Transformer

from pgtasks.store.arrays import Array
from pgtasks.store.sql import Query, Row, Statement

#: Writes one value, which is not None.
Write = Callable[[Any], bytes]

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_BINARY = pq.Format.BINARY
_SUCCESSES = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)

_int2, _int4, _int8, _float4, _float8 = (struct.Struct(f"!{code}").pack for code in "hiqfd")
_NULL = _int4(-1)
_array_head = struct.Struct("!5i").pack


def _bool(value: bool) -> bytes:
    return b"\1" if value else b"\0"


def _timestamptz(value: datetime) -> bytes:
    since = value - _EPOCH
    return _int8((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)


#: How values of a type are written: its oid, that of its arrays, the function.
_TYPES: tuple[tuple[int, int, Write], ...] = (
    (16, 1000, _bool),
    (17, 1001, bytes),
    (20, 1016, _int8),
    (21, 1005, _int2),
    (23, 1007, _int4),
    (25, 1009, str.encode),
    (700, 1021, _float4),
    (701, 1022, _float8),
    (1184, 1185, _timestamptz),
    (2950, 2951, lambda value: value.bytes),
)


def _write_array(oid: int, write: Write) -> Write:
    empty = struct.pack("!3i", 0, 0, oid)

    def write_array(values: Sequence[Any] | Array) -> bytes:
        if isinstance(values, Array):
            return values.wire
        if not values:
            return empty
        count = len(values)
        nulls = values.count(None)
        head = _array_head(1, 1 if nulls else 0, oid, count, 1)
        if nulls == count:
            return head + _NULL * count
        parts = [head]
        for value in values:
            if value is None:
                parts.append(_NULL)
            else:
                written = write(value)
                parts += (_int4(len(written)), written)
        return b"".join(parts)

    return write_array


_WRITERS: dict[int, Write] = {
    **{oid: write for oid, _, write in _TYPES},
    **{array_oid: _write_array(oid, write) for oid, array_oid, write in _TYPES},
}


def _writer(oid: int, statement: Statement) -> Write:
    try:
        return _WRITERS[oid]
    except KeyError:
        raise psycopg.NotSupportedError(
            f"The statement {statement.name!r} takes a value of type {oid}, for which no binary form is known here."
            " Cast the parameter to another type."
        ) from None


class Prepared(NamedTuple):
    """A statement that the server knows under a name, and how its values are written."""

    name: bytes
    parameters: tuple[tuple[str, Write], ...]
    formats: list[int]


class Wire:
    """The prepared statements of one connection."""

    def __init__(self, conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
        self._pgconn = conn.pgconn
        self._transformer = Transformer(conn)
        self._prepared: dict[bytes, Prepared] = {}

    def exchange(self, query: Query[Any]) -> PQGen[Sequence[Row]]:
        """Run one query and read its rows; prepares the statement first where that is new."""
        pgconn, statement = self._pgconn, query.statement
        prepared = self._prepared.get(statement.numbered)
        if prepared is None:
            prepared = self._prepared[statement.numbered] = yield from self._prepare(statement)
        pgconn.send_query_prepared(prepared.name, _written(prepared, query), prepared.formats, result_format=_BINARY)
        result = yield from _answer(pgconn)
        return self._rows_of(result)

    def exchange_all(self, queries: Sequence[Query[Any]]) -> PQGen[list[Sequence[Row]]]:
        """Run queries in one transaction and one round trip; the first that fails undoes all.

        In libpq's pipeline mode what lies before a sync is one transaction, without a BEGIN. The queries must be few and their
        answers small: nothing is read until everything is written.
        """
        pgconn = self._pgconn
        for statement in [query.statement for query in queries]:
            if statement.numbered not in self._prepared:
                self._prepared[statement.numbered] = yield from self._prepare(statement)
        pgconn.enter_pipeline_mode()
        try:
            for query in queries:
                prepared = self._prepared[query.statement.numbered]
                values = _written(prepared, query)
                pgconn.send_query_prepared(prepared.name, values, prepared.formats, result_format=_BINARY)
            pgconn.pipeline_sync()
            yield from generators.send(pgconn)
            answers: list[list[pq.abc.PGresult]] = []
            while len(answers) <= len(queries):  # one for each query, and one for the sync
                answers.append((yield from generators.fetch_many(pgconn)))
        finally:
            if pgconn.status == pq.ConnStatus.OK:
                _leave_pipeline(pgconn)
        for (result, *_) in answers:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise errors.error_from_result(result)
        return [self._rows_of(result) for (result, *_), _ in zip(answers, queries, strict=False)]

    def _rows_of(self, result: pq.abc.PGresult) -> Sequence[Row]:
        if not result.ntuples:
            return []
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    def _prepare(self, statement: Statement) -> PQGen[Prepared]:
        pgconn, name = self._pgconn, f"pgtasks_{len(self._prepared)}_{statement.name}".encode()
        pgconn.send_prepare(name, statement.numbered)
        yield from _answer(pgconn)
        pgconn.send_describe_prepared(name)
        described = yield from _answer(pgconn)
        writers = [_writer(described.param_type(number), statement) for number in range(described.nparams)]
        return Prepared(name, tuple(zip(statement.names, writers, strict=True)), [_BINARY] * len(writers))


def _written(prepared: Prepared, query: Query[Any]) -> list[bytes | None]:
    values = query.values
    try:
        return [None if (value := values[name]) is None else write(value) for name, write in prepared.parameters]
    except (struct.error, TypeError, AttributeError) as error:
        raise psycopg.DataError(
            f"A value of the statement {query.statement.name!r} has no binary form: {error}"
        ) from error


def _leave_pipeline(pgconn: pq.abc.PGconn) -> None:
    """Leave pipeline mode; a connection on which that cannot be done, since answers are owed, is of no more use."""
    try:
        pgconn.exit_pipeline_mode()
    except psycopg.Error:
        pgconn.finish()


def _answer(pgconn: pq.abc.PGconn) -> PQGen[pq.abc.PGresult]:
    """Receive the result of what was sent; raises the error that it is."""
    # The end of a connection that is terminated comes as a result of its own.
    results: list[pq.abc.PGresult] = yield from generators.execute(pgconn)
    for result in results:
        if result.status not in _SUCCESSES:
            raise errors.error_from_result(result)
    return results[0]
