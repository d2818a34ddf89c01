"""Django's own tasks, run by workers of pgtasks.

    TASKS = {"default": {"BACKEND": "pgtasks.contrib.django.backend.PgTasksBackend"}}

    @task(priority=10)                     registered as a task of every app, under its path: polls.tasks.mail
    def mail(to): ...

    mail.enqueue("a@example.org")          mail.using(run_after=..., queue_name="slow").enqueue(...)

They are tasks like any other: workers, logs, the admin and `pgtasks inspect` show them by their path, an enqueue within
`atomic()` is part of the transaction, and one whose worker dies runs again. Django's default queue is the app's
`task_default_queue`. A worker has to know them: it imports the `tasks` modules of the installed apps, and what the setting
`imports` names.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from inspect import iscoroutinefunction
from typing import Any
from uuid import UUID

from django.utils.module_loading import import_string

from pgtasks import shared_task, states
from pgtasks.contrib.django.app import project_app
from pgtasks.contrib.django.framework import (
    DEFAULT_QUEUE,
    BaseTaskBackend,
    Task,
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    normalize_json,
    task_enqueued,
    task_finished,
    task_started,
)
from pgtasks.message import id_of
from pgtasks.store import overview

__all__ = ("PgTasksBackend",)

_NO_ATTEMPT = {"started_at": None, "last_attempted_at": None, "finished_at": None}


class PgTasksBackend(BaseTaskBackend):
    """Enqueues Django's tasks as tasks of the project's app."""

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def validate_task(self, task: Any) -> None:
        """Called for each task that is declared, or derived by `using`; it is registered with the apps by that."""
        super().validate_task(task)
        _register(task.module_path, task.func)

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Enqueue a call; arguments must be JSON."""
        self.validate_task(task)
        app = project_app()
        result = TaskResult(
            task=task, id="", status=TaskResultStatus.READY, enqueued_at=datetime.now(UTC), args=args, kwargs=kwargs,
            backend=self.alias, errors=[], worker_ids=[], **_NO_ATTEMPT,
        )  # fmt: skip
        queue = app.conf.task_default_queue if task.queue_name == DEFAULT_QUEUE else task.queue_name
        sent = app.tasks[task.module_path].apply_async(
            result.args, result.kwargs, queue=queue, priority=task.priority, eta=task.run_after, serializer="json"
        )
        object.__setattr__(result, "id", sent.id)
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:
        """Read where a call stands; raises TaskResultDoesNotExist, also for what is no task of Django's."""
        app = project_app()
        stand = app.database.run(overview.stand(id_of(result_id)))
        task = None if stand is None else _task_of(stand.name)
        if stand is None or task is None:
            raise TaskResultDoesNotExist(result_id)
        queue = DEFAULT_QUEUE if stand.queue == app.conf.task_default_queue else stand.queue
        args, kwargs = json.loads(stand.payload)[:2] if stand.payload else ([], {})
        result = TaskResult(
            task=task.using(backend=self.alias, queue_name=queue, priority=stand.priority, run_after=stand.due),
            id=result_id,
            status=_status(stand.state),
            enqueued_at=_made_at(result_id),
            started_at=stand.claimed_at,
            last_attempted_at=stand.claimed_at,
            finished_at=stand.done_at,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[stand.worker] * (stand.retries + 1) if stand.worker else [],
        )
        if stand.done_at is not None:
            _add_outcome(result, app.AsyncResult(result_id), stand.traceback)
        return result


def _add_outcome(result: Any, outcome: Any, traceback: str | None) -> None:
    if result.status == TaskResultStatus.SUCCESSFUL:
        object.__setattr__(result, "_return_value", outcome.result)
    else:
        result.errors.append(_error(outcome.result, traceback))


def _error(error: Any, traceback: str | None) -> Any:
    cls = type(error)
    return TaskError(
        exception_class_path=f"{cls.__module__}.{cls.__qualname__}", traceback=traceback or f"{cls.__name__}: {error}"
    )


def _status(state: str) -> Any:
    if state == states.SUCCESS:
        return TaskResultStatus.SUCCESSFUL
    if state == states.STARTED:
        return TaskResultStatus.RUNNING
    waits = ("READY", "SCHEDULED", "WAITING", states.RETRY)
    return TaskResultStatus.READY if state in waits else TaskResultStatus.FAILED


def _made_at(result_id: str) -> datetime | None:
    """The moment that is in an id; a caller's own id has none."""
    key = UUID(result_id)
    return datetime.fromtimestamp((key.int >> 80) / 1000, UTC) if key.version == 7 else None


def _task_of(path: str) -> Any:
    try:
        found = import_string(path)
    except ImportError:
        return None
    return found if isinstance(found, Task) else None


# -- in a worker

_registered: set[str] = set()


def _register(path: str, function: Callable[..., Any]) -> None:
    """Make a task of a function, once, in every app there is and will be."""
    if path not in _registered:
        _registered.add(path)
        shared_task(name=path, bind=True, typing=False)(_acall if iscoroutinefunction(function) else _call)


def _call(self: Any, *args: Any, **kwargs: Any) -> Any:
    result, call = _begun(self, args, kwargs)
    try:
        value = normalize_json(call(*args, **kwargs))
    except Exception as error:
        _ended(result, TaskResultStatus.FAILED, error=error)
        raise
    return _ended(result, TaskResultStatus.SUCCESSFUL, value)


async def _acall(self: Any, *args: Any, **kwargs: Any) -> Any:
    result, call = _begun(self, args, kwargs)
    try:
        value = normalize_json(await call(*args, **kwargs))
    except Exception as error:
        _ended(result, TaskResultStatus.FAILED, error=error)
        raise
    return _ended(result, TaskResultStatus.SUCCESSFUL, value)


def _begun(self: Any, args: Any, kwargs: Any) -> tuple[Any, Callable[..., Any]]:
    """Say that a call begins; gives its result so far, and the function with its context."""
    request, task = self.request, import_string(self.name)
    now = datetime.now(UTC)
    result = TaskResult(
        task=task,
        id=request.id,
        status=TaskResultStatus.RUNNING,
        enqueued_at=_made_at(request.id),
        started_at=now,
        last_attempted_at=now,
        finished_at=None,
        args=args,
        kwargs=kwargs,
        backend=task.backend,
        errors=[],
        worker_ids=[request.hostname or "eager"] * (request.retries + 1),
    )
    task_started.send(type(task.get_backend()), task_result=result)
    if not task.takes_context:
        return result, task.func
    context = TaskContext(task_result=result)
    return result, lambda *args, **kwargs: task.func(context, *args, **kwargs)


def _ended(result: Any, status: Any, value: Any = None, error: BaseException | None = None) -> Any:
    object.__setattr__(result, "finished_at", datetime.now(UTC))
    object.__setattr__(result, "status", status)
    object.__setattr__(result, "_return_value", value)
    if error is not None:
        result.errors.append(_error(error, None))
    task_finished.send(type(result.task.get_backend()), task_result=result)
    return value
