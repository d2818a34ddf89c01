"""A canvas as one sees it and works on it once it has been sent: its tasks, how far they are, and doing parts of it again.

`load` reads all tasks that edges connect with one. A graph can be shown as text, JSON, DOT (Graphviz) and SVG; what failed
in it can be run again (`redrive`), and from any of its tasks on, it can be run as a copy under new ids (`fork`).
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any, NamedTuple
from uuid import UUID

from pgtasks.canvas.undoing import UNDO
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.message import Claim, Message, id_of, new_id
from pgtasks.store import graphs, tasks
from pgtasks.store.graphs import GraphNode

__all__ = ("AS_SENT", "CanvasGraph", "fork", "load", "redrive", "written_down")

#: Among the options of a message that was made anew, by a retry or a replacement: how the task was called before.
AS_SENT = "as_sent"

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


class _Edge(NamedTuple):
    succ: UUID
    pred: UUID
    position: int


@dataclass(frozen=True)
class CanvasGraph:
    """The tasks of one canvas, in the order in which they were made."""

    nodes: Sequence[GraphNode]

    @cached_property
    def by_id(self) -> dict[UUID, GraphNode]:
        return {node.id: node for node in self.nodes}

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


def redrive(app: Any, task_id: str) -> int:
    """Run again what failed in the canvas of a task; gives how many tasks, 0 when nothing has failed.

    What succeeded keeps its result. Of a canvas that was undone, only undos run again. Raises `ImproperlyConfigured`
    while tasks of the canvas have not ended, and where something failed that was undone.
    """
    graph = _known(app, task_id)
    unfinished = [node for node in graph.nodes if node.result_state is None or node.is_claimed]
    if unfinished:
        raise ImproperlyConfigured(
            f"{len(unfinished)} of {len(graph.nodes)} tasks of this canvas have not ended, such as"
            f" {unfinished[0].name}[{unfinished[0].public_id}]. Wait for them, or revoke them, and redrive then."
        )
    failed = [node.id for node in graph.nodes if node.result_state != "SUCCESS"]
    if any(graph.undos.values()):
        undos = [each for each in failed if each in graph.undoing]
        if failed and not undos:
            raise ImproperlyConfigured(f"The canvas of task {task_id} has failed and was undone. Send it again.")
        failed = undos
    redriven: int = app.database.run_together(tasks.hold(graph.by_id), graphs.redrive(graph.by_id, failed))[-1]
    return redriven


def fork(app: Any, task_id: str, from_node: str | None = None) -> dict[str, str]:
    """Run part of a canvas again: a task and everything that waits for it, as copies under new ids.

    What they wait for outside of that part must have succeeded and is not run again. Gives the new id of each copied
    task by its old one; the originals stay as they are.
    """
    graph = _known(app, task_id)
    start = id_of(from_node or task_id)
    if start not in graph.by_id:
        raise ImproperlyConfigured(
            f"Task {from_node} is not part of the canvas of {task_id}; `pgtasks graph` lists its tasks."
        )
    if graph.is_undone(start) or start in graph.undoing:
        raise ImproperlyConfigured(
            f"The canvas of task {task_id} was undone: what a fork would begin with is gone. Send it again."
        )
    copied = {start, *graph.successors(start)}
    _check_inputs(graph, copied)
    new_ids = {old: new_id(old) for old in copied}
    copies = [_copy(_as_sent(message), new_ids) for message in app.database.run(graphs.messages(copied))]
    edges = [
        _Edge(new_ids[old], new_ids.get(pred, pred), position)
        for old in copied
        for pred, position in zip(graph.by_id[old].preds, graph.by_id[old].positions, strict=True)
        # A fork undoes what it has done itself.
        if pred in copied or old not in graph.undoing
    ]
    app.database.run(tasks.enqueue(copies, edges))
    return {graph.by_id[old].public_id: str(new) for old, new in new_ids.items()}


def _check_inputs(graph: CanvasGraph, copied: Iterable[UUID]) -> None:
    copied = set(copied)
    for pred in {pred for old in copied - graph.undoing for pred in graph.by_id[old].preds} - copied:
        node = graph.by_id.get(pred)
        if node is None or node.result_state != "SUCCESS":
            state = "gone" if node is None else node.state
            raise ImproperlyConfigured(
                f"A fork from here needs the result of task {pred}, which is {state}. Fork from that task, or redrive."
            )


def written_down(call: Claim) -> dict[str, Any]:
    """A call that takes results, as JSON: its message is about to be made anew, with the results among the arguments."""
    return {
        **{name: getattr(call, name) for name in ("name", "content_type", "content_encoding", "inputs", "queue")},
        "priority": -call.rank,
        "payload": b64encode(call.payload).decode(),
        "options": call.options.decode("utf-8", "surrogatepass") if call.options else None,
    }


def _as_sent(message: Message) -> Message:
    """The message as it was before the task was retried, or replaced: what it gets may be others' results this time."""
    sent = json.loads(message.options).get(AS_SENT) if message.options else None
    if sent is None:
        return message
    options = sent["options"]
    written = {
        "payload": b64decode(sent["payload"]),
        "options": None if options is None else options.encode("utf-8", "surrogatepass"),
    }
    return replace(message, **{**sent, **written})


def _copy(message: Message, new_ids: dict[UUID, UUID]) -> Message:
    return replace(message, id=new_ids[message.id], root=message.root or message.id)


def _known(app: Any, task_id: str) -> CanvasGraph:
    graph = load(app, task_id)
    if not graph.nodes:
        raise ImproperlyConfigured(
            f"No task {task_id} is known here; its rows may have been removed after result_expires."
        )
    return graph
