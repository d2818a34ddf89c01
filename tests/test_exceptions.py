"""The errors are Celery's, class for class, so that `except` clauses and stored errors move over."""

from __future__ import annotations

import builtins
import inspect
import pickle
from datetime import datetime
from typing import Any

import celery.exceptions as theirs
import kombu.exceptions
import pytest

from pgtasks import exceptions as ours

SHARED = [name for name in theirs.__all__ if inspect.isclass(getattr(theirs, name))]


def lineage(cls: type) -> list[str]:
    """Return the names of the bases that both trees can have."""
    return [base.__name__ for base in cls.__mro__]


@pytest.mark.parametrize("name", SHARED)
def test_an_error_is_caught_by_the_same_except_clauses_as_in_celery(name: str) -> None:
    assert lineage(getattr(ours, name)) == lineage(getattr(theirs, name))


def test_kombus_errors_are_kombus_own() -> None:
    assert ours.OperationalError is kombu.exceptions.OperationalError
    assert ours.EncodeError is kombu.exceptions.EncodeError
    assert ours.DecodeError is kombu.exceptions.DecodeError
    assert ours.ContentDisallowed is kombu.exceptions.ContentDisallowed


def test_timeout_error_is_not_pythons() -> None:
    assert not issubclass(ours.TimeoutError, builtins.TimeoutError)


def test_a_caller_that_expects_a_lost_broker_catches_a_lost_database() -> None:
    with pytest.raises(kombu.exceptions.OperationalError):
        raise ours.DatabaseUnavailable("no answer from db:5432 in 10 s")


class Unpicklable(Exception):
    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.lock = __import__("threading").Lock()


RETRIES: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    (("again",), {}),
    ((None, KeyError("k")), {"when": 30}),
    (("m", ValueError(1)), {"when": datetime(2024, 1, 2, 3, 4, 5)}),
    ((None, "repr of it", 1.5), {}),
    ((None, Unpicklable(3), 2), {"is_eager": True}),
]


@pytest.mark.parametrize(("args", "kwargs"), RETRIES)
def test_retry_says_and_keeps_what_celerys_does(args: Any, kwargs: Any) -> None:
    our, their = ours.Retry(*args, **kwargs), theirs.Retry(*args, **kwargs)

    assert str(our) == str(their)
    assert our.humanize() == their.humanize()
    assert (our.message, our.when, our.is_eager, our.sig) == (
        their.message,
        their.when,
        their.is_eager,
        their.sig,
    )
    assert our.excs == their.excs
    assert repr(our.exc) == repr(their.exc)


@pytest.mark.parametrize(("args", "kwargs"), RETRIES)
def test_retry_can_cross_a_process_boundary_whatever_caused_it(args: Any, kwargs: Any) -> None:
    retry = ours.Retry(*args, **kwargs)

    copy = pickle.loads(pickle.dumps(retry))

    assert str(copy.exc) == str(retry.exc)
    assert (copy.message, copy.when) == (retry.message, retry.when)


def test_reject_says_whether_to_deliver_again() -> None:
    assert repr(ours.Reject("why", requeue=True)) == repr(theirs.Reject("why", requeue=True))
    assert pickle.loads(pickle.dumps(ours.Reject("why", True))).requeue is True


def test_the_rest_reads_as_in_celery() -> None:
    for name in (
        "NotRegistered",
        "QueueNotFound",
        "TimeLimitExceeded",
        "SoftTimeLimitExceeded",
        "WorkerLostError",
    ):
        our, their = getattr(ours, name)("t.add", 3), getattr(theirs, name)("t.add", 3)
        assert (str(our), repr(our)) == (str(their), repr(their))
    error = ours.MaxRetriesExceededError("no", task_args=(1,), task_kwargs={"a": 2})
    assert (error.task_args, error.task_kwargs, str(error)) == ((1,), {"a": 2}, "no")
    command = ours.CeleryCommandException("no", 69)
    assert (command.message, command.exit_code) == ("no", 69)


def test_backend_errors_name_the_task() -> None:
    assert repr(ours.BackendStoreError("full", state="SUCCESS", task_id="7")) == repr(
        theirs.BackendStoreError("full", state="SUCCESS", task_id="7")
    )
    assert repr(ours.BackendGetMetaError("gone", task_id="7")) == repr(theirs.BackendGetMetaError("gone", task_id="7"))


def test_reraise_gives_the_traceback_back() -> None:
    try:
        raise KeyError("first")
    except KeyError as exc:
        error, traceback = exc, exc.__traceback__

    with pytest.raises(KeyError) as raised:
        ours.reraise(KeyError, error, traceback)

    assert any(entry.name == "test_reraise_gives_the_traceback_back" for entry in raised.traceback)
