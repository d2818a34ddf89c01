"""pgtasks in a Django project.

    proj/celery.py      app = Celery("proj"); app.config_from_object("django.conf:settings", namespace="CELERY")
    INSTALLED_APPS      "pgtasks.contrib.django": the admin's pages, `manage.py pgtasks`, checks
    TASKS               "pgtasks.contrib.django.backend.PgTasksBackend": Django's own tasks framework

An app that is made while DJANGO_SETTINGS_MODULE is set becomes a Django app by itself, by `fixup`: nothing has to be
installed for that. This module imports nothing of Django, since every app looks in here.
"""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from typing import Any

from pgtasks.exceptions import FixupWarning, ImproperlyConfigured

__all__ = ("DjangoFixup", "DjangoWorkerFixup", "fixup")

_OLDEST = (4, 2)

#: What Celery has in `celery.fixups.django`, and where it is here.
_HOME_OF = {
    "DjangoFixup": "pgtasks.contrib.django.integration",
    "DjangoWorkerFixup": "pgtasks.contrib.django.connections",
}


def fixup(app: Any, env: str = "DJANGO_SETTINGS_MODULE") -> Any:
    """Make a Django app of an app if the environment names a settings module; gives the fixup, or None."""
    if not os.environ.get(env) or "django" in str(app.loader_cls).lower():
        return None
    if find_spec("django") is None:
        warnings.warn(
            FixupWarning(
                f"{env} is set to {os.environ[env]!r} but Django is not installed here, so the app {app.main!r} knows"
                " nothing of it. Install Django, or unset the variable."
            ),
            stacklevel=2,
        )
        return None
    # Here, for it is only there with Django, and this function runs for every app.
    import django

    # For the same reason.
    from pgtasks.contrib.django.integration import DjangoFixup

    if django.VERSION[:2] < _OLDEST:
        raise ImproperlyConfigured(
            f"pgtasks needs Django 4.2, the first that speaks psycopg 3, and this is {django.get_version()}: upgrade it."
        )
    return DjangoFixup(app).install()


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Here, since both import Django.
    from importlib import import_module

    return getattr(import_module(_HOME_OF[name]), name)
