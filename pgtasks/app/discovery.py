"""Find the app that `-A` names, by Celery's rules (user guide, "Application")."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from pgtasks.app.base import Celery
from pgtasks.utils.imports import import_from_cwd, symbol_by_name

_ATTRIBUTES = ("app", "celery")


def find_app(
    app: str, symbol_by_name: Callable[..., Any] = symbol_by_name, imp: Callable[..., Any] = import_from_cwd
) -> Any:
    """Import and return the app that a name such as `proj.celery:app` refers to.

    `proj.celery:app` and `proj.celery.app` name an object. A module stands for its attribute `app`, or
    `celery`, or, if it is a package, for what its submodule `celery` stands for, or else for the first app in
    it. Raises ImportError, or AttributeError when there is no app in it.
    """
    try:
        found = symbol_by_name(app, imp=imp)
    except AttributeError:
        if ":" in app:
            raise
        found = imp(app)  # the last part is a module that the one before it has not imported
    if not isinstance(found, ModuleType) or ":" in app:
        return found
    for name in _ATTRIBUTES:
        candidate = getattr(found, name, None)
        if candidate is not None and not isinstance(candidate, ModuleType):
            return candidate
    if hasattr(found, "__path__"):
        try:
            return find_app(f"{app}.celery", symbol_by_name=symbol_by_name, imp=imp)
        except ModuleNotFoundError as exc:
            if exc.name != f"{app}.celery":
                raise  # the submodule is there, and failed to import something
    for candidate in vars(found).values():
        if isinstance(candidate, Celery):
            return candidate
    raise AttributeError(f"module {found.__name__!r} has no attribute 'celery'")
