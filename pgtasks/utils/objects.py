"""Objects that save a class or a `with`, by Celery's names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import reduce
from typing import Any

__all__ = ("Bunch", "FallbackContext", "getitem_property", "mro_lookup")


class Bunch:
    """An object whose attributes are the keywords it is made with."""

    def __init__(self, **kwargs: Any) -> None:
        self.__dict__.update(kwargs)


class FallbackContext:
    """A `with` block around what is there already, or else around what `fallback` opens and then closes."""

    def __init__(self, provided: Any, fallback: Callable[..., Any], *fb_args: Any, **fb_kwargs: Any) -> None:
        self.provided = provided
        self.fallback = fallback
        self.fb_args, self.fb_kwargs = fb_args, fb_kwargs
        self._opened: Any = None

    def __enter__(self) -> Any:
        if self.provided is not None:
            return self.provided
        opened = self.fallback(*self.fb_args, **self.fb_kwargs)
        value = opened.__enter__()
        self._opened = opened
        return value

    def __exit__(self, *exc_info: Any) -> Any:
        return None if self._opened is None else self._opened.__exit__(*exc_info)


class getitem_property:
    """An attribute that is an item of the object, or of a mapping in it: `city = getitem_property("address.city")`.

    It is None without the last key; the keys before it must be there.
    """

    def __init__(self, keypath: str, doc: str | None = None) -> None:
        *self.path, self.key = keypath.split(".")
        self.__doc__ = doc

    def _holder(self, obj: Any) -> Any:
        return reduce(lambda holder, key: holder[key], self.path, obj)

    def __get__(self, obj: Any, type: type | None = None) -> Any:
        return type if obj is None else self._holder(obj).get(self.key)

    def __set__(self, obj: Any, value: Any) -> None:
        self._holder(obj)[self.key] = value


def mro_lookup(
    cls: type, attr: str, stop: Collection[type] | None = None, monkey_patched: Sequence[str] | None = None
) -> type | None:
    """Return the class, in the order of resolution, that defines `attr`, or None.

    A class in `stop` ends the search, and counts only when the attribute was put there by another module than those of
    `monkey_patched`.
    """
    for node in cls.mro():
        if node in (stop or ()):
            origin = getattr(node.__dict__.get(attr), "__module__", None)
            return node if origin is not None and origin not in (monkey_patched or ()) else None
        if attr in node.__dict__:
            return node
    return None
