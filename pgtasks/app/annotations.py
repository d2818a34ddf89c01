"""`task_annotations`: attributes of tasks that are set from the configuration.

The setting is one annotation or a list of them. An annotation is a dict `{task name or '*': {attribute:
value}}`, or an object (or its dotted name) with `annotate(task)` and `annotate_any()`. Each returns the
attributes to set, or nothing. A value under '@method' is a decorator for that method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pgtasks.utils.functional import firstmethod, mlazy
from pgtasks.utils.imports import instantiate

__all__ = ("MapAnnotation", "prepare", "resolve_all")

Attributes = dict[str, Any]

_ask = firstmethod("annotate")
_ask_any = firstmethod("annotate_any")


class MapAnnotation(dict[str, Attributes]):
    """The dict form of an annotation."""

    def annotate_any(self) -> Attributes | None:
        return dict(self["*"]) if "*" in self else None

    def annotate(self, task: Any) -> Attributes | None:
        return dict(self[task.name]) if task.name in self else None


def prepare(setting: Any) -> Sequence[Any]:
    """Turn the value of `task_annotations` into annotations."""
    if setting is None:
        return ()
    if not isinstance(setting, list | tuple):
        setting = (setting,)
    return [_prepare_one(annotation) for annotation in setting]


def _prepare_one(annotation: Any) -> Any:
    if isinstance(annotation, str):
        # Lazy: its module may import tasks, so it waits until a task is bound.
        return mlazy(instantiate, annotation)
    return MapAnnotation(annotation) if isinstance(annotation, dict) else annotation


def resolve_all(annotations: Sequence[Any], task: Any) -> Iterator[Attributes]:
    """Yield the attributes to set on `task`: the first answer for it by name, then the first for any task."""
    for attributes in (_ask(annotations, task), _ask_any(annotations)):
        if attributes:
            yield attributes
