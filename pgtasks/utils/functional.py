"""Small functions over functions and iterables, by Celery's names.

What kombu has already is re-exported from there; the rest is here. Two are load-bearing: `regen`, a list that
reads its iterator only as far as asked, and `head_from_fun`, which checks the arguments of a task call at the
speed of a function call.
"""

import inspect
import operator
import sys
from collections import UserList
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, tee, zip_longest
from typing import Any, TypeVar

from kombu.utils.functional import (
    LRUCache,
    dictfilter,
    is_list,
    lazy,
    maybe_evaluate,
    maybe_list,
    memoize,
)

__all__ = (
    "LRUCache",
    "arity_greater",
    "chunks",
    "dictfilter",
    "first",
    "firstmethod",
    "fun_accepts_kwargs",
    "fun_takes_argument",
    "head_from_fun",
    "is_list",
    "is_numeric_value",
    "lazy",
    "lookahead",
    "mattrgetter",
    "maybe",
    "maybe_evaluate",
    "maybe_list",
    "memoize",
    "mlazy",
    "noop",
    "padlist",
    "pass1",
    "regen",
    "seq_concat_item",
    "seq_concat_seq",
    "uniq",
)

T = TypeVar("T")


class DummyContext:
    """A context manager that does nothing."""

    def __enter__(self) -> "DummyContext":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        pass


class mlazy(lazy):
    """A lazy value that is evaluated once."""

    evaluated = False
    _value: Any = None

    def __init__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(fun, *args, **kwargs)  # type: ignore[no-untyped-call]

    def evaluate(self) -> Any:
        if not self.evaluated:
            self._value = super().evaluate()  # type: ignore[no-untyped-call]
            self.evaluated = True
        return self._value


def noop(*args: Any, **kwargs: Any) -> None:
    """Do nothing."""


def pass1(arg: T, *args: Any, **kwargs: Any) -> T:
    """Return the first argument."""
    return arg


def maybe(typ: Callable[[Any], Any], val: Any) -> Any:
    """Apply `typ`, except to None."""
    return val if val is None else typ(val)


def is_numeric_value(value: Any) -> bool:
    """Say whether `value` is an int or float, bool not counting."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# -- iterables --------------------------------------------------------------------------------------------


def first(predicate: Callable[[Any], Any] | None, it: Iterable[Any]) -> Any:
    """Return the first item that `predicate` accepts, or without one the first that is not None, or None."""
    accepts = predicate or (lambda value: value is not None)
    return next((value for value in it if accepts(value)), None)


def firstmethod(method: str, on_call: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return a function that asks objects (or lazy ones) for `method` until one answers other than None."""

    def ask(it: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        for item in it:
            bound = getattr(maybe_evaluate(item), method, None)
            if bound is None:
                continue
            answer = on_call(bound, *args, **kwargs) if on_call else bound(*args, **kwargs)
            if answer is not None:
                return answer
        return None

    return ask


def chunks(it: Iterator[T], n: int) -> Iterator[list[T]]:
    """Yield lists of `n` items; `it` must be an iterator, because it is read on and on."""
    for item in it:
        yield [item, *islice(it, n - 1)]


def padlist(container: Iterable[Any], size: int, default: Any = None) -> list[Any]:
    """Return the first `size` items, filled up with `default`."""
    items = list(container)[:size]
    return items + [default] * (size - len(items))


def mattrgetter(*attrs: str) -> Callable[[Any], dict[str, Any]]:
    """Return a function that collects attributes into a dict, None for missing ones."""
    return lambda obj: {attr: getattr(obj, attr, None) for attr in attrs}


def uniq(it: Iterable[T]) -> Iterator[T]:
    """Yield every item the first time it is seen."""
    seen: set[T] = set()
    for item in it:
        if item not in seen:
            seen.add(item)
            yield item


def lookahead(it: Iterable[T]) -> Iterable[tuple[T, T | None]]:
    """Yield every item with its successor, None after the last."""
    current, following = tee(it)
    next(following, None)
    return zip_longest(current, following)


def seq_concat_item(seq: Any, item: Any) -> Any:
    """Return a copy of a tuple or list with `item` added."""
    return (*seq, item) if isinstance(seq, tuple) else [*seq, item]


def seq_concat_seq(a: Sequence[Any], b: Sequence[Any]) -> Any:
    """Return both sequences as one, of the type of the longer."""
    prefer: Any = type(max([a, b], key=len))
    return prefer(a) + prefer(b)


def regen(it: Iterable[Any]) -> Any:
    """Make an iterable repeatable: lists and tuples are so already, others are read once, when needed."""
    return it if isinstance(it, (list, tuple)) else _regen(it)


class _regen(UserList[Any], list[Any]):  # type: ignore[misc]
    """A list that is read from its iterator as it is read from: one item ahead, to know when it is done.

    It is a `list` so that serializers take it for one, and pickles as one.
    """

    def __init__(self, it: Iterable[Any]) -> None:
        # Neither base is initialised: UserList would copy, and `data` is a property here.
        self._unread: Iterable[Any] = it
        self._source: Iterator[Any] | None = None  # only asked for when needed: that may be a query
        self._read: list[Any] = []
        self._done = False

    def _read_upto(self, size: int) -> None:
        if self._source is None:
            self._source = iter(self._unread)
        while len(self._read) < size and not self._done:
            try:
                self._read.append(next(self._source))
            except StopIteration:
                self._done = True

    @property
    def data(self) -> list[Any]:  # type: ignore[override]
        """Everything, read to the end."""
        self._read_upto(sys.maxsize)
        return self._read

    def map(self, func: Callable[[Any], Any]) -> None:
        """Apply `func` to what was read already and to what will be."""
        self._read = [func(item) for item in self._read]
        self._source = map(func, self._unread if self._source is None else self._source)

    def __iter__(self) -> Iterator[Any]:
        index, reading = 0, False
        while True:
            if index >= len(self._read):
                self._read_upto(index + 1)
                if index >= len(self._read):
                    return
                reading = True
            try:
                if reading:
                    self._read_upto(index + 2)
            finally:  # an error in reading ahead comes after the item that is there
                yield self._read[index]
            index += 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.data[index]
        index = operator.index(index)
        if index < 0:
            return self.data[index]
        if index >= len(self._read):
            self._read_upto(index + 2)
        return self._read[index]

    def __bool__(self) -> bool:
        self._read_upto(1)
        return bool(self._read)

    def __length_hint__(self) -> int:
        """Guess how much is still unread."""
        return operator.length_hint(self._unread if self._source is None else self._source)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self._read))
        return f"<{type(self).__name__}: [{shown}{'' if self._done else '...'}]>"

    def __reduce__(self) -> Any:
        return list, (self.data,)


# -- signatures of functions ------------------------------------------------------------------------------

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _parameters(fun: Any) -> list[inspect.Parameter]:
    """Return the parameters of `fun` itself, a method's `self` included, whatever `fun` wraps."""
    options: dict[str, Any] = {"follow_wrapped": False}
    if sys.version_info >= (3, 14):
        # Annotations are evaluated there by default, and fail for names imported for type checking only.
        import annotationlib  # new in 3.14

        options["annotation_format"] = annotationlib.Format.STRING
    return list(inspect.signature(getattr(fun, "__func__", fun), **options).parameters.values())


def head_from_fun(fun: Callable[..., Any], bound: bool = False) -> Callable[..., Any]:
    """Make a function with the parameters of `fun` that does nothing but raise TypeError if called wrongly.

    `bound` fills in the first parameter. It is compiled, because `Signature.bind` is far slower than a call.
    """
    name = getattr(fun, "__name__", type(fun).__name__)
    is_plain = inspect.isroutine(fun) or type(fun).__name__ == "cython_function_or_method"
    target = fun if is_plain else type(fun).__call__
    source = f"def head({_render(_parameters(target))}): return 1"
    namespace: dict[str, Any] = {"__name__": fun.__module__}
    exec(source, namespace)
    head = namespace["head"]
    head.__name__ = head.__qualname__ = name
    return partial(head, object()) if bound else head


def _render(parameters: list[inspect.Parameter]) -> str:
    """Write parameters as source, every default as None."""
    empty = inspect.Parameter.empty
    plain = [
        parameter.replace(annotation=empty, default=empty if parameter.default is empty else None)
        for parameter in parameters
    ]
    return str(inspect.Signature(plain))[1:-1]


def arity_greater(fun: Callable[..., Any], n: int) -> bool:
    """Say whether `fun` can take more than `n` positional arguments."""
    parameters = _parameters(fun)
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    return sum(parameter.kind in _POSITIONAL for parameter in parameters) > n


def fun_takes_argument(name: str, fun: Callable[..., Any], position: int | None = None) -> bool:
    """Say whether `fun` can be given `name` (or, with `position`, that many positional arguments)."""
    parameters = _parameters(fun)
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return True
    names = [p.name for p in parameters if p.kind in _POSITIONAL]
    return len(names) >= position if position else name in names


def fun_accepts_kwargs(fun: Callable[..., Any]) -> bool:
    """Say whether `fun` accepts keyword arguments of any name."""
    code = getattr(fun, "__code__", None)
    if code is not None:
        return bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(fun).parameters.values())
