"""Which app and which task are current: the only global state of the package.

The *current app* is the one this thread made current (every `Celery()` does unless told otherwise), else the
*default app* of the process, else a fallback app made on first need. The *current task* is the top of a stack
that each thread and coroutine has for itself. `connect_on_app_finalize` is how shared and built-in tasks
reach apps that do not exist yet.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from importlib import import_module
from typing import Any, TypeVar

from pgtasks.local import Proxy
from pgtasks.utils.threads import LocalStack

__all__ = (
    "connect_on_app_finalize",
    "current_app",
    "current_task",
    "get_current_app",
    "get_current_task",
    "get_current_worker_task",
    "set_default_app",
)

Finalizer = TypeVar("Finalizer", bound=Callable[[Any], Any])

#: The app of last resort, named by its address because this module is below the app's floor.
_FALLBACK_APP = ("pgtasks.app.base", "Celery")

default_app: Any = None

_apps: weakref.WeakSet[Any] = weakref.WeakSet()
#: A dict for its order: the first of two shared tasks with one name wins, and which is first must not be
#: luck.
_on_app_finalizers: dict[Callable[[Any], Any], None] = {}
_task_stack: LocalStack[Any] = LocalStack()
#: The stack of tasks executing here, the innermost last. Every call of a task reads it, so it must be quick.
_executing = _task_stack._frames.get

#: Makes a task the current one of this context; `pop_current_task` undoes it.
push_current_task = _task_stack.push
pop_current_task = _task_stack.pop


class _ThreadState(threading.local):
    current_app: Any = None


_tls = _ThreadState()


def get_current_app() -> Any:
    """Return this thread's current app, creating the fallback app when the process has none."""
    app = _tls.current_app or default_app
    return app if app is not None else _make_fallback_app()


def _make_fallback_app() -> Any:
    module, name = _FALLBACK_APP
    celery = getattr(import_module(module), name)
    loader = os.environ.get("CELERY_LOADER") or "default"
    set_default_app(celery("default", fixups=[], set_as_current=False, loader=loader))
    return default_app


def set_default_app(app: Any) -> None:
    """Make `app` the app of every thread that has not made one current."""
    global default_app
    default_app = app


def _set_current_app(app: Any) -> None:
    _tls.current_app = app


def get_current_task() -> Any:
    """Return the task now executing, also when it was called directly or eagerly; None outside tasks."""
    return _task_stack.top


def get_current_worker_task() -> Any:
    """Return the task that was applied (by a worker or eagerly) rather than called as a function."""
    for task in reversed(_executing()):
        if not task.request.called_directly:
            return task
    return None


#: The workflow run whose own code runs here: not that of its steps, and not of tasks that remember nothing.
current_run: ContextVar[Any] = ContextVar("pgtasks.run", default=None)

current_app: Any = Proxy(get_current_app)
current_task: Any = Proxy(get_current_task)


# -- apps


def connect_on_app_finalize(callback: Finalizer) -> Finalizer:
    """Call `callback(app)` whenever an app is finalized; usable as a decorator."""
    _on_app_finalizers[callback] = None
    return callback


def _announce_app_finalized(app: Any) -> None:
    # A copy: a finalizer may import a module that connects further ones.
    for callback in list(_on_app_finalizers):
        callback(app)


def _register_app(app: Any) -> None:
    _apps.add(app)


def _deregister_app(app: Any) -> None:
    _apps.discard(app)


def _get_active_apps() -> weakref.WeakSet[Any]:
    return _apps


_trace_apps = bool(os.environ.get("CELERY_TRACE_APP"))


def app_or_default(app: Any = None) -> Any:
    """Return `app`, or the current app when it is None."""
    if app is not None:
        return app
    if _trace_apps and _tls.current_app is None:
        raise RuntimeError("No app was given and this thread has none: pass app=, or call app.set_current().")
    return get_current_app()


def enable_trace() -> None:
    """Make `app_or_default` refuse to fall back on the default app: finds code that forgot its own."""
    global _trace_apps
    _trace_apps = True


def disable_trace() -> None:
    global _trace_apps
    _trace_apps = False


# -- may a task wait for another?

#: What holds in threads and coroutines that said nothing themselves. A worker process sets it.
_join_blocks_by_default = False
_join_blocks: ContextVar[bool | None] = ContextVar("pgtasks.join_blocks", default=None)


def task_join_will_block() -> bool:
    """Would waiting for a result here occupy a worker slot, and so risk a deadlock?"""
    blocks = _join_blocks.get()
    return _join_blocks_by_default if blocks is None else blocks


def _set_task_join_will_block(blocks: bool, *, everywhere: bool = False) -> None:
    """Set the answer of `task_join_will_block` for this thread or coroutine, or for all that have none of their own."""
    if everywhere:
        global _join_blocks_by_default
        _join_blocks_by_default = blocks
    else:
        _join_blocks.set(blocks)
