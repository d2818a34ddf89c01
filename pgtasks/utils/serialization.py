"""Exceptions and values that must survive a trip through a serializer.

An exception that cannot be pickled is replaced by the nearest base class that can, and failing that by an
`UnpickleableExceptionWrapper` that remembers its module, name and arguments. Names and results are those of
`celery.utils.serialization`.
"""

import numbers
import pickle
from base64 import b64decode as _b64decode
from base64 import b64encode as _b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from functools import partial
from typing import Any

from kombu.abstract import Object
from kombu.utils.encoding import bytes_to_str, safe_repr, str_to_bytes

__all__ = (
    "UnpickleableExceptionWrapper",
    "b64decode",
    "b64encode",
    "create_exception_cls",
    "ensure_serializable",
    "find_pickleable_exception",
    "get_pickleable_etype",
    "get_pickleable_exception",
    "get_pickled_exception",
    "jsonify",
    "strtobool",
    "subclass_exception",
)

#: Reducing an exception to one of these would lose all it says.
unwanted_base_classes = (Exception, BaseException, object)

STRTOBOOL_DEFAULT_TABLE = {
    "false": False,
    "no": False,
    "0": False,
    "off": False,
    "true": True,
    "yes": True,
    "1": True,
    "on": True,
}


def subclass_exception(name: str, parent: type[BaseException], module: str) -> type[BaseException]:
    """Create an exception class that says it lives in `module`."""
    return type(name, (parent,), {"__module__": module})


def create_exception_cls(name: str, module: str, parent: type[BaseException] | None = None) -> type[BaseException]:
    """Create a stand-in for an exception class that is not to be found here."""
    return subclass_exception(name, parent or Exception, module)


def itermro(cls: type, stop: Iterable[type]) -> Iterator[type]:
    """Walk the method resolution order up to the first class in `stop`."""
    for base in cls.__mro__:
        if base in stop:
            return
        yield base


def find_pickleable_exception(
    exc: BaseException,
    loads: Callable[[bytes], Any] = pickle.loads,
    dumps: Callable[[Any], bytes] = pickle.dumps,
) -> BaseException | None:
    """Rebuild `exc` as its nearest class, itself included, that survives `loads(dumps(...))`, or None."""
    args = getattr(exc, "args", [])
    for cls in itermro(type(exc), unwanted_base_classes):
        try:
            candidate: BaseException = cls(*args)
            loads(dumps(candidate))
        except Exception:
            continue
        return candidate
    return None


def ensure_serializable(items: Iterable[Any], encoder: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Replace every item that `encoder` refuses by its repr."""
    return tuple(item if _accepts(encoder, item) else safe_repr(item) for item in items)


def _accepts(encoder: Callable[[Any], Any], item: Any) -> bool:
    try:
        encoder(item)
    except Exception:
        return False
    return True


def _survives_pickle(value: Any) -> bool:
    return _accepts(lambda item: pickle.loads(pickle.dumps(item)), value)


class UnpickleableExceptionWrapper(Exception):
    """Stands in for an exception that cannot be pickled; `restore()` gives one of the same name."""

    def __init__(self, exc_module: str, exc_cls_name: str, exc_args: Iterable[Any], text: str | None = None) -> None:
        self.exc_module = exc_module
        self.exc_cls_name = exc_cls_name
        self.exc_args = tuple(arg if _survives_pickle(arg) else safe_repr(arg) for arg in exc_args)
        self.text = text
        super().__init__(exc_module, exc_cls_name, self.exc_args, text)

    def restore(self) -> BaseException:
        """Build an exception with the original's name, module and arguments (its class is a stand-in)."""
        return create_exception_cls(self.exc_cls_name, self.exc_module)(*self.exc_args)

    def __str__(self) -> str:
        return self.text or ""

    @classmethod
    def from_exception(cls, exc: BaseException) -> "UnpickleableExceptionWrapper":
        """Wrap `exc`, keeping its traceback."""
        kind = type(exc)
        wrapper = cls(kind.__module__, kind.__name__, getattr(exc, "args", []), safe_repr(exc))
        return wrapper.with_traceback(exc.__traceback__)


def get_pickleable_exception(exc: Any) -> Any:
    """Return `exc` itself, or the nearest thing to it that can be pickled; any other value counts as is."""
    if _survives_pickle(exc):
        return exc
    return find_pickleable_exception(exc) or UnpickleableExceptionWrapper.from_exception(exc)


def get_pickleable_etype(
    cls: type[BaseException],
    loads: Callable[[bytes], Any] = pickle.loads,
    dumps: Callable[[Any], bytes] = pickle.dumps,
) -> type[BaseException]:
    """Return `cls` if it can be pickled by reference, else `Exception`."""
    return cls if _accepts(lambda kind: loads(dumps(kind)), cls) else Exception


def get_pickled_exception(exc: BaseException) -> BaseException:
    """Undo `get_pickleable_exception`."""
    return exc.restore() if isinstance(exc, UnpickleableExceptionWrapper) else exc


def b64encode(text: str | bytes) -> str:
    """Base64 from and to text."""
    return str(bytes_to_str(_b64encode(str_to_bytes(text))))


def b64decode(text: str | bytes) -> bytes:
    """Undo `b64encode`, giving bytes."""
    return _b64decode(str_to_bytes(text))


def strtobool(term: Any, table: Mapping[str, bool] | None = None) -> Any:
    """Read yes/no, true/false, on/off, 1/0 as a bool; what is not a string passes through unchanged."""
    if not isinstance(term, str):
        return term
    try:
        return (table or STRTOBOOL_DEFAULT_TABLE)[term.lower()]
    except KeyError:
        raise TypeError(f"Cannot coerce {term!r} to type bool") from None


def jsonify(
    obj: Any,
    builtin_types: Any = (numbers.Real, str),
    key: Any = None,
    keyfilter: Callable[[Any], Any] | None = None,
    unknown_type_filter: Callable[[Any], Any] | None = None,
) -> Any:
    """Return what JSON can hold of `obj`, with times as text; keys that `keyfilter` refuses are left out.

    What it does not know goes through `unknown_type_filter`; without one, a ValueError names its key.
    """
    if isinstance(obj, Object):
        obj = obj.as_dict(recurse=True)
    convert = partial(
        jsonify, builtin_types=builtin_types, keyfilter=keyfilter, unknown_type_filter=unknown_type_filter
    )
    if obj is None or isinstance(obj, builtin_types):
        return obj
    if isinstance(obj, (tuple, list)):
        return [convert(item, key=key) for item in obj]
    if isinstance(obj, dict):
        kept = {name: value for name, value in obj.items() if keyfilter is None or keyfilter(name)}
        return {name: convert(value, key=name) for name, value in kept.items()}
    if isinstance(obj, (date, time)):
        return _as_text(obj)
    if isinstance(obj, timedelta):
        return str(obj)
    if unknown_type_filter is None:
        raise ValueError(f"Unsupported type: {type(obj)!r} {obj!r} (parent: {key})")
    return unknown_type_filter(obj)


def _as_text(moment: date | time) -> str:
    """ISO 8601 as JavaScript reads it: milliseconds at the most, and Z for UTC."""
    if isinstance(moment, (datetime, time)):
        text = moment.isoformat(timespec="milliseconds" if moment.microsecond else "auto")
        return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text
    return moment.isoformat()
