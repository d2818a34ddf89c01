"""What INSTALLED_APPS names: the admin's pages, `manage.py pgtasks`, checks, and the schema with `manage.py migrate`."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db import connections
from django.db.models.signals import post_migrate

from pgtasks.contrib.django.app import project_app
from pgtasks.contrib.django.checks import check_settings
from pgtasks.contrib.django.place import url_of

__all__ = ("PgTasksConfig",)


class PgTasksConfig(AppConfig):
    """The pages of tasks, queues, workers, schedules and steps."""

    name = "pgtasks.contrib.django"
    label = "pgtasks"
    verbose_name = "pgtasks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # A project that has made no app gets one here, before anything calls a task.
        project_app()
        checks.register(check_settings)
        post_migrate.connect(install_schema, sender=self)


def install_schema(using: str = "default", **kwargs: Any) -> None:
    """Bring the schema up to date with the rest of a database that has the tasks."""
    app, url = project_app(), url_of(connections[using])
    # Without one it is not asked where the tasks are: that may start the private server.
    if url is not None and url == app.database.url:
        app.database.ping()
