"""The tasks an app knows, by name."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pgtasks._state import get_current_app
from pgtasks.app.autoretry import add_autoretry_behaviour
from pgtasks.exceptions import InvalidTaskError, NotRegistered

if TYPE_CHECKING:
    from pgtasks.app.task import Task

__all__ = ("TaskRegistry",)

Tasks = dict[str, "Task[..., Any]"]


class TaskRegistry(Tasks):
    """Task name to task; looking up an unknown name raises `NotRegistered`, which is a `KeyError`."""

    NotRegistered = NotRegistered

    def __missing__(self, name: str) -> Any:
        raise self.NotRegistered(name)

    def register(self, task: Any) -> None:
        """Register a task, or a task class, which is then instantiated. It must have a name."""
        if task.name is None:
            raise InvalidTaskError(
                f"Task class {type(task).__name__!r} must specify .name attribute: set name= on it, "
                "or use app.register_task(), which makes one up."
            )
        task = task() if inspect.isclass(task) else task
        add_autoretry_behaviour(task)
        self[task.name] = task

    def unregister(self, name: Any) -> None:
        """Forget a task, given by its name or itself."""
        try:
            self.pop(getattr(name, "name", name))
        except KeyError:
            raise self.NotRegistered(name) from None

    def regular(self) -> Tasks:
        return self.filter_types("regular")

    def periodic(self) -> Tasks:
        return self.filter_types("periodic")

    def filter_types(self, type: str) -> Tasks:
        return {name: task for name, task in self.items() if getattr(task, "type", "regular") == type}


def _unpickle_task(name: str) -> Any:
    return get_current_app().tasks[name]


def _unpickle_task_v2(name: str, module: str | None = None) -> Any:
    """Find a pickled task again in the current app, importing the module that declares it if need be."""
    if module:
        import_module(module)
    return get_current_app().tasks[name]
