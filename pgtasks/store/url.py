"""Which database to use, as a project's settings and the environment say it.

    PGTASKS_DATABASE_URL    always wins, so that a project's redis:// settings need not be edited
    broker_url, then        where they name Postgres; memory:// and cache+memory:// mean a throw-away database
      result_backend
    (an integration)        the database of a Django project, if that is Postgres
    DATABASE_URL            what hosting platforms set
    (nothing)               a private server, started when needed

Any other broker or result backend is refused: silently queueing somewhere else would lose tasks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import cache

from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.store import embedded
from pgtasks.utils.text import mask_url

#: `db+`, `sqla+` and `sqlalchemy+` are Celery's and kombu's ways to say SQLAlchemy, `+psycopg2` is
#: SQLAlchemy's driver.
_POSTGRES = re.compile(r"^(?:(?:db|sqla|sqlalchemy|pgtasks)\+)?postgres(?:ql)?(?:\+\w+)?://", re.IGNORECASE)
_SCHEME = re.compile(r"^([a-z][a-z0-9+.\-]*):(?://|$)", re.IGNORECASE)
_KEYWORDS = re.compile(r"^\s*\w+\s*=")
#: `rpc` and `disabled` name no place: with them results go where the tasks are, or nowhere.
_PLACELESS = {"", "rpc", "disabled", "cache", "memory", "cache+memory"}
THROW_AWAY = "memory://"
_THROW_AWAY = {"memory", "cache+memory"}


def database_url(
    broker_url: object = None,
    result_backend: object = None,
    environ: Mapping[str, str] = os.environ,
    default: Callable[[], str | None] | None = None,
) -> str:
    """Return a libpq URL or keyword string for these settings; may start a private server.

    Raises ImproperlyConfigured for a broker or a result backend that is not Postgres, unless
    PGTASKS_DATABASE_URL is set.
    """
    url = configured_url(broker_url, result_backend, environ, default)
    if url is None:
        return embedded.ensure_running()
    return _throw_away_url() if url == THROW_AWAY else url


def configured_url(
    broker_url: object = None,
    result_backend: object = None,
    environ: Mapping[str, str] = os.environ,
    default: Callable[[], str | None] | None = None,
) -> str | None:
    """Return what the settings say, and start nothing: None means a private server, THROW_AWAY a new one."""
    if url := environ.get("PGTASKS_DATABASE_URL"):
        return as_conninfo(url) or _refuse("PGTASKS_DATABASE_URL", url)
    settings = {"broker_url": _text(broker_url), "result_backend": _text(result_backend)}
    for name, url in settings.items():
        if conninfo := as_conninfo(url):
            return conninfo
        if url and _scheme(url) not in _PLACELESS:
            _refuse(name, url)
    if any(_scheme(url) in _THROW_AWAY for url in settings.values()):
        return THROW_AWAY
    if default is not None and (url := default()):
        return url
    return as_conninfo(environ.get("DATABASE_URL", ""))  # None for one that is not Postgres: not meant for us


def as_conninfo(url: str) -> str | None:
    """Return what libpq understands for a URL that means Postgres in any spelling, and None for others."""
    if _POSTGRES.match(url):
        return _POSTGRES.sub("postgresql://", url)
    return url if _KEYWORDS.match(url) else None


def _text(url: object) -> str:
    """Read a setting; of several brokers, which Celery takes as fallbacks, the first counts."""
    if isinstance(url, (list, tuple)):
        url = url[0] if url else ""
    text = str(url or "")
    return text if _KEYWORDS.match(text) else text.split(";")[0].strip()


def _scheme(url: str) -> str:
    match = _SCHEME.match(url)
    return match[1].lower() if match else url.lower()


def _refuse(name: str, url: str) -> str:
    if name == "PGTASKS_DATABASE_URL":
        raise ImproperlyConfigured(
            f"{name} is {mask_url(url)!r}, which does not name a Postgres. Write it as in "
            "postgresql://user@host/database, or unset it to use what the settings name, or else a private server."
        )
    raise ImproperlyConfigured(
        f"{name} is {mask_url(url)!r}, but pgtasks keeps tasks and results in Postgres only. Set the "
        "environment variable PGTASKS_DATABASE_URL to a Postgres, as in postgresql://user@host/database: "
        f"it wins over the setting, which can stay. Or change {name}, or remove it to use a private server."
    )


@cache
def _throw_away_url() -> str:
    """One database for the process, however many apps ask for memory://."""
    return embedded.ensure_running(ephemeral=True)
