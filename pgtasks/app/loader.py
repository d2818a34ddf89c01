"""Loaders: where an app's configuration and task modules come from.

`AppLoader` serves apps that people make, `DefaultLoader` the fallback app, which reads `celeryconfig.py`.
Subclass one and name it in `Celery(loader=...)` or the `CELERY_LOADER` environment variable to be told when a
worker, a worker process or a task starts. Importing looks into the current directory first, as scripts do.
"""

from __future__ import annotations

import importlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from types import ModuleType
from typing import Any

from kombu.utils.json import loads as json_loads

from pgtasks import signals
from pgtasks.app.defaults import NAMESPACES, Option
from pgtasks.exceptions import NotConfigured
from pgtasks.utils.collections import DictAttribute, force_mapping
from pgtasks.utils.functional import maybe_list
from pgtasks.utils.imports import NotAPackage, find_module, import_from_cwd, symbol_by_name
from pgtasks.utils.serialization import strtobool

__all__ = ("AppLoader", "BaseLoader", "DefaultLoader", "autodiscover_tasks", "get_loader_cls")

DEFAULT_CONFIG_MODULE = "celeryconfig"

_CAST = re.compile(r"\((\w+)\)")


class BaseLoader:
    """Reads the configuration and imports the task modules of one app."""

    builtin_modules: frozenset[str] = frozenset()
    configured = False
    override_backends: Mapping[str, str] = {}
    worker_initialized = False

    def __init__(self, app: Any, **kwargs: Any) -> None:
        self.app = app
        self.task_modules: set[str] = set()
        self._conf: Any = None
        self._conf_read = False

    def now(self, utc: bool = True) -> datetime:
        return datetime.now(UTC) if utc else datetime.now()

    # -- told what happens

    def on_task_init(self, task_id: str, task: Any) -> None:
        """A task is about to run."""

    def on_process_cleanup(self) -> None:
        """A task has run."""

    def on_worker_init(self) -> None:
        """A worker starts."""

    def on_worker_shutdown(self) -> None:
        """A worker shuts down."""

    def on_worker_process_init(self) -> None:
        """A process that runs tasks starts."""

    def init_worker(self) -> None:
        """Import the task modules, once, then call `on_worker_init`."""
        if not self.worker_initialized:
            self.worker_initialized = True
            self.import_default_modules()
            self.on_worker_init()

    def shutdown_worker(self) -> None:
        self.on_worker_shutdown()

    def init_worker_process(self) -> None:
        self.on_worker_process_init()

    # -- task modules

    def import_task_module(self, module: str) -> Any:
        self.task_modules.add(module)
        return self.import_from_cwd(module)

    def import_module(self, module: str, package: str | None = None) -> Any:
        return importlib.import_module(module, package=package)

    def import_from_cwd(self, module: str, imp: Any = None, package: str | None = None) -> Any:
        return import_from_cwd(module, self.import_module if imp is None else imp, package=package)

    def import_default_modules(self) -> list[Any]:
        """Run the autodiscoveries, import what the imports and include settings name; raise their errors."""
        signals.import_modules.send_or_raise(sender=self.app)
        return [self.import_task_module(module) for module in self.default_modules]

    @cached_property
    def default_modules(self) -> tuple[str, ...]:
        conf = self.app.conf
        return (*self.builtin_modules, *maybe_list(conf.imports, ()), *maybe_list(conf.include, ()))

    def autodiscover_tasks(self, packages: Iterable[str] | None, related_name: str | None = "tasks") -> None:
        found = autodiscover_tasks(packages or (), related_name)
        self.task_modules.update(module.__name__ for module in found if module)

    # -- configuration

    @property
    def conf(self) -> Any:
        """What was configured, as a mapping; None when nothing was."""
        if not self._conf_read:
            self._conf = self.read_configuration()
            self._conf_read = True
        return self._conf

    def config_from_object(self, obj: Any, silent: bool = False) -> bool:
        """Take the configuration from a mapping, an object, or the address of either.

        Returns False when it cannot be imported and `silent` is set; raises ImportError otherwise.
        """
        if isinstance(obj, str):
            try:
                obj = self._smart_import(obj, imp=self.import_from_cwd)
            except (ImportError, AttributeError):
                if silent:
                    return False
                raise
        self._conf = force_mapping(obj)
        self._conf_read = True
        return True

    def _smart_import(self, path: str, imp: Callable[..., Any] | None = None) -> Any:
        """Import 'module', 'module:attribute' or 'module.attribute'."""
        imp = self.import_module if imp is None else imp
        if ":" in path:
            return symbol_by_name(path, imp=imp)
        try:
            return imp(path)
        except ImportError:
            return symbol_by_name(path, imp=imp)

    def _import_config_module(self, name: str) -> Any:
        try:
            self.find_module(name)
        except NotAPackage as exc:
            hint = f" Did you mean {name.removesuffix('.py')!r}?" if name.endswith(".py") else ""
            raise NotAPackage(
                f"Error: Module {name!r} doesn't exist, or it's not a valid Python module name.{hint}"
            ) from exc
        return self.import_from_cwd(name)

    def find_module(self, module: str) -> Any:
        return find_module(module)

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> Any:
        """Read the module that the environment names, if it names one."""
        name = os.environ.get(env)
        return DictAttribute(self._import_config_module(name)) if name else None

    def cmdline_config_parser(self, args: Iterable[str], namespace: str = "celery") -> dict[str, Any]:
        """Read settings of the form `worker.concurrency=4`, `worker_concurrency=4` or `.key=(type)value`.

        A value is converted to the type in parentheses, else to the setting's own; a key that starts with a
        dot belongs to `namespace`.
        """
        return dict(_parse_setting(arg, namespace and namespace.lower()) for arg in args)


def _parse_setting(arg: str, namespace: str) -> tuple[str, Any]:
    name, text = arg.split("=", 1)
    name = name.lower().replace(".", "_")
    section, key = (namespace, name[1:]) if name[0] == "_" else name.split("_", 1)
    name = f"{section}_{key}" if section else key
    cast = _CAST.match(text)
    if cast:
        return name, _TYPES[cast.group(1)](text[cast.end() :])
    try:
        return name, NAMESPACES[section.lower()][key].to_python(text)
    except ValueError as exc:
        raise ValueError(f"{name!r}: {exc}") from exc


_TYPES: dict[str, Callable[[Any], Any]] = {
    **Option.typemap,
    **dict.fromkeys(("json", "tuple", "list", "dict"), json_loads),
}


class AppLoader(BaseLoader):
    """The loader of an app that somebody made."""


class DefaultLoader(BaseLoader):
    """The loader of the fallback app: reads `celeryconfig.py`, or the module CELERY_CONFIG_MODULE names."""

    def setup_settings(self, settings: Any) -> Any:
        return DictAttribute(settings)

    def read_configuration(self, fail_silently: Any = True) -> Any:
        name = os.environ.get("CELERY_CONFIG_MODULE", DEFAULT_CONFIG_MODULE)
        try:
            settings = self._import_config_module(name)
        except ImportError:
            if not fail_silently:
                raise
            if strtobool(os.environ.get("C_WNOCONF", False)):
                warnings.warn(
                    NotConfigured(f"No {name} module found! Please make sure it exists and is available to Python."),
                    stacklevel=2,
                )
            return self.setup_settings({})
        self.configured = True
        return self.setup_settings(settings)


#: Its name in `celery.loaders.default`.
Loader = DefaultLoader

_ALIASES = {"app": "pgtasks.app.loader:AppLoader", "default": "pgtasks.app.loader:DefaultLoader"}


def get_loader_cls(loader: Any) -> Any:
    """Find a loader class by its dotted name, or by 'app' or 'default'."""
    return symbol_by_name(loader, _ALIASES, imp=import_from_cwd)


_discovering = False


def autodiscover_tasks(packages: Iterable[str], related_name: str | None = "tasks") -> list[ModuleType | None]:
    """Import the module called `related_name` of every package; None where there is none."""
    global _discovering
    # A task module that triggers a discovery of its own would find half-imported modules.
    if _discovering:
        return []
    _discovering = True
    try:
        return [find_related_module(package, related_name) for package in packages]
    finally:
        _discovering = False


def find_related_module(package: str, related_name: str | None) -> ModuleType | None:
    """Import `package.related_name`, or the package itself without a related name.

    `package` may name a class in a module, as Django's INSTALLED_APPS do: then its module is the package.
    Errors inside the module are raised; only its absence is not an error.
    """
    try:
        module = importlib.import_module(package)
        if not related_name:
            return module
    except ModuleNotFoundError:
        package, _, _ = package.rpartition(".")
        if not package:
            raise
    name = f"{package}.{related_name}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name == name:
            return None
        raise
