"""Apps for tests: a throw-away database, quiet logging, and nothing left behind in the process."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from pgtasks import _state
from pgtasks.app.base import Celery
from pgtasks.app.log import Logging
from pgtasks.contrib.testing import tasks as tasks  # every app that is finalized from here on can be pinged

__all__ = ("DEFAULT_TEST_CONFIG", "TestApp", "Trap", "UnitLogging", "set_trap", "setup_default_app")

#: The settings of a test app. `memory://` is a database that ends with the process; PGTASKS_DATABASE_URL wins over it.
DEFAULT_TEST_CONFIG: dict[str, Any] = {
    "worker_hijack_root_logger": False,
    "worker_log_color": False,
    "accept_content": {"json"},
    "enable_utc": True,
    "timezone": "UTC",
    "broker_url": "memory://",
    "result_backend": "cache+memory://",
    "broker_heartbeat": 0,
}


class Trap:
    """Stands in for the current app, and raises for whoever uses it instead of the app it was given."""

    def __getattr__(self, name: str) -> Any:
        if name in ("_is_coroutine", "__func__"):
            # What unittest.mock asks of everything it looks at.
            return None
        raise RuntimeError(f"Test depends on current_app: it asked for current_app.{name}")


class UnitLogging(Logging):
    """Leaves the logging of the test process alone."""

    @property
    def already_setup(self) -> bool:
        return True

    @already_setup.setter
    def already_setup(self, was_setup: bool) -> None:
        """Nothing is ever set up."""


def TestApp(
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    enable_logging: bool = False,
    set_as_current: bool = False,
    log: Any = UnitLogging,
    backend: str | None = None,
    broker: str | None = None,
    **kwargs: Any,
) -> Celery:
    """Make an app for tests: `config` on top of `DEFAULT_TEST_CONFIG`, further arguments as for `Celery`."""
    settings = {**deepcopy(DEFAULT_TEST_CONFIG), **(config or {})}
    for given, setting in ((broker, "broker_url"), (backend, "result_backend")):
        if given is not None:
            settings.pop(setting, None)
    app = Celery(
        name or "celery.tests",
        set_as_current=set_as_current,
        log=None if enable_logging else log,
        broker=broker,
        backend=backend,
        **kwargs,
    )
    app.add_defaults(settings)
    return app


TestApp.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


@contextmanager
def set_trap(app: Any) -> Iterator[None]:
    """Make every use of the current or the default app raise."""
    trap = Trap()
    before = _state._tls

    class Trapped:
        current_app = trap

    _state.set_default_app(trap)
    _state._tls = Trapped()  # type: ignore[assignment]
    try:
        yield
    finally:
        _state._tls = before


@contextmanager
def setup_default_app(app: Any, use_trap: bool = False) -> Iterator[None]:
    """Put back, at the end, which apps there are, which is current, and what new apps are given; close `app`."""
    current, default = _state.get_current_app(), _state.default_app
    finalizers, apps = dict(_state._on_app_finalizers), weakref.WeakSet(_state._apps)
    try:
        if use_trap:
            with set_trap(app):
                yield
        else:
            yield
    finally:
        _state.set_default_app(default)
        _state._set_current_app(current)
        if app is not current:
            app.close()
        _state._on_app_finalizers = finalizers
        _state._apps = apps
