"""Django's tasks framework, wherever it is: in Django since 6.0, in the package `django-tasks` before that."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from pgtasks.exceptions import ImproperlyConfigured

__all__ = (
    "DEFAULT_QUEUE", "BaseTaskBackend", "Task", "TaskContext", "TaskError", "TaskResult", "TaskResultDoesNotExist",
    "TaskResultStatus", "normalize_json", "task_enqueued", "task_finished", "task_started",
)  # fmt: skip


def _package() -> str:
    for name in ("django.tasks", "django_tasks"):
        if find_spec(name) is not None:
            return name
    raise ImproperlyConfigured(
        "The setting TASKS asks for pgtasks, but this Django has no tasks framework: it came with Django 6.0. Upgrade"
        " Django, or `pip install django-tasks`."
    )


_name = _package()


def _get(module: str, name: str) -> Any:
    return getattr(import_module(f"{_name}.{module}"), name)


BaseTaskBackend = _get("backends.base", "BaseTaskBackend")
DEFAULT_QUEUE = _get("base", "DEFAULT_TASK_QUEUE_NAME")
Task = _get("base", "Task")
TaskContext = _get("base", "TaskContext")
TaskError = _get("base", "TaskError")
TaskResult = _get("base", "TaskResult")
TaskResultStatus = _get("base", "TaskResultStatus")
TaskResultDoesNotExist = _get("exceptions", "TaskResultDoesNotExist")
task_enqueued = _get("signals", "task_enqueued")
task_started = _get("signals", "task_started")
task_finished = _get("signals", "task_finished")
normalize_json = (
    import_module("django.utils.json").normalize_json if _name == "django.tasks" else _get("utils", "normalize_json")
)
