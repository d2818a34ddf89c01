"""What `manage.py check` says about pgtasks."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error, Warning
from django.db import connections

from pgtasks.contrib.django.app import project_app
from pgtasks.contrib.django.place import is_usable

__all__ = ("check_settings",)


def check_settings(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Can calls become part of Django's transactions, as task_join_transaction says?"""
    joins = project_app().conf.task_join_transaction
    if not joins:
        return []
    if isinstance(joins, str) and joins not in connections:
        return [
            Error(
                f"task_join_transaction names the database {joins!r}, which is not in DATABASES.",
                hint=f"Name one of {', '.join(connections)}, or set it to True or False.",
                id="pgtasks.E001",
            )
        ]
    alias = joins if isinstance(joins, str) else "default"
    connection = connections[alias]
    if is_usable(connection):
        return []
    if connection.vendor == "postgresql":
        what, hint = "speaks psycopg2", "Install psycopg 3 (`pip install psycopg`), which Django prefers."
    elif isinstance(joins, str):
        what, hint = f"is {connection.display_name}", "Only a Postgres can have the tasks of pgtasks: name another one."
    else:
        return []  # tasks are in a Postgres of their own, and calls are made at once, as with any broker
    return [
        Warning(
            f"The database {alias!r} {what}, so calls within atomic() are not part of its transactions.",
            hint=hint,
            id="pgtasks.W001",
        )
    ]
