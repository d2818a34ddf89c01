"""Turn functions and classes into tasks in an app's registry."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from pgtasks import _state
from pgtasks.app.autoretry import add_autoretry_behaviour
from pgtasks.app.pydantic import ModelArguments, validating
from pgtasks.exceptions import DuplicateTaskNameWarning
from pgtasks.local import Proxy
from pgtasks.utils.imports import qualname

__all__ = ("register_task", "share_function", "task_from_function")


def task_from_function(
    app: Any,
    fun: Callable[..., Any],
    name: str | None = None,
    base: Any = None,
    bind: bool = False,
    pydantic: bool = False,
    pydantic_strict: bool = False,
    pydantic_context: Mapping[str, Any] | None = None,
    pydantic_dump_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Make the task of a function and register it; a name already taken keeps its task.

    `options` are attributes of the task, known to the library or not.
    """
    name = name or app.gen_task_name(fun.__name__, fun.__module__)
    if name in app._tasks:
        task = app._tasks[name]
        _warn_if_taken(app, task, fun, name)
        return task
    body, dump_arguments = fun, None
    if pydantic is True:
        models = ModelArguments(app, fun, name, pydantic_strict, pydantic_context, pydantic_dump_kwargs)
        body = validating(fun, models)
        dump_arguments = staticmethod(partial(models.dump_arguments, bound=bind))
    run = body if bind else staticmethod(body)
    attributes = {
        "app": app,
        "name": name,
        "run": run,
        "_decorated": True,
        "_decorated_fun": staticmethod(fun),
        "_dump_pydantic_arguments": dump_arguments,
        "__doc__": body.__doc__,
        "__module__": body.__module__,
        "__annotations__": _annotations(body),
        "__header__": app.type_checker(body, bound=bind),
        "__wrapped__": run,
    }
    task = type(body.__name__, (base or app.Task,), {**attributes, **options})()
    # Set on the instance: type() takes no other qualified name than the class's own.
    task.__qualname__ = getattr(body, "__qualname__", body.__name__)
    with _only_if_bound(app._tasks, task):
        task.bind(app)
    add_autoretry_behaviour(task, **options)
    return task


@contextmanager
def _only_if_bound(registry: Any, task: Any) -> Iterator[None]:
    """Register a task, and remove it again if its `on_bound`, which expects to find it registered, refuses the app."""
    before = registry.get(task.name)
    registry[task.name] = task
    try:
        yield
    except BaseException:
        if before is None:
            del registry[task.name]
        else:
            registry[task.name] = before
        raise


if sys.version_info >= (3, 14):
    from annotationlib import Format

    def _annotations(fun: Callable[..., Any]) -> Any:
        try:
            return inspect.get_annotations(fun)
        except NameError:
            # Annotations are evaluated late now, and may name what only type checkers import.
            return inspect.get_annotations(fun, format=Format.STRING)

else:

    def _annotations(fun: Callable[..., Any]) -> Any:
        return getattr(fun, "__annotations__", {})


def register_task(app: Any, task: Any, **options: Any) -> Any:
    """Register a task given as an instance or as a class; it replaces another of the same name."""
    task = task() if inspect.isclass(task) else task
    if not task.name:
        cls = type(task)
        task.name = app.gen_task_name(cls.__name__, cls.__module__)
    existing = app.tasks.get(task.name)
    if existing is not None and existing is not task:
        _warn_of_duplicate(
            app,
            task.name,
            _declared_as(existing),
            _declared_as(task),
            "The new callable replaced the existing one; calls under this name now reach the new callable.",
        )
    add_autoretry_behaviour(task, **options)
    task._app = app
    with _only_if_bound(app.tasks, task):
        task.bind(app)
    return task


def share_function(fun: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Register a function with every app there is and will be; returns a proxy for the current app's task."""
    if type(fun) is Proxy:
        raise TypeError(
            "@shared_task was applied more than once to the same function. Remove the extra @shared_task decorator."
        )

    @_state.connect_on_app_finalize
    def register(app: Any) -> Any:
        return app._task_from_fun(fun, **options)

    for app in list(_state._get_active_apps()):
        if app.finalized:
            with app._finalize_mutex:
                register(app)

    def current() -> Any:
        app = _state.get_current_app()
        return app.tasks[options.get("name") or app.gen_task_name(fun.__name__, fun.__module__)]

    return Proxy(current)


# -- one name, two callables

_DUPLICATE = """\
Task name {name!r} is already registered to a different callable.

Existing: {existing}
New:      {new}

{consequence}

Every task must have a unique name. Pass an explicit name= to the task decorator, or rename one of the
callables.
"""


def _warn_if_taken(app: Any, task: Any, fun: Callable[..., Any], name: str) -> None:
    existing = getattr(task, "_decorated_fun", None)
    # A module imported twice gives the same function again, which is no clash.
    if existing is not None and existing is not fun:
        _warn_of_duplicate(
            app,
            name,
            qualname(existing),
            qualname(fun),
            "The new callable was not registered; calls under this name reach the callable registered first.",
        )


def _warn_of_duplicate(app: Any, name: str, existing: str, new: str, consequence: str) -> None:
    if name in app._duplicate_task_names_warned:
        return
    app._duplicate_task_names_warned.add(name)
    text = _DUPLICATE.format(name=name, existing=existing, new=new, consequence=consequence)
    warnings.warn(DuplicateTaskNameWarning(text), stacklevel=_depth_of_user_code())


def _declared_as(task: Any) -> str:
    return qualname(getattr(task, "_decorated_fun", None) or type(task))


def _depth_of_user_code() -> int:
    """How far up the first frame outside this package is: tasks are made at once or much later."""
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "pgtasks":
        frame, depth = frame.f_back, depth + 1
    return depth
