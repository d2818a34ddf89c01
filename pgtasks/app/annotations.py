"""`task_annotations`: attributes of tasks that are set from the configuration.

The setting is one annotation or a list of them. An annotation is a dict `{task name or '*': {attribute:
value}}`, or an object (or its dotted name) with `annotate(task)` and `annotate_any()`. Each returns the
attributes to set, or nothing. A value under '@method' is a decorator for that method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

from pgtasks.utils.imports import instantiate

__all__ = ("MapAnnotation", "prepare", "resolve_all")

Attributes = dict[str, Any]
#: Makes the annotation when it is first needed: its module may import tasks.
Annotation = Callable[[], Any]


class MapAnnotation(dict[str, Attributes]):
    """The dict form of an annotation."""

    def annotate_any(self) -> Attributes | None:
        return dict(self["*"]) if "*" in self else None

    def annotate(self, task: Any) -> Attributes | None:
        return dict(self[task.name]) if task.name in self else None


def prepare(setting: Any) -> Sequence[Annotation]:
    """Turn the value of `task_annotations` into annotations."""
    if setting is None:
        return ()
    if not isinstance(setting, list | tuple):
        setting = (setting,)
    return [_prepare_one(annotation) for annotation in setting]


def _prepare_one(annotation: Any) -> Annotation:
    if isinstance(annotation, dict):
        annotation = MapAnnotation(annotation)
    elif isinstance(annotation, str):
        return cache(partial(instantiate, annotation))
    return lambda: annotation


def resolve_all(annotations: Sequence[Annotation], task: Any) -> Iterator[Attributes]:
    """Yield what is to be set on `task`: the first answer for it by name, then the first for any task."""
    for method, args in (("annotate", (task,)), ("annotate_any", ())):
        answers = (getattr(make(), method, _no_answer)(*args) for make in annotations)
        attributes = next((answer for answer in answers if answer is not None), None)
        if attributes:
            yield attributes


def _no_answer(*_: Any) -> None:
    return None
