"""`install_as_celery`: third-party code that says `import celery` gets pgtasks.

One finder answers for every module below `celery`: it is the module of the same name here - the same object, so
that classes, registries and signals are shared - or the one that the table names. `importlib.metadata` is told that
Celery is installed, in the version whose API this is. `billiard` is answered for the names that are used from it.
What has no counterpart, mostly since there is no broker, is refused with the reason: `ABSENT`.

It must run before Celery is imported; as PyMySQL's `install_as_MySQLdb`, which it follows.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterable, Mapping, Sequence
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
from pgtasks.utils.imports import symbol_by_name

__all__ = ("CELERY_VERSION", "install_as_celery")

#: The release of Celery whose API this is.
CELERY_VERSION = "5.7.0"

#: Where modules are that have another name here than in Celery.
MOVED = {
    "celery.app.utils": "pgtasks.app.settings",
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
    "celery.utils.dispatch.signal": "pgtasks.utils.dispatch",
    "celery.worker.worker": "pgtasks.worker",
    "celery.worker.consumer.consumer": "pgtasks.worker.consumer",
    **{
        f"celery.worker.consumer.{name}": "pgtasks.worker.components"
        for name in ("agent", "connection", "control", "delayed_delivery", "events", "gossip", "heart", "mingle", "tasks")
    },
    "billiard.einfo": "pgtasks.einfo",
    "billiard.exceptions": "pgtasks.exceptions",
    "billiard.util": "multiprocessing.util",
}
#: Modules that are another's, with names from elsewhere besides.
JOINED = {
    "celery.app.utils": (
        "pgtasks.app.settings",
        {
            "AppPickler": "pgtasks.app.pickling:AppPickler",
            "bugreport": "pgtasks.app.sharing:bugreport",
            "find_app": "pgtasks.app.discovery:find_app",
        },
    ),
    "celery.bin.celery": ("pgtasks.bin.base", {"celery": "pgtasks.bin.base:cli"}),
    "celery.worker.consumer": (
        "pgtasks.worker.consumer",
        {
            name: f"pgtasks.worker.components:{name}"
            for name in ("Agent", "Connection", "Control", "Events", "Gossip", "Heart", "Mingle", "Tasks")
        },
    ),
}
_RESULTS = "results are in Postgres, whatever `result_backend` says; subclasses and annotations want celery.backends.base."
_POOLS = "its pools are other ones, which `pgtasks worker --help` lists."
_INSIDE = "it is the inside of Celery, and the inside here is another one."
_BROKER = "it works on a broker, and there is none."
#: Modules of Celery that have no counterpart, and why; what is below them has none either.
ABSENT = {
    "celery.apps.multi": "`pgtasks multi` starts and stops workers.",
    "celery.backends": _RESULTS,
    "celery.bin.amqp": f"{_BROKER} `pgtasks list` and `pgtasks queue` show the queues.",
    "celery.bin.logtool": "it reads logs of Celery 3. SQL says more: the view pgtasks.tasks.",
    "celery.bin.migrate": "`pgtasks bridge` takes tasks over from a broker.",
    "celery.concurrency.asynpool": _INSIDE,
    "celery.concurrency.eventlet": _POOLS,
    "celery.contrib.migrate": "`pgtasks bridge` takes tasks over from a broker.",
    "celery.contrib.sphinx": "`.. autofunction:: module.task.run` documents a task.",
    "celery.events.cursesmon": "`pgtasks top` shows what workers do.",
    "celery.security": "messages are not signed: who may write to the database may send tasks, which Postgres' roles decide.",
    "celery.utils.annotations": _INSIDE,
    "celery.utils.debug": "`pgtasks inspect memsample` and `memdump` look for leaks, and tracemalloc does.",
    "celery.utils.deprecated": _INSIDE,
    "celery.utils.quorum_queues": _BROKER,
    "celery.utils.static": _INSIDE,
    "celery.utils.timer2": "steps of a worker have `worker.timer`.",
    "celery.worker.heartbeat": _INSIDE,
    "celery.worker.loops": _INSIDE,
    "celery.worker.pidbox": _BROKER,
    "celery.worker.strategy": _INSIDE,
}
_ROOTS = ("celery", "billiard")

#: The release of billiard whose names these are.
BILLIARD_VERSION = "4.3.2"


class _Facade(ModuleType):
    """A module whose names are another module's, but for a few of its own."""

    def __init__(self, name: str, target: ModuleType, elsewhere: Mapping[str, str] = {}, **own: Any) -> None:
        super().__init__(name, target.__doc__)
        self.__dict__.update(own, __path__=[], _target=target, _elsewhere=elsewhere)

    def __getattr__(self, name: str) -> Any:
        path = self.__dict__["_elsewhere"].get(name)
        return symbol_by_name(path) if path else getattr(self.__dict__["_target"], name)

    def __dir__(self) -> Iterable[str]:
        return {*self.__dict__, *self.__dict__["_elsewhere"], *dir(self.__dict__["_target"])}


class _Found(Loader):
    """Gives an import the module that is already there."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has put the alias' spec on the module; its own belongs there. A facade has no other, and
        # `find_spec("celery")`, by which programs ask whether there is a Celery, needs one.
        module.__spec__ = self._spec or module.__spec__

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
            _refuse_absent(fullname)
            return None
        return ModuleSpec(fullname, _Found(module), is_package=hasattr(module, "__path__"))

    def find_distributions(self, context: Any = None) -> Iterable[Distribution]:
        name = getattr(context, "name", None)
        if name is None or name.lower() == "celery":
            yield _CeleryDistribution()


def _celery() -> ModuleType:
    version = _version(CELERY_VERSION)
    elsewhere = {"maybe_patch_concurrency": "pgtasks.concurrency.patching:maybe_patch_concurrency"}
    return _Facade("celery", pgtasks, elsewhere, __version__=CELERY_VERSION, VERSION=version, version_info=version)


def _registry() -> ModuleType:
    # Of the oldest paths, the one that is still in use.
    tasks = Proxy(lambda: _state.get_current_app().tasks)
    return _Facade("celery.registry", import_module("pgtasks.app.registry"), tasks=tasks)


def _billiard() -> ModuleType:
    return _Facade("billiard", multiprocessing, __version__=BILLIARD_VERSION, VERSION=_version(BILLIARD_VERSION))


def _billiard_pool() -> ModuleType:
    worker = import_module("pgtasks.concurrency.base").Worker
    return _Facade("billiard.pool", import_module("multiprocessing.pool"), Worker=worker)


def _billiard_process() -> ModuleType:
    return _Facade("billiard.process", import_module("multiprocessing.process"), Process=multiprocessing.Process)


def _version(text: str) -> pgtasks.version_info_t:
    major, minor, micro = map(int, text.split("."))
    return pgtasks.version_info_t(major, minor, micro)


#: Modules that are another's, with some names of their own.
_FACADES = {
    "celery": _celery,
    "celery.registry": _registry,
    "billiard": _billiard,
    "billiard.pool": _billiard_pool,
    "billiard.process": _billiard_process,
}


def _counterpart(fullname: str, rest: str) -> ModuleType | None:
    if fullname in JOINED:
        target, elsewhere = JOINED[fullname]
        return _Facade(fullname, import_module(target), elsewhere)
    module = _imported(MOVED.get(fullname) or f"pgtasks.{rest}")
    if not hasattr(module, "__path__") and any(name.startswith(f"{fullname}.") for name in MOVED):
        # A package there, and at most a module here: a package that stands for it leads to what is below.
        return _Facade(fullname, module or ModuleType(fullname))
    return module


def _refuse_absent(fullname: str) -> None:
    """Raise ModuleNotFoundError with the reason for what is known not to be there."""
    name = fullname
    while name and name not in ABSENT:
        name = name.rpartition(".")[0]
    if name:
        # Without `name=`: `from celery.backends import redis` would replace the reason by words of its own.
        raise ModuleNotFoundError(f"There is no {fullname} in pgtasks: {ABSENT[name]}")


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
