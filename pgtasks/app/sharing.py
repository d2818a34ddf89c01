"""`shared_task`, and other ways to use the current app without importing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from pgtasks import _state
from pgtasks.app.declaration import share_function
from pgtasks.app.task import Task
from pgtasks.local import Proxy

__all__ = ("bugreport", "default_app", "shared_task")

P = ParamSpec("P")
R = TypeVar("R")

#: The app of threads that have made none current.
default_app: Any = Proxy(lambda: _state.default_app)


def bugreport(app: Any = None) -> str:
    """Describe the software, the platform and the settings of an app, the current one by default."""
    text: str = (app or _state.get_current_app()).bugreport()
    return text


@overload
def shared_task(fun: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **opts: Any) -> Callable[[Callable[Concatenate[Any, P], R]], Task[P, R]]: ...
@overload
def shared_task(*, bind: Literal[False] = ..., **opts: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...


def shared_task(*args: Any, **options: Any) -> Any:
    """Declare a task that belongs to no app in particular, as libraries do; options are those of `app.task`.

    Every app, also of later, gets the task, and what is returned stands for the one of the current app.
    """
    if len(args) == 1 and callable(args[0]):
        return share_function(args[0], options)
    return lambda fun: share_function(fun, options)
