"""A `repr` that is safe to log and to store: bounded in length and depth, and not upset by cycles.

The text is what `celery.utils.saferepr` makes, because events, logs and monitors show it. Containers are
walked with a stack of our own, so depth costs no recursion, and the walk ends as soon as the text is long
enough, so huge arguments cost no more than their beginning.
"""

import traceback
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from numbers import Number
from typing import Any, NamedTuple

from pgtasks.utils.text import truncate

__all__ = ("saferepr",)


# Kinds of tokens; a token is (kind, value, closer).
_OPEN = 0  # starts a container, which `closer` ends
_CLOSE = 1
_MARK = 2  # separators and the like, never cut
_KEY = 3  # the key of a dict, as a value
_CHARS = 4  # text or bytes, as a value
_PLAIN = 5  # any other repr


class _Token(tuple[int, Any, str]):
    """A piece of the text. Its class tells it from the values between the tokens."""

    __slots__ = ()


class _Frame(NamedTuple):
    """A container on the way down to the current item."""

    items: Iterator[Any]
    closer: str
    identity: int


_CONTAINERS = (dict, list, tuple, set, frozenset)
_COMMA = _Token((_MARK, ", ", ""))
_COLON = _Token((_MARK, ": ", ""))


def saferepr(o: Any, maxlen: int | None = None, maxlevels: int | None = 3, seen: set[int] | None = None) -> str:
    """Return the repr of `o`, cut to about `maxlen` characters and `maxlevels` nested containers.

    The closing brackets of a cut container are kept, over and above `maxlen`. Objects whose id is in `seen`
    are taken for recursion.
    """
    parts: list[str] = []
    closers: list[str] = []
    left = maxlen
    for kind, value, closer in _walk(o, maxlevels, set() if seen is None else seen):
        cut = left is not None and left <= 0
        if cut and kind != _CLOSE:
            parts.append(", ...")
            break
        if kind == _OPEN:
            closers.append(closer)
        elif kind == _CLOSE:
            closers.pop()
        text = _render(kind, value, left, maxlevels) if kind >= _KEY else value
        parts.append(text)
        if left is not None and not cut:
            left -= len(text)
    return "".join(parts) + "".join(reversed(closers))


def _render(kind: int, value: Any, left: int | None, maxlevels: int | None) -> str:
    if kind == _PLAIN:
        return truncate(value, left or 0)
    if kind == _CHARS:
        return _render_chars(value, left)
    return saferepr(value, left, maxlevels)


def _render_chars(value: str | bytes, left: int | None) -> str:
    if isinstance(value, str):
        return "'{}'".format(truncate(value, left or 0).replace("'", "\\'"))
    dots = "..." if left and len(value) > left else ""
    shown = value[:left] if dots else value
    try:
        return f"b'{shown.decode()}{dots}'"
    except UnicodeDecodeError:
        return f"b'{shown.hex()}{dots}'"


def _walk(o: Any, maxlevels: int | None, seen: set[int]) -> Iterator[_Token]:
    """Yield the tokens of `o`, depth first."""
    stack = [_Frame(iter((o,)), "", 0)]
    while stack:
        frame = stack[-1]
        for item in frame.items:
            if type(item) is _Token:
                yield item
                continue
            container = _container(item) if isinstance(item, _CONTAINERS) else None
            if container is None:
                yield _leaf(item)
                continue
            opener, closer, items = container
            if maxlevels and len(stack) > maxlevels:
                yield _Token((_MARK, f"{opener}...{closer}", ""))
            elif id(item) in seen:
                yield _Token((_PLAIN, f"<Recursion on {type(item).__name__} with id={id(item)}>", ""))
            else:
                seen.add(id(item))
                yield _Token((_OPEN, opener, closer))
                stack.append(_Frame(items, closer, id(item)))
                break
        else:
            stack.pop()
            if stack:
                seen.discard(frame.identity)
                yield _Token((_CLOSE, frame.closer, ""))


def _container(value: Any) -> tuple[str, str, Iterator[Any]] | None:
    """Return how a container starts and ends, and its items with separators; None for an empty set."""
    if isinstance(value, dict):
        return "{", "}", _pairs(value)
    if isinstance(value, list):
        return "[", "]", _separated(value)
    if isinstance(value, tuple):
        return "(", ",)" if len(value) == 1 else ")", _separated(value)
    if not value:
        return None
    if type(value) is set:
        return "{", "}", _separated(value)
    return f"{type(value).__name__}({{", "})", _separated(value)


def _separated(items: Iterable[Any]) -> Iterator[Any]:
    for index, item in enumerate(items):
        if index:
            yield _COMMA
        yield item


def _pairs(mapping: Mapping[Any, Any]) -> Iterator[Any]:
    for index, (key, value) in enumerate(mapping.items()):
        if index:
            yield _COMMA
        yield _Token((_KEY, key, ""))
        yield _COLON
        yield value


def _leaf(value: Any) -> _Token:
    if isinstance(value, (str, bytes)):
        return _Token((_CHARS, value, ""))
    if isinstance(value, Number) and not isinstance(value, Decimal):
        return _Token((_PLAIN, str(value), ""))
    if isinstance(value, (set, frozenset)):
        return _Token((_PLAIN, f"{type(value).__name__}()", ""))
    return _Token((_PLAIN, _repr(value), ""))


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception as exc:
        stack = "\n".join(traceback.format_stack())
        return f"<Unrepresentable {type(value)!r}{id(value):#x}: {exc!r} {stack!r}>"
