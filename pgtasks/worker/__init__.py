"""The worker: the process that claims tasks and supervises the children that run them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgtasks.worker.supervisor import Worker as WorkController

__all__ = ("WorkController",)


def __getattr__(name: str) -> Any:
    if name != "WorkController":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # When somebody asks for it: the packages below must be importable from lower floors.
    return import_module("pgtasks.worker.supervisor").Worker
