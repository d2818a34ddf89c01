"""Mappings with a twist, by Celery's names.

`ConfigurationView` is the base of an app's settings: several mappings seen as one, changes going to the
first, where a key is found under its own name, with the namespace's prefix, or under its name in the other
style.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from types import ModuleType
from typing import Any

from pgtasks.utils.text import match_case

__all__ = (
    "AttributeDict",
    "AttributeDictMixin",
    "ChainMap",
    "ConfigurationView",
    "DictAttribute",
    "LimitedSet",
    "OrderedDict",
    "force_mapping",
    "lpmerge",
)

KeyConversion = Callable[[str], str]


def force_mapping(m: Any) -> Any:
    """Return `m` if it is a mapping, else its attributes seen as one.

    Django's settings stay the lazy object they are, so `override_settings` reaches the app.
    """
    return m if isinstance(m, Mapping) else DictAttribute(m)


def lpmerge(L: MutableMapping[Any, Any], R: Mapping[Any, Any]) -> MutableMapping[Any, Any]:
    """Update `L` in place by the values of `R` that are not None."""
    L.update((key, value) for key, value in R.items() if value is not None)
    return L


class AttributeDictMixin:
    """Gives a mapping attributes for its items."""

    def __getattr__(self, k: str) -> Any:
        try:
            return self[k]  # type: ignore[index]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {k!r}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value


class AttributeDict(dict[str, Any], AttributeDictMixin):
    """A dict whose items are attributes too."""


class DictAttribute:
    """Any object seen as a mapping of its attributes: a configuration module, for one."""

    obj: Any = None

    def __init__(self, obj: Any) -> None:
        object.__setattr__(self, "obj", obj)
        if type(obj) is ModuleType and "__getattr__" not in vars(obj):
            # An attribute that a module lacks costs an exception with a message, and most settings are absent.
            object.__setattr__(self, "get", vars(obj).get)

    def __getattr__(self, key: str) -> Any:
        return getattr(self.obj, key)

    def __setattr__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self.obj, key)
        except AttributeError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __contains__(self, key: str) -> bool:
        return hasattr(self.obj, key)

    def __iter__(self) -> Iterator[str]:
        return iter(dir(self.obj))

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self.obj, key, default)

    def setdefault(self, key: str, default: Any = None) -> None:
        if key not in self:
            self[key] = default

    def keys(self) -> Iterator[str]:
        return iter(self)

    def values(self) -> Iterator[Any]:
        return (getattr(self.obj, key) for key in self)

    def items(self) -> Iterator[tuple[str, Any]]:
        return ((key, getattr(self.obj, key)) for key in self)


MutableMapping.register(DictAttribute)


class ChainMap(MutableMapping[Any, Any]):
    """Several mappings seen as one, the first one that has a key winning; writes go to the first.

    Unlike `collections.ChainMap`, `add_defaults` puts mappings right behind the first one, and `bind_to`
    registers observers of `update`.
    """

    changes: MutableMapping[Any, Any]
    defaults: list[Any]
    maps: list[Any]

    def __init__(self, *maps: Any, key_t: KeyConversion | None = None) -> None:
        chain = list(maps or [{}])
        self.__dict__.update(key_t=key_t, maps=chain, changes=chain[0], defaults=chain[1:], _observers=[])

    def add_defaults(self, d: Any) -> None:
        """Add a mapping, or an object's attributes, that wins over the defaults so far."""
        mapping = force_mapping(d)
        self.defaults.insert(0, mapping)
        self.maps.insert(1, mapping)

    def _key(self, key: Any) -> Any:
        convert: KeyConversion | None = self.__dict__["key_t"]
        return convert(key) if convert else key

    def __missing__(self, key: Any) -> Any:
        raise KeyError(key)

    def __getitem__(self, key: Any) -> Any:
        key = self._key(key)
        for mapping in self.maps:
            try:
                return mapping[key]
            except KeyError:
                pass
        return self.__missing__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.changes[self._key(key)] = value

    def __delitem__(self, key: Any) -> None:
        try:
            del self.changes[self._key(key)]
        except KeyError:
            raise KeyError(f"Key not found in first mapping: {key!r}") from None

    def __contains__(self, key: Any) -> bool:
        key = self._key(key)
        return any(key in mapping for mapping in self.maps)

    def __iter__(self) -> Iterator[Any]:
        return iter(dict.fromkeys(key for mapping in reversed(self.maps) for key in mapping.keys()))  # noqa: SIM118

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __bool__(self) -> bool:
        return any(self.maps)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.maps))})"

    def get(self, key: Any, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def setdefault(self, key: Any, default: Any = None) -> None:
        """Set what is not set. Returns nothing: a configuration that is not read yet stays so."""
        if key not in self:
            self[key] = default

    def pop(self, key: Any, *default: Any) -> Any:
        try:
            return self.changes.pop(self._key(key), *default)
        except KeyError:
            raise KeyError(f"Key not found in the first mapping: {key!r}") from None

    def clear(self) -> None:
        """Remove all changes; the defaults stay."""
        self.changes.clear()

    def update(self, *args: Any, **kwargs: Any) -> None:
        given = (dict(*args),) if args else ()
        self.changes.update(*given, **kwargs)
        for callback in self.__dict__["_observers"]:
            callback(*given, **kwargs)

    def bind_to(self, callback: Callable[..., Any]) -> None:
        """Call `callback` with what every `update` gets."""
        self.__dict__["_observers"].append(callback)

    @classmethod
    def fromkeys(cls, iterable: Iterable[Any], *args: Any) -> "ChainMap":
        return cls(dict.fromkeys(iterable, *args))

    def copy(self) -> "ChainMap":
        """Copy the changes, share the defaults."""
        return type(self)(self.changes.copy(), *self.maps[1:])  # type: ignore[attr-defined]

    def __copy__(self) -> "ChainMap":
        return self.copy()


_ABSENT: Any = object()


class ConfigurationView(ChainMap, AttributeDictMixin):
    """Configuration: `changes` over `defaults`, with items as attributes.

    `keys` are conversions between the names of the new and the old style, `prefix` is the namespace.
    """

    def __init__(
        self,
        changes: Any,
        defaults: Sequence[Any] | None = None,
        keys: Sequence[KeyConversion] | None = None,
        prefix: str | None = None,
    ) -> None:
        super().__init__(changes, *(defaults or ()))
        self.__dict__.update(prefix=prefix.rstrip("_") + "_" if prefix else prefix, _keys=keys, _names={})

    def _to_keys(self, key: str) -> tuple[str, ...]:
        """Return the names a setting may be found under."""
        names: tuple[str, ...] | None = self.__dict__["_names"].get(key)
        if names is None:
            names = self.__dict__["_names"][key] = tuple(dict.fromkeys(map(self._key, self._spellings(key))))
        return names

    def _spellings(self, key: str) -> Iterator[str]:
        prefix: str | None = self.__dict__["prefix"]
        if prefix:
            yield match_case(key if key.startswith(prefix) else prefix + key, prefix)
        yield key
        for convert in self.__dict__["_keys"] or ():
            yield convert(key)

    def __getitem__(self, key: str) -> Any:
        # Every call of a task looks up half a dozen settings, each here.
        names = self.__dict__["_names"].get(key) or self._to_keys(key)
        for mapping in self.maps:
            if type(mapping) is dict:  # as most are
                for name in names:
                    if name in mapping:
                        return mapping[name]
                continue
            if type(mapping) is DictAttribute:  # its `get` costs a tenth of an exception
                for name in names:
                    value = mapping.get(name, _ABSENT)
                    if value is not _ABSENT:
                        return value
                continue
            for name in names:
                try:
                    return mapping[name]
                except KeyError:
                    pass
        try:
            return self.__missing__(key)  # for subclasses that have one
        except KeyError:
            if self.__dict__["prefix"]:
                raise KeyError(f"Key not found: {key!r} (with prefix: {names[0]!r})") from None
            raise

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and any(name in mapping for name in self._to_keys(key) for mapping in self.maps)

    def first(self, *keys: str) -> Any:
        """Return the first value that is not None."""
        return next((value for value in map(self.get, keys) if value is not None), None)

    def swap_with(self, other: "ConfigurationView") -> None:
        """Become the other view, in place: somebody may hold a reference to this one."""
        inherited = {name: other.__dict__[name] for name in ("changes", "defaults", "key_t", "prefix", "_keys")}
        self.__dict__.update(inherited, maps=[inherited["changes"], *inherited["defaults"]], _names={})

    def copy(self) -> "ConfigurationView":
        copied = type(self)(
            self.changes.copy(),  # type: ignore[attr-defined]
            self.defaults,
            self.__dict__["_keys"],
            self.__dict__["prefix"],
        )
        copied.__dict__["key_t"] = self.__dict__["key_t"]
        return copied


class LimitedSet:
    """A set that forgets its oldest items: beyond `maxlen` of them, and `expires` seconds after they were added.

    `minlen` items outlive their time. Zero is no limit. Items are stamped by the monotonic clock, which differs between
    machines: another machine's set is merged by its items, not by `as_dict()`.
    """

    def __init__(self, maxlen: int | None = 0, expires: float | None = 0, data: Any = None, minlen: int | None = 0):
        self.maxlen, self.minlen, self.expires = maxlen or 0, minlen or 0, expires or 0
        #: When each item was added, the oldest first.
        self._data: dict[Any, float] = {}
        if not self.maxlen >= self.minlen >= 0:
            raise ValueError(f"minlen is {self.minlen}, maxlen {self.maxlen}: minlen must be positive and not above it.")
        if self.expires < 0:
            raise ValueError(f"expires is {self.expires}: it cannot be negative.")
        if data:
            self.update(data)

    def add(self, item: Any, now: float | None = None) -> None:
        """Add an item, or start its time anew."""
        added_at = time.monotonic() if now is None else float(now)
        self._data.pop(item, None)
        is_late = bool(self._data) and added_at < next(reversed(self._data.values()))
        self._data[item] = added_at
        if is_late:
            self._data = dict(sorted(self._data.items(), key=lambda entry: entry[1]))
        if self.maxlen and len(self._data) >= self.maxlen:
            self.purge()

    def update(self, other: Any) -> None:
        """Add the items of another set or a mapping with their times, or those of any iterable as of now."""
        stamped = other.as_dict() if isinstance(other, LimitedSet) else other
        for item in stamped or ():
            self.add(item, stamped[item] if isinstance(stamped, dict) else None)
        self.purge()

    def discard(self, item: Any) -> None:
        self._data.pop(item, None)

    pop_value = discard

    def pop(self, default: Any = None) -> Any:
        """Remove the oldest item and return it."""
        item = next(iter(self._data), default)
        self._data.pop(item, None)
        return item

    def purge(self, now: Any = None) -> None:
        """Forget what is over a limit, at the time `now`, a number or a function that gives one."""
        moment = now() if callable(now) else time.monotonic() if now is None else now
        while self.maxlen and len(self._data) > self.maxlen:
            self.pop()
        while self.expires and len(self._data) > self.minlen and self._oldest() + self.expires <= moment:
            self.pop()

    def _oldest(self) -> float:
        return next(iter(self._data.values()))

    def clear(self) -> None:
        self._data.clear()

    def as_dict(self) -> dict[Any, float]:
        return dict(self._data)

    def __contains__(self, item: object) -> bool:
        return item in self._data

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._data))

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        return self._data == other._data if isinstance(other, LimitedSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __reduce__(self) -> Any:
        return type(self), (self.maxlen, self.expires, self.as_dict(), self.minlen)

    def __repr__(self) -> str:
        limits = f"maxlen={self.maxlen}, expires={self.expires}, minlen={self.minlen}"
        return f"<{type(self).__name__}({len(self)}): {limits}>"
