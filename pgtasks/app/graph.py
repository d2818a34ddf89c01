"""A canvas as one sees it once it has been sent: its tasks, and how far they are.

`load` reads all tasks that edges connect with one: its canvas, and the forks of that, which share results with it. A graph can
be shown as text, JSON, DOT (Graphviz) and SVG. `pgtasks.app.rerun` does parts of it again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any
from uuid import UUID

from pgtasks.app.forms import Marks, marks_of
from pgtasks.canvas.undoing import UNDO
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.message import id_of
from pgtasks.store import graphs
from pgtasks.store.graphs import GraphNode

__all__ = ("CanvasGraph", "ids_of", "known", "load")

_COLOURS = {
    "SUCCESS": "#2e7d32",
    "FAILURE": "#c62828",
    "REVOKED": "#6d4c41",
    "STARTED": "#1565c0",
    "READY": "#546e7a",
    "SCHEDULED": "#6a1b9a",
}
_OTHER_COLOUR = "#9e9e9e"
_BOX_WIDTH, _BOX_HEIGHT, _GAP_X, _GAP_Y = 190, 44, 30, 50


@dataclass(frozen=True)
class CanvasGraph:
    """The tasks of one canvas, in the order in which they were made."""

    nodes: Sequence[GraphNode]

    @cached_property
    def by_id(self) -> dict[UUID, GraphNode]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def marks(self) -> dict[UUID, Marks]:
        """What each task's message says of its past."""
        return {node.id: marks_of(node.options) for node in self.nodes}

    def makers(self, task_id: UUID) -> list[UUID]:
        """The task that a task came with, as a part of what replaces it or was added to its chord; and that one's, and so on."""
        makers: list[UUID] = []
        maker: UUID | None = task_id
        while maker in self.marks and maker not in makers:
            makers.append(maker)
            marks = self.marks[maker]
            maker = marks.made_by or marks.added_by or self._senders.get(maker)
        return makers[1:]

    @cached_property
    def _senders(self) -> dict[UUID, UUID]:
        """Which task has sent those that undo."""
        return {undo: sender for sender, undos in self.undos.items() for undo in undos}

    def fork_of(self, task_id: UUID) -> str | None:
        """Which fork a task belongs to; None for the original."""
        own = (self.marks[each].fork for each in (task_id, *self.makers(task_id)))
        return next((fork for fork in own if fork is not None), None)

    def same_fork(self, task_id: UUID) -> set[UUID]:
        """The tasks of the original, or of the fork, that a task is part of."""
        if not any(marks.fork for marks in self.marks.values()):
            return set(self.by_id)
        fork = self.fork_of(task_id)
        return {node.id for node in self.nodes if self.fork_of(node.id) == fork}

    @cached_property
    def depths(self) -> dict[UUID, int]:
        """How many tasks, at the most, come one after the other before each one."""
        depths: dict[UUID, int] = {}
        left = list(self.nodes)
        while left:
            known = [node for node in left if all(pred in depths or pred not in self.by_id for pred in node.preds)]
            for node in known or left:
                depths[node.id] = 1 + max((depths.get(pred, -1) for pred in node.preds), default=-1)
            left = [node for node in left if node.id not in depths]
        return depths

    def successors(self, task_id: UUID) -> set[UUID]:
        """Every task that waits for this one, directly or not."""
        found: set[UUID] = set()
        wanted = {task_id}
        while wanted:
            wanted = {node.id for node in self.nodes if wanted.intersection(node.preds)} - found
            found |= wanted
        return found

    @cached_property
    def undos(self) -> dict[UUID, set[UUID]]:
        """The tasks that undo, by the one that has sent them, or has sent none."""
        return {node.id: self.successors(node.id) for node in self.nodes if node.name == UNDO}

    @cached_property
    def undoing(self) -> set[UUID]:
        """The tasks that undo this canvas, and those that send them."""
        return set(self.undos).union(*self.undos.values())

    def is_undone(self, task_id: UUID) -> bool:
        """Were undos sent for the canvas of this task?

        Forks share what comes before them with the original, and are undone by themselves.
        """
        after = self.successors(task_id)
        senders = [sender for sender in self.undos if sender in after]
        own = [sender for sender in senders if task_id in self.by_id[sender].preds]
        return any(map(self.undos.get, own)) if own else bool(senders) and all(map(self.undos.get, senders))

    # -- as people and programs read it

    def text(self) -> str:
        """One line per task, indented by how deep it is in the canvas."""
        ordered = sorted(self.nodes, key=lambda node: self.depths[node.id])
        width = max((2 * self.depths[node.id] + len(node.name) for node in ordered), default=0)
        return "\n".join(
            f"{'  ' * self.depths[node.id] + node.name:<{width}}  {node.state:<9}  {node.public_id}" for node in ordered
        )

    def json(self) -> str:
        """Nodes with id, name, queue, state, and the ids of what each waits for."""
        return json.dumps(
            [
                {
                    "id": node.public_id,
                    "name": node.name,
                    "queue": node.queue,
                    "state": node.state,
                    "group": node.group_id,
                    "waits_for": [self.by_id[pred].public_id for pred in node.preds if pred in self.by_id],
                }
                for node in self.nodes
            ],
            indent=2,
        )

    def dot(self) -> str:
        """A directed graph in Graphviz' language."""
        lines = ["digraph canvas {", "  rankdir=TB; node [shape=box, style=rounded];"]
        for node in self.nodes:
            label = json.dumps(f"{node.name}\n{node.state}")
            lines.append(f'  "{node.id}" [label={label}, color="{_colour(node)}"];')
        lines += [f'  "{pred}" -> "{node.id}";' for node in self.nodes for pred in node.preds]
        return "\n".join([*lines, "}"])

    def svg(self) -> str:
        """A drawing: layers from top to bottom, one box per task, coloured by its state."""
        layers: dict[int, list[GraphNode]] = {}
        for node in self.nodes:
            layers.setdefault(self.depths[node.id], []).append(node)
        width = max((len(layer) for layer in layers.values()), default=1) * (_BOX_WIDTH + _GAP_X) + _GAP_X
        height = len(layers) * (_BOX_HEIGHT + _GAP_Y) + _GAP_Y
        places = {
            node.id: (
                (width - len(layer) * (_BOX_WIDTH + _GAP_X) + _GAP_X) / 2 + at * (_BOX_WIDTH + _GAP_X),
                _GAP_Y / 2 + depth * (_BOX_HEIGHT + _GAP_Y),
            )
            for depth, layer in layers.items()
            for at, node in enumerate(layer)
        }
        parts = [_svg_line(places[pred], places[n.id]) for n in self.nodes for pred in n.preds if pred in places]
        parts += [_svg_box(node, *places[node.id]) for node in self.nodes]
        body = "\n".join(parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}"'
            f' font-family="sans-serif" font-size="12">\n{body}\n</svg>'
        )


def _colour(node: GraphNode) -> str:
    return _COLOURS.get(node.state, _OTHER_COLOUR)


def _svg_line(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1 = start[0] + _BOX_WIDTH / 2, start[1] + _BOX_HEIGHT
    x2, y2 = end[0] + _BOX_WIDTH / 2, end[1]
    middle = (y1 + y2) / 2
    return f'<path d="M{x1:g} {y1:g} C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}" fill="none" stroke="#90a4ae"/>'


def _svg_box(node: GraphNode, x: float, y: float) -> str:
    name = node.name if len(node.name) <= 28 else f"…{node.name[-27:]}"
    return (
        f'<g><title>{escape(node.public_id)}</title><rect x="{x:g}" y="{y:g}" width="{_BOX_WIDTH}"'
        f' height="{_BOX_HEIGHT}" rx="6" fill="white" stroke="{_colour(node)}" stroke-width="2"/>'
        f'<text x="{x + _BOX_WIDTH / 2:g}" y="{y + 18:g}" text-anchor="middle">{escape(name)}</text>'
        f'<text x="{x + _BOX_WIDTH / 2:g}" y="{y + 35:g}" text-anchor="middle" fill="{_colour(node)}">{node.state}</text></g>'
    )


def load(app: Any, task_id: str) -> CanvasGraph:
    """Read the canvas that a task is part of; without nodes when the id is unknown."""
    return CanvasGraph(app.database.run(graphs.graph(id_of(task_id))))


def known(app: Any, task_id: str) -> CanvasGraph:
    """`load`, or `ImproperlyConfigured` when the id is unknown."""
    graph = load(app, task_id)
    if not graph.nodes:
        raise ImproperlyConfigured(
            f"No task {task_id} is known here; its rows may have been removed after result_expires."
        )
    return graph


def ids_of(app: Any, task_id: str) -> list[str]:
    """The ids of the tasks of a canvas, or of the fork that a task is part of, without those that undo it."""
    graph = load(app, task_id)
    own = graph.same_fork(id_of(task_id)) - graph.undoing if graph.nodes else ()
    return [node.public_id for node in graph.nodes if node.id in own] or [task_id]
