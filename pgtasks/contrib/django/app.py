"""The app of a Django project: the one that the project has made, or one that is made from its settings."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.conf import settings

from pgtasks import _state
from pgtasks.app.base import Celery

__all__ = ("project_app",)

#: In which namespaces a project that has made no app may keep its settings, in the order in which they are looked at.
NAMESPACES = ("PGTASKS", "CELERY")


def project_app() -> Any:
    """The project's app.

    It is the one that `proj/__init__.py` imports from `proj/celery.py`, as Celery's guide has it. A project without one gets
    an app of its own: configured from its settings (PGTASKS_TASK_ROUTES, ... or CELERY_...), tasks from the `tasks` modules of
    the installed apps.
    """
    made = _state.default_app
    return made if made is not None else _made_from_settings()


@cache
def _made_from_settings() -> Any:
    name = (settings.SETTINGS_MODULE or "django").partition(".")[0]
    app = Celery(name, set_as_current=True)
    app.config_from_object("django.conf:settings", namespace=_namespace())
    app.autodiscover_tasks()
    return app


def _namespace() -> str:
    names = [name for name in dir(settings) if name.isupper()]
    for namespace in NAMESPACES:
        if any(name.startswith(f"{namespace}_") for name in names):
            return namespace
    return NAMESPACES[0]
