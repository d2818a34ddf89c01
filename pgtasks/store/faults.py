"""Classify database errors, in one place.

| class | what happened | reaction |
| --- | --- | --- |
| passing | the connection is gone or refused, the server starts, stops or fails over; a deadlock or lock timeout | retried |
| breaks connection | as above, and a server that became read-only: this connection points at a demoted primary | replaced |
| refused | no permission, no such database, wrong password | raised at once, with what to do |
| full | disk or memory of the server | raised at once; no statement is ever half done |

After a lost connection it is unknown whether a statement took effect; the statements of the store may be sent again.
A bulk that is sent again while the lost connection still writes it finds its ids taken at the end: that passes, too.
Error classes: PostgreSQL documentation, appendix A.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import psycopg
from psycopg import errors

from pgtasks.exceptions import DatabaseFull, DatabaseRefused, DatabaseUnavailable, SchemaError, TaskSentBefore
from pgtasks.utils.text import mask_url

#: Connection exceptions, shutdowns, failovers, too many connections, and statements prepared by another session.
_BROKEN_CLASSES = ("08", "57P", "25006", "53300", "26000")
_AGAIN = ("40001", "40P01", "55P03", "57014")

_LIBPQ_ADVICE = re.compile(r"\s*Is the server running (?:on that host|locally) and accepting [^?]*\?")

#: libpq gives no SQLSTATE for errors at connect; these say that trying again will not help.
_FINAL_AT_CONNECT = (
    "password authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "could not translate host name",
    "is not permitted to log in",
    "permission denied for database",
    "no password supplied",
    "Peer authentication failed",
)


def is_passing(error: BaseException) -> bool:
    """True when the same statement may work a moment later."""
    if isinstance(error, TimeoutError):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    if isinstance(error, errors.UniqueViolation):  # see the statement `enqueue_many`
        return error.diag.constraint_name == "message_pkey"
    return (breaks_connection(error) and not _is_final_at_connect(error)) or (error.sqlstate or "") in _AGAIN


def breaks_connection(error: psycopg.Error) -> bool:
    """True when the connection cannot be used again."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate.startswith(_BROKEN_CLASSES)


def _is_final_at_connect(error: psycopg.Error) -> bool:
    return error.sqlstate is None and any(text in str(error) for text in _FINAL_AT_CONNECT)


def translate(error: BaseException, url: str) -> Exception:
    """Turn a driver's error into one of the project's, which says what happened and what to do."""
    where, reason = mask_url(url), _reason(error)
    for is_it, becomes, words in _MEANINGS:
        if is_it(error):
            return becomes(words.format(where=where, reason=reason))
    return psycopg.DatabaseError(f"The database at {where} reports: {reason}")


def _reason(error: BaseException) -> str:
    """The error's own words, without the advice of libpq, in whose place comes our own."""
    return _LIBPQ_ADVICE.sub("", str(error)).strip().rstrip(".") or type(error).__name__


def _is(*kinds: type[BaseException]) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, kinds)


def _was_sent_in_part(error: BaseException) -> bool:
    return isinstance(error, errors.CheckViolation) and error.diag.constraint_name == "waiting_pending_not_negative"


def _is_refused(error: BaseException) -> bool:
    return isinstance(error, psycopg.Error) and _is_final_at_connect(error)


def _is_missing(error: BaseException) -> bool:
    return _is_refused(error) and re.search(r'database "[^"]*" does not exist', str(error)) is not None


def _is_out_of_reach(error: BaseException) -> bool:
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or is_passing(error)


#: The first that fits is what an error means: what tells it, what it becomes, and its words.
_MEANINGS: tuple[tuple[Callable[[BaseException], bool], type[Exception], str], ...] = (
    (
        _is(errors.UndefinedTable, errors.InvalidSchemaName, errors.UndefinedFunction, errors.UndefinedColumn),
        SchemaError,
        "The schema `pgtasks` at {where} does not fit this release: {reason}. Run `pgtasks db upgrade`.",
    ),
    (
        _was_sent_in_part,
        TaskSentBefore,
        "A task of this canvas was sent before under the same id, and others were not: nothing was sent. A signature"
        " that was frozen keeps its id; use a clone of it, or wait until the earlier task has ended.",
    ),
    (
        _is(errors.InsufficientPrivilege),
        DatabaseRefused,
        "The database role may not do that at {where}: {reason}. Grant the role the rights on the schema `pgtasks` that"
        " docs/operations.md lists, or connect as its owner.",
    ),
    (
        _is(errors.DiskFull, errors.OutOfMemory),
        DatabaseFull,
        "The database server at {where} has run out of space: {reason}. Nothing was changed.",
    ),
    (
        _is_missing,
        DatabaseRefused,
        "There is no such database as {where} names: {reason}. Create it, as with `createdb`, or correct"
        " PGTASKS_DATABASE_URL or broker_url.",
    ),
    (
        _is_refused,
        DatabaseRefused,
        "The database at {where} refuses the connection: {reason}. Check PGTASKS_DATABASE_URL or broker_url.",
    ),
    (
        _is(errors.ReadOnlySqlTransaction),
        DatabaseUnavailable,
        "The database at {where} takes no writes: {reason}. Is it a standby? A URL that names all hosts and has"
        " target_session_attrs=read-write finds the primary.",
    ),
    (
        _is(errors.TooManyConnections),
        DatabaseUnavailable,
        "The database at {where} has no connection left: {reason}. Raise max_connections, or put a pooler in between.",
    ),
    (
        _is_out_of_reach,
        DatabaseUnavailable,
        "Cannot reach the database at {where}: {reason}. Is it running, and is the URL right?",
    ),
)
