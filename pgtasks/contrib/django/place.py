"""Where Django's databases are, and which of them is the one that has the tasks."""

from __future__ import annotations

from functools import cache
from typing import Any

import psycopg
from django.db.utils import DEFAULT_DB_ALIAS as DEFAULT

from pgtasks.store import borrow, health

__all__ = ("DEFAULT", "NO_DATABASE", "Places", "is_usable", "url_of")

#: The alias of the connections by which Django creates and drops databases.
NO_DATABASE = "__no_db__"

_PARTS = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}


@cache
def _libpq_options() -> frozenset[str]:
    return frozenset(option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults())


def url_of(connection: Any) -> str | None:
    """A Django connection's database as libpq understands it; None for another engine than Postgres.

    Of its OPTIONS those count that are libpq's (sslmode, service, options, ...); the others are about Django's connections.
    """
    if connection.vendor != "postgresql":
        return None
    settings = connection.settings_dict
    given = {name: str(settings[key]) for key, name in _PARTS.items() if settings.get(key)}
    options = {key: value for key, value in settings.get("OPTIONS", {}).items() if key in _libpq_options()}
    return psycopg.conninfo.make_conninfo("", **{**options, **given}) or None


def is_usable(connection: Any) -> bool:
    """Can pgtasks write through it? That takes Postgres and psycopg 3."""
    return connection.vendor == "postgresql" and connection.Database is psycopg


class Places:
    """Tells, and remembers, which of Django's connections lead to the database of an app's tasks."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._known: dict[tuple[str, str | None], bool] = {}

    def is_ours(self, connection: Any) -> bool:
        """Does this connection lead to the database of the tasks? The first time both are asked where they are.

        It makes sure as well that the schema is there, which the transaction of somebody else could not.
        """
        url = url_of(connection)
        database = self._app.database
        key = (database.url, url)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = is_usable(connection) and _lead_to_one_place(database, connection)
        return known


def _lead_to_one_place(database: Any, connection: Any) -> bool:
    place = database.run(health.place())
    return url_of(connection) == database.url or bool(borrow.run(connection, health.place()) == place)
