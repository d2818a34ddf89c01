"""The application and its parts. Names are imported when first used: lower floors import modules of this
package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgtasks._state import (
        app_or_default,
        disable_trace,
        enable_trace,
        pop_current_task,
        push_current_task,
    )
    from pgtasks.app.base import Celery
    from pgtasks.app.pickling import AppPickler
    from pgtasks.app.sharing import bugreport, default_app, shared_task

__all__ = (
    "AppPickler",
    "Celery",
    "app_or_default",
    "bugreport",
    "default_app",
    "disable_trace",
    "enable_trace",
    "pop_current_task",
    "push_current_task",
    "shared_task",
)

_HOMES = {
    "pgtasks._state": (
        *("app_or_default", "disable_trace", "enable_trace"),
        *("pop_current_task", "push_current_task"),
    ),
    "pgtasks.app.base": ("Celery",),
    "pgtasks.app.pickling": ("AppPickler",),
    "pgtasks.app.sharing": ("bugreport", "default_app", "shared_task"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    # A submodule of the same name would be put here by the import system over our answer.
    globals()[name] = value
    return value
