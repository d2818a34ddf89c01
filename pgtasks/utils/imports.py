"""Importing by name, and naming what was imported, by Celery's names."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module, reload
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from kombu.utils.imports import symbol_by_name

__all__ = (
    "NotAPackage",
    "cwd_in_path",
    "find_module",
    "gen_task_name",
    "import_from_cwd",
    "instantiate",
    "load_extension_class_names",
    "load_extension_classes",
    "module_file",
    "qualname",
    "reload_from_cwd",
    "symbol_by_name",
)


class NotAPackage(Exception):
    """The dotted name goes through a module that is not a package."""


def qualname(obj: Any) -> str:
    """Return `module.name` of a class or function, or of an object's class."""
    if not hasattr(obj, "__name__") and hasattr(obj, "__class__"):
        obj = obj.__class__
    name: str = obj.__qualname__
    return name if "." in name else f"{obj.__module__}.{name}"


def instantiate(name: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the class of that name (`package.module:Class`)."""
    return symbol_by_name(name)(*args, **kwargs)


@contextmanager
def cwd_in_path() -> Iterator[str | None]:
    """Have the current directory first on `sys.path` meanwhile."""
    try:
        cwd = os.getcwd()
    except FileNotFoundError:  # removed under our feet
        cwd = ""
    if not cwd or cwd in sys.path:
        yield None
        return
    sys.path.insert(0, cwd)
    try:
        yield cwd
    finally:
        if cwd in sys.path:
            sys.path.remove(cwd)


def find_module(module: str, path: Any = None, imp: Callable[[str], ModuleType] | None = None) -> ModuleType:
    """Import a dotted name, also from the current directory; raises NotAPackage where that is the reason."""
    load = imp or import_module
    with cwd_in_path():
        try:
            return load(module)
        except ImportError as exc:
            culprit = _plain_module_in(module, load)
            if culprit:
                raise NotAPackage(culprit) from exc
            raise


def _plain_module_in(dotted: str, load: Callable[[str], ModuleType]) -> str | None:
    """Return the first parent of a dotted name that is a module without submodules."""
    parts = dotted.split(".")
    for size in range(1, len(parts)):
        parent = ".".join(parts[:size])
        try:
            if not hasattr(load(parent), "__path__"):
                return parent
        except ImportError:
            return None
    return None


def import_from_cwd(
    module: str, imp: Callable[..., ModuleType] | None = None, package: str | None = None
) -> ModuleType:
    """Import a module, the current directory coming first."""
    with cwd_in_path():
        return (imp or import_module)(module, package=package)


def reload_from_cwd(module: ModuleType, reloader: Callable[[ModuleType], ModuleType] | None = None) -> ModuleType:
    """Load a module again, the current directory coming first."""
    with cwd_in_path():
        return (reloader or reload)(module)


def module_file(module: ModuleType) -> str:
    """Return the path of a module's source."""
    return (module.__file__ or "").removesuffix("c")


def gen_task_name(app: Any, name: str, module_name: str | None) -> str:
    """Name a task after its module and function; in a script, after the app instead of `__main__`."""
    module_name = module_name or "__main__"
    module = sys.modules.get(module_name)
    if module is not None:
        module_name = module.__name__
    if module_name == "__main__" and app.main:
        return f"{app.main}.{name}"
    return ".".join(part for part in (module_name, name) if part)


@cache
def load_extension_class_names(namespace: str) -> tuple[tuple[str, str], ...]:
    """Return name and `module:Class` of the entry points of a group; read once, because it is slow."""
    return tuple((entry.name, entry.value) for entry in entry_points(group=namespace))


def load_extension_classes(namespace: str) -> Iterator[tuple[str, Any]]:
    """Yield the classes of a group of entry points; one that cannot be imported gives a warning."""
    for name, target in load_extension_class_names(namespace):
        try:
            found = symbol_by_name(target)
        except (ImportError, SyntaxError) as exc:
            warnings.warn(f"Cannot load {namespace} extension {target!r}: {exc!r}", stacklevel=2)
        else:
            yield name, found
