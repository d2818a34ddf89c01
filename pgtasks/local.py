"""Objects that stand for another object.

A `Proxy` asks its getter every time it is touched, so `current_app` is always the app of this thread. A
`PromiseProxy` asks once, at the first touch, so a task can be declared before its app is ready. Both pass for
the real thing: every operator, attribute and `isinstance` goes to the object behind, which
`_get_current_object()` hands out.
"""

import importlib
import operator
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ("PromiseProxy", "Proxy", "maybe_evaluate", "try_import")

_MISSING: Any = object()


class _ClassText(str):
    """A class attribute that is text on the class and the target's attribute on an instance.

    A plain property will not do for `__module__`: Python, pickle and inspect read it from the class as a
    string.
    """

    attribute: str

    def __new__(cls, attribute: str, text: str) -> "_ClassText":
        self = super().__new__(cls, text)
        self.attribute = attribute
        return self

    def __get__(self, proxy: Any, owner: type | None = None) -> Any:
        if proxy is None:
            return self
        return proxy._proxy_own.get(self.attribute) or getattr(proxy._get_current_object(), self.attribute)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)  # pickle writes a class's module as text


class Proxy:
    """Forward everything to what `local(*args, **kwargs)` returns, called each time.

    A getter that raises RuntimeError makes the proxy unbound: it is then false, and its repr says so.
    """

    __slots__ = ("_proxy_args", "_proxy_kwargs", "_proxy_local", "_proxy_own")

    def __init__(
        self,
        local: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        name: str | None = None,
        __doc__: str | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "_proxy_local", local)
        put(self, "_proxy_args", args or ())
        put(self, "_proxy_kwargs", kwargs or {})
        put(self, "_proxy_own", {"__name__": name, "__doc__": __doc__})

    def __init_subclass__(cls) -> None:
        cls.__module__ = _ClassText("__module__", cls.__module__)
        cls.__doc__ = _ClassText("__doc__", cls.__doc__ or "")

    def _get_current_object(self) -> Any:
        """Return the object behind."""
        return self._proxy_local(*self._proxy_args, **self._proxy_kwargs)

    @property
    def __name__(self) -> Any:
        return self._proxy_own["__name__"] or self._get_current_object().__name__

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self._get_current_object().__class__

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        try:
            return self._get_current_object().__dict__
        except RuntimeError:
            raise AttributeError("__dict__") from None

    def __repr__(self) -> str:
        try:
            target = self._get_current_object()
        except RuntimeError:
            return f"<{type(self).__name__} unbound>"
        return repr(target)

    def __bool__(self) -> bool:
        try:
            return bool(self._get_current_object())
        except RuntimeError:
            return False

    def __dir__(self) -> list[str]:
        try:
            return dir(self._get_current_object())
        except RuntimeError:
            return []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._get_current_object()(*args, **kwargs)

    def __exit__(self, *exc_info: Any) -> Any:
        return self._get_current_object().__exit__(*exc_info)

    def __reduce__(self) -> Any:
        return self._get_current_object().__reduce__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._get_current_object().__reduce_ex__(protocol)


def _forward(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Proxy, *args: Any) -> Any:
        return act(self._get_current_object(), *args)

    method.__name__ = name
    method.__qualname__ = f"Proxy.{name}"
    return method


_FROM_OPERATOR = (
    *("lt", "le", "eq", "ne", "gt", "ge", "getitem", "setitem", "delitem", "contains", "index"),
    *("add", "sub", "mul", "matmul", "floordiv", "truediv", "mod", "pow", "lshift", "rshift"),
    *("and_", "or_", "xor", "neg", "pos", "abs", "invert"),
)
_OPERATORS: dict[str, Callable[..., Any]] = {
    **{f"__{name.strip('_')}__": getattr(operator, name) for name in _FROM_OPERATOR},
    "__str__": str,
    "__hash__": hash,
    "__len__": len,
    "__iter__": iter,
    "__aiter__": aiter,
    "__await__": lambda target: target.__await__(),
    "__enter__": lambda target: target.__enter__(),
    "__divmod__": divmod,
    "__complex__": complex,
    "__int__": int,
    "__float__": float,
}
# Python looks operators up on the type, past __getattr__, so each needs its own method.
for _name, _act in _OPERATORS.items():
    setattr(Proxy, _name, _forward(_name, _act))
Proxy.__init_subclass__.__func__(Proxy)  # type: ignore[attr-defined]  # the base needs it as well


class PromiseProxy(Proxy):
    """A proxy that asks its getter once and keeps the answer."""

    __slots__ = ("__weakref__", "_proxy_pending", "_proxy_target")

    def _get_current_object(self) -> Any:
        try:
            return object.__getattribute__(self, "_proxy_target")
        except AttributeError:
            return self.__evaluate__()

    def __getattr__(self, name: str) -> Any:
        # As in `Proxy`, but with one call less: every call of a task that was declared early passes here.
        try:
            target = object.__getattribute__(self, "_proxy_target")
        except AttributeError:
            target = self.__evaluate__()
        return getattr(target, name)

    def __then__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `fun` when the promise is evaluated: now, if it has been already."""
        if self.__evaluated__():
            return fun(*args, **kwargs)
        pending = _own(self, "_proxy_pending")
        if pending is _MISSING:
            pending = deque()
            object.__setattr__(self, "_proxy_pending", pending)
        pending.append((fun, args, kwargs))
        return None

    def __evaluated__(self) -> bool:
        """Say whether the getter was asked."""
        return _own(self, "_proxy_target") is not _MISSING

    def __maybe_evaluate__(self) -> Any:
        return self._get_current_object()

    def __evaluate__(self) -> Any:
        """Ask the getter, keep the answer, drop the getter, and call what waited for it."""
        target = Proxy._get_current_object(self)
        object.__setattr__(self, "_proxy_target", target)
        put = object.__setattr__
        put(self, "_proxy_local", lambda: target)
        put(self, "_proxy_args", ())
        put(self, "_proxy_kwargs", {})
        pending = _own(self, "_proxy_pending")
        while pending is not _MISSING and pending:
            fun, args, kwargs = pending.popleft()
            fun(*args, **kwargs)
        return target


def _own(proxy: Proxy, slot: str) -> Any:
    """Read a slot of the proxy itself; an empty one must not be looked up on the target."""
    try:
        return object.__getattribute__(proxy, slot)
    except AttributeError:
        return _MISSING


def maybe_evaluate(obj: Any) -> Any:
    """Return the object behind a promise, or `obj` itself if it is none."""
    try:
        return obj.__maybe_evaluate__()
    except AttributeError:
        return obj


def try_import(module: str, default: Any = None) -> Any:
    """Import a module, or give `default` when that cannot be done."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return default
