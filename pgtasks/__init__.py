"""Celery's API on Postgres alone.

Every name here is imported when it is first used: `import pgtasks` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from kombu.common import Broadcast
    from kombu.entity import Exchange, Queue
    from kombu.utils.uuid import uuid

    from pgtasks._state import current_app, current_task
    from pgtasks.aliases import install_as_celery
    from pgtasks.app.base import Celery
    from pgtasks.app.sharing import bugreport, shared_task
    from pgtasks.app.task import Task
    from pgtasks.canvas import StampingVisitor, chain, chord, chunks, group, subtask, xmap, xstarmap
    from pgtasks.canvas.signature import Signature, maybe_signature, signature
    from pgtasks.flow import Debounce, Flow, Unique
    from pgtasks.workflow import wf

__version__ = "0.1.0"

__all__ = (
    "SERIES",
    "VERSION",
    "VERSION_BANNER",
    "Broadcast",
    "Celery",
    "Debounce",
    "Exchange",
    "Flow",
    "Queue",
    "Signature",
    "StampingVisitor",
    "Task",
    "Unique",
    "__version__",
    "bugreport",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "install_as_celery",
    "maybe_signature",
    "shared_task",
    "signature",
    "subtask",
    "uuid",
    "version_info",
    "wf",
    "xmap",
    "xstarmap",
)


class version_info_t(NamedTuple):
    major: int
    minor: int
    micro: int
    releaselevel: str = ""
    serial: str = ""


SERIES = "elephant"
VERSION = version_info = version_info_t(0, 1, 0)
VERSION_BANNER = f"{__version__} ({SERIES})"

_HOMES = {
    "kombu.entity": ("Exchange", "Queue"),
    "kombu.common": ("Broadcast",),
    "kombu.utils.uuid": ("uuid",),
    "pgtasks._state": ("current_app", "current_task"),
    "pgtasks.aliases": ("install_as_celery",),
    "pgtasks.app.sharing": ("bugreport", "shared_task"),
    "pgtasks.app.base": ("Celery",),
    "pgtasks.app.task": ("Task",),
    "pgtasks.flow": ("Debounce", "Flow", "Unique"),
    "pgtasks.workflow": ("wf",),
    "pgtasks.canvas": (
        *("Signature", "StampingVisitor", "chain", "chord", "chunks", "group"),
        *("maybe_signature", "signature", "subtask", "xmap", "xstarmap"),
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is not None:
        value = globals()[name] = getattr(import_module(home), name)
        return value
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        # `import celery; celery.states.SUCCESS` works there, so it does here.
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as exc:
        if exc.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
