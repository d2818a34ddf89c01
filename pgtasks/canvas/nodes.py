"""The plan of a canvas as values: its nodes and the edges between them.

    chain(a, b)                    a ── b        b gets what a returned
    chain(a, group(b, c))          a ─┬ b        both get it
                                      └ c
    chord([a, b], c)               a ─┬ c        c gets [a's, b's], in the order of the header
                                   b ─┘
    a.link(b)                      a ── b        as in a chain, but b is no part of the result

A node carries all that its message needs. Its errbacks travel in `embed`, where the worker that sees it fail
finds them; its callbacks are nodes of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

from pgtasks.message import Inputs

#: How a flat list of results becomes the nested one that a chord's body gets: positions, and lists of them.
Shape: TypeAlias = "Sequence[int | Shape]"

#: Why a task waits, which decides what becomes of it when a predecessor fails (see `pgtasks.canvas.failing`):
#: not at all, for the step before it in a chain, as a chord's body, as a member of a group that is a chord's body,
#: or as a callback.
Role = Literal["first", "step", "body", "member", "callback"]


class Edge(NamedTuple):
    """`succ` waits for `pred`, whose result is at `position` among its inputs."""

    pred: UUID
    succ: UUID
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One task of a canvas."""

    id: UUID
    task_id: str
    name: str
    #: Without the first argument where that is made of the results of predecessors: see `inputs`.
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: Those of `apply_async`, completed by the task's own, less what has a field here.
    options: dict[str, Any]
    #: The third part of the message body: errbacks.
    embed: dict[str, Any] = field(default_factory=dict)
    #: What the results of `waits_for` become: nothing, the first argument as one value, or as their list.
    inputs: Inputs = "none"
    waits_for: tuple[UUID, ...] = ()
    #: How that list is nested, see `shaped`.
    shape: Shape | None = None
    role: Role = "first"
    #: For the body of a chord: the first task of the header, if that waits for something before the chord.
    entry: UUID | None = None
    #: For a task with which a member of a group begins, where the group comes after another task: the id of the group, the
    #: id of the member's result (or the tuple that stands for it, if that is a group), and the member's place.
    begins: tuple[str, Any, int] | None = None
    root: UUID
    parent: UUID | None = None
    group_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A canvas, ready to be written: predecessors come before their successors.

    `result` is what the caller gets and `trail` what the calling task remembers as its child, both result
    objects. `ends` are the tasks whose results are the canvas' own. `names` are the ids that are no UUIDs, by the keys
    that stand for them. `is_repeated` says that the same canvas was sent before, under the same ids.
    """

    nodes: tuple[Node, ...]
    result: Any
    trail: Any
    ends: tuple[UUID, ...]
    names: Mapping[UUID, str] = field(default_factory=dict)
    is_repeated: bool = False

    @property
    def edges(self) -> Iterator[Edge]:
        """All dependencies, successor by successor, in the order of their positions."""
        for node in self.nodes:
            for position, pred in enumerate(node.waits_for):
                yield Edge(pred, node.id, position)


def shaped(values: Sequence[Any], shape: Shape | None) -> list[Any]:
    """Arrange the results of predecessors as a chord's body expects them.

    Predecessors that joined later (`add_to_chord`), which the shape does not know, come last.
    """
    if shape is None:
        return list(values)
    return [*_nested(values, shape), *values[_size(shape) :]]


def _nested(values: Sequence[Any], shape: Shape) -> list[Any]:
    return [values[at] if isinstance(at, int) else _nested(values, at) for at in shape]


def _size(shape: Shape) -> int:
    return sum(1 if isinstance(at, int) else _size(at) for at in shape)
