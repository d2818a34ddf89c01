"""The registry of remote control commands, and the decorators that add to it."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, ClassVar, NamedTuple, TypeVar

from kombu.utils.encoding import safe_repr

__all__ = ("Panel", "control_command", "inspect_command", "nok", "ok", "plain")

F = TypeVar("F", bound=Callable[..., Any])


class Command(NamedTuple):
    """What the command line knows of a command."""

    alias: str | None
    type: str
    visible: bool
    default_timeout: float
    help: str
    signature: str | None
    args: Sequence[tuple[str, Callable[[str], Any]]] | None
    variadic: str | None


class Panel(UserDict[str, Any]):
    """All commands, by name."""

    data: ClassVar[dict[str, Callable[..., Any]]] = {}  # type: ignore[misc]
    meta: ClassVar[dict[str, Command]] = {}

    @classmethod
    def register(cls, *args: Any, **kwargs: Any) -> Any:
        """Add a command: a decorator, with or without options."""
        return cls._register(**kwargs)(*args) if args else cls._register(**kwargs)

    @classmethod
    def _register(
        cls,
        name: str | None = None,
        alias: str | None = None,
        type: str = "control",
        visible: bool = True,
        default_timeout: float = 1.0,
        help: str | None = None,
        signature: str | None = None,
        args: Sequence[tuple[str, Callable[[str], Any]]] | None = None,
        variadic: str | None = None,
    ) -> Callable[[F], F]:
        def add(fun: F) -> F:
            text = help or (fun.__doc__ or "").strip().split("\n")[0]
            command = name or fun.__name__
            cls.data[command] = fun
            cls.meta[command] = Command(alias, type, visible, default_timeout, text, signature, args, variadic)
            if alias:
                cls.data[alias] = fun
            return fun

        return add


def control_command(**kwargs: Any) -> Callable[[F], F]:
    """Make a function a command that changes something in the worker."""
    add: Callable[[F], F] = Panel.register(type="control", **kwargs)
    return add


def inspect_command(**kwargs: Any) -> Callable[[F], F]:
    """Make a function a command that only tells something."""
    add: Callable[[F], F] = Panel.register(type="inspect", **kwargs)
    return add


def ok(value: Any) -> dict[str, Any]:
    return {"ok": value}


def nok(value: Any) -> dict[str, Any]:
    return {"error": value}


def plain(value: Any) -> Any:
    """Make something out of basic types only of any value, for people to read."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if not str(key).startswith("__")}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, timedelta) else safe_repr(value)
