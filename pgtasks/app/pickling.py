"""Pickled apps: an app travels as the arguments that make another like it.

A process that is spawned gets its app this way. What was configured by code after the app was made does not
travel, changes to `app.conf` do.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from pgtasks import _state
from pgtasks.utils.imports import symbol_by_name

__all__ = ("AppPickler", "reduce_app", "subclass_with_app")


def reduce_app(app: Any) -> Any:
    """What `pickle` needs of an app: its class and `__reduce_keys__`, or the older `__reduce_args__` of a
    subclass.
    """
    if app._using_v1_reduce:
        return _unpickle_app, (type(app), app.Pickler, *app.__reduce_args__())
    return _unpickle_app_v2, (type(app), app.__reduce_keys__())


class AppPickler:
    """Makes an app from the positional arguments of `__reduce_args__`."""

    _NAMES = (
        *("main", "changes", "loader", "backend", "amqp", "events", "log", "control"),
        *("accept_magic_kwargs", "config_source", "config_source_silent"),
    )

    def __call__(self, cls: Any, *args: Any) -> Any:
        kwargs = self.build_kwargs(*args)
        app = self.construct(cls, **kwargs)
        self.prepare(app, **kwargs)
        return app

    def build_kwargs(self, *args: Any) -> dict[str, Any]:
        kwargs = dict(zip(self._NAMES, args, strict=False))
        kwargs.pop("accept_magic_kwargs", None)
        return {**kwargs, "set_as_current": False}

    def construct(self, cls: Any, **kwargs: Any) -> Any:
        return cls(**kwargs)

    def prepare(self, app: Any, **kwargs: Any) -> None:
        app.conf.update(kwargs["changes"])


def _unpickle_app(cls: Any, pickler: Any, *args: Any) -> Any:
    return pickler()(cls, *args)


def _unpickle_app_v2(cls: Any, kwargs: dict[str, Any]) -> Any:
    return cls(**{**kwargs, "set_as_current": False})


def _unpickle_appattr(path: str, args: Any) -> Any:
    """Make an object of a class that belongs to an app, from the current app."""
    return attrgetter(path)(_state.get_current_app())(*args)


def subclass_with_app(
    app: Any,
    cls: Any,
    name: str | None = None,
    attribute: str = "app",
    reverse: str | None = None,
    keep_reduce: bool = False,
    **attributes: Any,
) -> Any:
    """Subclass `cls`, or the class of that dotted name, so that `attribute` is the app.

    Instances are pickled as `reverse`, a path from the app such as 'AsyncResult', and the result of their
    `__reduce_args__`; with `keep_reduce` in the class's own way.
    """
    cls = symbol_by_name(cls)
    path = reverse or cls.__name__

    def __reduce__(self: Any) -> Any:
        return _unpickle_appattr, (path, self.__reduce_args__())

    attributes = {attribute: app, "__module__": cls.__module__, "__doc__": cls.__doc__, **attributes}
    if not keep_reduce:
        attributes["__reduce__"] = __reduce__
    return type(name or cls.__name__, (cls,), attributes)
