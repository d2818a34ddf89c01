"""Every error and warning of pgtasks.

The tree is Celery's, class for class, so `except` clauses move over unchanged; the errors that Celery takes
from billiard (time limits, lost workers) are defined here, those it takes from kombu are kombu's own. Errors
that only exist because Postgres is underneath are children of `CeleryError` or of kombu's `OperationalError`.

    CeleryError
      ImproperlyConfigured        SchemaError { SchemaTooOld, SchemaTooNew }
      SecurityError
      TaskPredicate               Ignore, Reject, Retry: how a task says what should become of it
      TaskError                   QueueNotFound, NotRegistered, TimeoutError, ChordError, ...
    BackendError                  BackendGetMetaError, BackendStoreError
    OperationalError (kombu)      DatabaseUnavailable { DatabaseRefused, DatabaseFull }
    SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError, Terminated
    WorkerShutdown, WorkerTerminate (SystemExit)
    Unwound (BaseException)       RunSuspended, RunCancelled, RunLost, RunInterrupted: how a workflow's code is left
"""

import numbers
from types import TracebackType
from typing import Any, NoReturn

from click import ClickException
from kombu.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    OperationalError,
    SerializerNotInstalled,
)
from kombu.utils.encoding import safe_repr

from pgtasks.utils.serialization import get_pickleable_exception

__all__ = (
    "AlreadyEnqueued",
    "AlreadyRegistered",
    "AlwaysEagerIgnored",
    "BackendError",
    "BackendGetMetaError",
    "BackendStoreError",
    "CDeprecationWarning",
    "CPendingDeprecationWarning",
    "CeleryCommandException",
    "CeleryError",
    "CeleryWarning",
    "ChordError",
    "ContentDisallowed",
    "DatabaseFull",
    "DatabaseRefused",
    "DatabaseUnavailable",
    "DecodeError",
    "DuplicateNodenameWarning",
    "DuplicateTaskNameWarning",
    "EncodeError",
    "FixupWarning",
    "Ignore",
    "ImproperlyConfigured",
    "IncompleteStream",
    "InvalidTaskError",
    "MaxRetriesExceededError",
    "NotConfigured",
    "NotRegistered",
    "OperationalError",
    "QueueNotFound",
    "Reject",
    "Retry",
    "RetryTaskError",
    "RunCancelled",
    "RunEnded",
    "RunInterrupted",
    "RunLost",
    "RunNotFound",
    "RunSuspended",
    "SchemaError",
    "SchemaTooNew",
    "SchemaTooOld",
    "SecurityError",
    "SecurityWarning",
    "SerializerNotInstalled",
    "SoftTimeLimitExceeded",
    "SystemTerminate",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "TaskSentBefore",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "UnknownSettingWarning",
    "Unwound",
    "WorkerLostError",
    "WorkerShutdown",
    "WorkerTerminate",
    "WorkflowError",
    "reraise",
)


def reraise(tp: type[BaseException], value: BaseException, tb: TracebackType | None = None) -> NoReturn:
    """Raise `value` with traceback `tb`; `tp` is there for the callers of old."""
    if value.__traceback__ is not tb:
        raise value.with_traceback(tb)
    raise value


# -- warnings ---------------------------------------------------------------------------------------------


class CeleryWarning(UserWarning):
    """Base of all warnings."""


class AlwaysEagerIgnored(CeleryWarning):
    """`send_task` does not run tasks in place, whatever `task_always_eager` says."""


class DuplicateNodenameWarning(CeleryWarning):
    """Two live workers have the same node name."""


class DuplicateTaskNameWarning(CeleryWarning):
    """Two functions were registered under one task name; the first one stays."""


class FixupWarning(CeleryWarning):
    """An integration (Django) could not be set up."""


class NotConfigured(CeleryWarning):
    """No configuration module was found."""


class SecurityWarning(CeleryWarning):
    """Something is less safe than it should be."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """Will be deprecated; a class of its own so that filters can tell."""


class CDeprecationWarning(DeprecationWarning):
    """Deprecated; a class of its own so that filters can tell."""


class UnknownSettingWarning(CeleryWarning):
    """A setting has a name that is only nearly right."""


# -- errors of the app and the database -------------------------------------------------------------------


class CeleryError(Exception):
    """Base of pgtasks' errors."""


class ImproperlyConfigured(CeleryError):
    """A setting, or a mixture of settings, makes no sense."""


class SecurityError(CeleryError):
    """Data asked for something that data may not do."""


class SchemaError(ImproperlyConfigured):
    """The pgtasks schema in the database does not fit this release."""


class SchemaTooOld(SchemaError):
    """The schema lacks migrations that this release needs."""


class SchemaTooNew(SchemaError):
    """The schema was migrated by a later release that this one cannot work with."""


class DatabaseUnavailable(OperationalError, CeleryError):
    """Postgres could not be reached, or did not answer in time; trying again may help.

    It is an `OperationalError`, so what a caller of `.delay()` did about a lost broker works here too.
    """


class DatabaseRefused(DatabaseUnavailable):
    """The database answers, and will not let this role in or do what it asked."""


class DatabaseFull(DatabaseUnavailable):
    """The database server has run out of disk or memory."""


class TaskSentBefore(CeleryError):
    """A canvas has a task that was sent before, among others that were not, and that has not ended."""


class AlreadyEnqueued(CeleryError):
    """A unique call was not sent, since another task holds its key; of a canvas, nothing was sent."""

    def __init__(self, name: str, task_id: str) -> None:
        super().__init__(name, task_id)
        #: The task that stands for the call.
        self.name, self.task_id = name, task_id

    def __str__(self) -> str:
        return f"{self.name!r} is unique, and task {self.task_id} stands for this call: nothing was sent."


# -- what a task can raise to say what should become of it ------------------------------------------------


class TaskPredicate(CeleryError):
    """Base of the exceptions that are not errors but instructions."""


class Ignore(TaskPredicate):
    """Leave the task's state alone."""


class Reject(TaskPredicate):
    """Refuse the task, and have it delivered again if `requeue`."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class Retry(TaskPredicate):
    """Run the task again later.

    `exc` is the exception that led to it (made picklable; a string is taken as its repr), `when` a number of
    seconds or a datetime.
    """

    message: str | None = None
    exc: BaseException | None = None
    excs: str | None = None
    when: Any = None

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: Any = None,
        is_eager: bool = False,
        sig: Any = None,
        **kwargs: Any,
    ) -> None:
        self.message = message
        if isinstance(exc, str):
            self.exc, self.excs = None, exc
        else:
            self.exc, self.excs = get_pickleable_exception(exc), safe_repr(exc) if exc else None
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        super().__init__(message, exc, when, **kwargs)

    def humanize(self) -> str:
        """Say when, as in 'in 30s' or 'at 2024-01-01 00:00:00'."""
        return f"in {self.when}s" if isinstance(self.when, numbers.Number) else f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        return f"Retry {self.humanize()}: {self.excs}" if self.excs else f"Retry {self.humanize()}"

    def __reduce__(self) -> tuple[type["Retry"], tuple[Any, ...]]:
        # The signature stays behind: it belongs to the process that raised.
        return type(self), (self.message, self.exc, self.when)


RetryTaskError = Retry


# -- errors about tasks -----------------------------------------------------------------------------------


class TaskError(CeleryError):
    """Base of the errors about tasks."""


class QueueNotFound(KeyError, TaskError):
    """A task is routed to a queue that is not declared, and `task_create_missing_queues` is off."""


class IncompleteStream(TaskError):
    """Data ended before it was complete."""


class NotRegistered(KeyError, TaskError):
    """No task of that name is registered in this process."""

    def __repr__(self) -> str:
        return f"Task of kind {self} never registered, please make sure it's imported."


class AlreadyRegistered(TaskError):
    """The task is registered already."""


class TimeoutError(TaskError):
    """The result did not arrive in time. Not Python's own TimeoutError."""


class MaxRetriesExceededError(TaskError):
    """The task asked for one retry too many; `task_args` and `task_kwargs` are what it was called with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_args = kwargs.pop("task_args", [])
        self.task_kwargs = kwargs.pop("task_kwargs", {})
        super().__init__(*args, **kwargs)


class TaskRevokedError(TaskError):
    """The task was revoked, or expired, so there is no result."""


class InvalidTaskError(TaskError):
    """The message does not describe a task that could be run."""


class ChordError(TaskError):
    """A task in the header of a chord failed."""


class WorkflowError(TaskError):
    """A workflow was written, or is called, in a way that cannot be durable."""


class RunNotFound(WorkflowError):
    """No task of that id is known."""


class RunEnded(WorkflowError):
    """The run has ended: it takes no signals and cannot be changed any more."""


# -- errors about results ---------------------------------------------------------------------------------


class BackendError(Exception):
    """Reading or writing a result failed."""


class BackendGetMetaError(BackendError):
    """Reading the result of `task_id` failed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_id = kwargs.get("task_id", "")
        super().__init__(*args)

    def __repr__(self) -> str:
        return f"{super().__repr__()} task_id:{self.task_id}"


class BackendStoreError(BackendError):
    """Writing the result of `task_id`, with `state`, failed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.state = kwargs.get("state", "")
        self.task_id = kwargs.get("task_id", "")
        super().__init__(*args)

    def __repr__(self) -> str:
        return f"{super().__repr__()} state:{self.state} task_id:{self.task_id}"


# -- the end of a running task, from outside --------------------------------------------------------------


class TimeLimitExceeded(Exception):
    """The hard time limit passed, and the process running the task was killed."""

    def __str__(self) -> str:
        return f"TimeLimitExceeded{self.args}"


class SoftTimeLimitExceeded(Exception):
    """The soft time limit passed: raised inside the task, to let it clean up."""

    def __str__(self) -> str:
        return f"SoftTimeLimitExceeded{self.args}"


class WorkerLostError(Exception):
    """The process that ran the task ended before the task did."""


class Terminated(Exception):
    """The process that ran the task was told to end, by `revoke(terminate=True)`."""


# -- the code of a workflow is left, by exceptions that `except Exception` does not catch ------------------


class Unwound(BaseException):
    """The code of a workflow goes no further here; what it remembers is where it goes on."""


class RunSuspended(Unwound):
    """The run waits, as rows; it goes on when it is woken."""


class RunCancelled(Unwound):
    """The run was revoked: what it did is undone, and then it is over."""


class RunLost(Unwound):
    """Another worker has taken the run over; nothing more that is done here counts."""


class RunInterrupted(Unwound):
    """The database cannot be reached, so the run goes on elsewhere or later."""


# -- the end of a worker ----------------------------------------------------------------------------------


class WorkerTerminate(SystemExit):
    """Stop the worker at once."""


SystemTerminate = WorkerTerminate


class WorkerShutdown(SystemExit):
    """Stop the worker when the running tasks have ended."""


class CeleryCommandException(ClickException):
    """A command failed, with the exit code to leave with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message=message)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it for the class only
