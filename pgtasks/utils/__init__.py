"""Helpers with no knowledge of tasks, one module per subject.

Celery offers the names below here as well; they are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kombu.utils.objects import cached_property
    from kombu.utils.uuid import uuid
    from kombu.utils.uuid import uuid as gen_unique_id

    from pgtasks.utils.functional import chunks, memoize, noop
    from pgtasks.utils.imports import gen_task_name, import_from_cwd, instantiate
    from pgtasks.utils.imports import qualname as get_full_cls_name
    from pgtasks.utils.imports import symbol_by_name as get_cls_by_name
    from pgtasks.utils.log import LOG_LEVELS
    from pgtasks.utils.nodenames import nodename, nodesplit, worker_direct

__all__ = (
    "LOG_LEVELS",
    "cached_property",
    "chunks",
    "gen_task_name",
    "gen_unique_id",
    "get_cls_by_name",
    "get_full_cls_name",
    "import_from_cwd",
    "instantiate",
    "memoize",
    "nodename",
    "nodesplit",
    "noop",
    "uuid",
    "worker_direct",
)

_HOMES = {
    "kombu.utils.objects": ("cached_property",),
    "kombu.utils.uuid": ("uuid",),
    "pgtasks.utils.functional": ("chunks", "memoize", "noop"),
    "pgtasks.utils.imports": ("gen_task_name", "import_from_cwd", "instantiate"),
    "pgtasks.utils.log": ("LOG_LEVELS",),
    "pgtasks.utils.nodenames": ("nodename", "nodesplit", "worker_direct"),
}
#: Where a name is, and what it is called there.
_ORIGINS = {name: (module, name) for module, names in _HOMES.items() for name in names} | {
    "gen_unique_id": ("kombu.utils.uuid", "uuid"),
    "get_cls_by_name": ("pgtasks.utils.imports", "symbol_by_name"),
    "get_full_cls_name": ("pgtasks.utils.imports", "qualname"),
}


def __getattr__(name: str) -> Any:
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, original = _ORIGINS[name]
    return getattr(import_module(module), original)
