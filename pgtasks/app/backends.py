"""Resolve the names and URLs of result backends: only Postgres is supported, every other kind is refused."""

from __future__ import annotations

from typing import Any

from pgtasks.app.backend import Backend
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.store.url import as_conninfo
from pgtasks.utils.imports import symbol_by_name

__all__ = ("by_name", "by_url")

#: Names that Celery has for keeping results where the tasks are, in memory, or nowhere.
_OURS = {"", "cache", "cache+memory", "database", "db", "disabled", "memory", "postgres", "postgresql", "rpc"}


def by_name(backend: Any = None, loader: Any = None, extension_namespace: str = "celery.result_backends") -> type[Backend]:
    """Return the class of a backend given by name, by path or as a class."""
    if isinstance(backend, str) and (backend in _OURS or as_conninfo(f"{backend}://")):
        return Backend
    if isinstance(backend, str) and not {".", ":"}.intersection(backend):
        raise ImproperlyConfigured(
            f"Unknown result backend: {backend!r}. Results are in Postgres, beside the tasks: leave result_backend out, or"
            " set PGTASKS_DATABASE_URL, which wins over it."
        )
    cls: type[Backend] = symbol_by_name(backend) if backend else Backend
    return cls


def by_url(backend: Any = None, loader: Any = None) -> tuple[type[Backend], str | None]:
    """Return the class for a URL or a name, and the URL, None for a name."""
    if isinstance(backend, str) and "://" in backend:
        return by_name(backend.partition("://")[0], loader), backend
    return by_name(backend, loader), None
