"""`install_as_celery`: third-party code that says `import celery` gets pgtasks.

One finder answers for every module below `celery`: it is the module of the same name here - the same object, so
that classes, registries and signals are shared - or the one that the table names. `importlib.metadata` is told that
Celery is installed, in the version whose API this is. `billiard` is answered for the names that are used from it.

It must run before Celery is imported; as PyMySQL's `install_as_MySQLdb`, which it follows.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.abc import InspectLoader, Loader
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pgtasks
from pgtasks import _state
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.local import Proxy

__all__ = ("CELERY_VERSION", "install_as_celery")

#: The release of Celery whose API this is.
CELERY_VERSION = "5.7.0"

#: Where modules are that have another name here than in Celery.
MOVED = {
    "celery.apps.beat": "pgtasks.beat.service",
    "celery.apps.worker": "pgtasks.worker.supervisor",
    "celery.backends": "pgtasks.backends",
    "celery.backends.base": "pgtasks.backends",
    "celery.bin.celery": "pgtasks.bin.base",
    "celery.fixups.django": "pgtasks.contrib.django",
    "celery.loaders": "pgtasks.app.loader",
    "celery.loaders.app": "pgtasks.app.loader",
    "celery.loaders.base": "pgtasks.app.loader",
    "celery.loaders.default": "pgtasks.app.loader",
    "celery.utils.abstract": "pgtasks.utils",
    "celery.utils.graph": "pgtasks.utils.graph",
    "celery.utils.iso8601": "pgtasks.utils.time",
    "celery.utils.objects": "pgtasks.utils.functional",
    "celery.app.autoretry": "pgtasks.app.autoretry",
    "celery.app.utils": "pgtasks.app.settings",
    "billiard.einfo": "pgtasks.einfo",
    "billiard.exceptions": "pgtasks.exceptions",
    "billiard.process": "multiprocessing.process",
    "billiard.util": "multiprocessing.util",
}
_ROOTS = ("celery", "billiard")

#: The release of billiard whose names these are.
BILLIARD_VERSION = "4.3.2"


class _Facade(ModuleType):
    """A module whose names are another module's, but for a few of its own."""

    def __init__(self, name: str, target: ModuleType, **own: Any) -> None:
        super().__init__(name, target.__doc__)
        self.__dict__.update(own, __path__=[], _target=target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_target"], name)

    def __dir__(self) -> Iterable[str]:
        return {*self.__dict__, *dir(self.__dict__["_target"])}


class _Found(Loader):
    """Gives an import the module that is already there."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has put the alias' spec on the module; its own belongs there.
        module.__spec__ = self._spec

    def get_code(self, fullname: str) -> CodeType | None:
        """What `python -m celery` runs."""
        loader = self._spec.loader if self._spec is not None else None
        return loader.get_code(self._module.__name__) if isinstance(loader, InspectLoader) else None


class _Finder(DistributionFinder):
    """Finds `celery` and `billiard`, and what is below them, in pgtasks."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        root, _, rest = fullname.partition(".")
        if root not in _ROOTS:
            return None
        module = _FACADES[fullname]() if fullname in _FACADES else _counterpart(fullname, rest)
        if module is None:
            return None
        return ModuleSpec(fullname, _Found(module), is_package=hasattr(module, "__path__"))

    def find_distributions(self, context: Any = None) -> Iterable[Distribution]:
        name = getattr(context, "name", None)
        if name is None or name.lower() == "celery":
            yield _CeleryDistribution()


def _celery() -> ModuleType:
    version = _version(CELERY_VERSION)
    return _Facade("celery", pgtasks, __version__=CELERY_VERSION, VERSION=version, version_info=version)


def _registry() -> ModuleType:
    # Of the oldest paths, the one that is still in use.
    tasks = Proxy(lambda: _state.get_current_app().tasks)
    return _Facade("celery.registry", import_module("pgtasks.app.registry"), tasks=tasks)


def _billiard() -> ModuleType:
    return _Facade("billiard", multiprocessing, __version__=BILLIARD_VERSION, VERSION=_version(BILLIARD_VERSION))


def _billiard_pool() -> ModuleType:
    worker = import_module("pgtasks.concurrency.base").Worker
    return _Facade("billiard.pool", import_module("multiprocessing.pool"), Worker=worker)


def _version(text: str) -> pgtasks.version_info_t:
    major, minor, micro = map(int, text.split("."))
    return pgtasks.version_info_t(major, minor, micro)


#: Modules that are another's, with some names of their own.
_FACADES = {"celery": _celery, "celery.registry": _registry, "billiard": _billiard, "billiard.pool": _billiard_pool}


def _counterpart(fullname: str, rest: str) -> ModuleType | None:
    module = _imported(MOVED.get(fullname) or f"pgtasks.{rest}")
    if not hasattr(module, "__path__") and any(name.startswith(f"{fullname}.") for name in MOVED):
        # A package there, and at most a module here: a package that stands for it leads to what is below.
        return _Facade(fullname, module or ModuleType(fullname))
    return module


def _imported(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            return None
        raise


class _CeleryDistribution(Distribution):
    """What `importlib.metadata` says of `celery`."""

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        return f"Metadata-Version: 2.1\nName: celery\nVersion: {CELERY_VERSION}\nSummary: pgtasks under Celery's name\n"

    def locate_file(self, path: Any) -> Path:
        return Path(pgtasks.__file__).parent / str(path)


def install_as_celery() -> None:
    """Make `import celery` mean pgtasks in this process, from now on; calling it again changes nothing.

    Raises ImproperlyConfigured when the real Celery has been imported already: two of them cannot share a process.
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    imported = sys.modules.get("celery")
    if imported is not None:
        raise ImproperlyConfigured(
            f"celery was imported already, from {getattr(imported, '__file__', None)}. Call"
            " pgtasks.install_as_celery() before anything imports celery: at the top of the first module of the"
            " project, or start with `pgtasks --as-celery`."
        )
    # Where billiard is installed, kombu has imported it: as Celery's it must not stay half itself, half this.
    for name in [name for name in sys.modules if name.partition(".")[0] == "billiard"]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Finder())
