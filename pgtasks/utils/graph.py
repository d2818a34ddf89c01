"""A graph of what depends on what, sortable and printable in Graphviz' dot language.

`AsyncResult.graph` is one, with the results as nodes. Names are those of `celery.utils.graph`.
"""

from __future__ import annotations

import graphlib
from collections.abc import Hashable, ItemsView, Iterable, Iterator, Mapping
from typing import Any, TextIO

__all__ = ("CycleError", "DependencyGraph", "GraphFormatter")

Node = Hashable


class CycleError(Exception):
    """The nodes depend on each other in a circle, so no order exists."""


class DependencyGraph:
    """Nodes and the nodes that each of them depends on, in the order they were added."""

    def __init__(
        self,
        it: Iterable[tuple[Node, Iterable[Node]]] | None = None,
        formatter: GraphFormatter | None = None,
    ) -> None:
        self.formatter = formatter or GraphFormatter()
        self.adjacent: dict[Node, list[Node]] = {}
        if it is not None:
            self.update(it)

    def add_arc(self, obj: Node) -> None:
        """Add a node; one that is already there keeps its edges."""
        self.adjacent.setdefault(obj, [])

    def add_edge(self, dependent: Node, dependency: Node) -> None:
        """Say that one node depends on another; raises KeyError when the first was not added."""
        self.adjacent[dependent].append(dependency)

    def connect(self, graph: DependencyGraph) -> None:
        """Take over the nodes and edges of another graph."""
        self.adjacent.update(graph.adjacent)

    def update(self, it: Iterable[tuple[Node, Iterable[Node]]]) -> None:
        """Add `(node, dependencies)` pairs."""
        pairs = list(it)
        for node, _ in pairs:
            self.add_arc(node)
        for node, dependencies in pairs:
            for dependency in dependencies:
                self.add_edge(node, dependency)

    def topsort(self) -> list[Node]:
        """List the nodes so that each comes after all it depends on; raises `CycleError` in a circle."""
        try:
            return list(graphlib.TopologicalSorter(self.adjacent).static_order())
        except graphlib.CycleError as exc:
            circle = " -> ".join(str(node) for node in exc.args[1])
            raise CycleError(f"No order exists: {circle} depend on each other. Remove one edge.") from exc

    def valency_of(self, obj: Node) -> int:
        """Count the edges below a node, along every path."""
        below = self.adjacent.get(obj, [])
        return len(below) + sum(self.valency_of(node) for node in below)

    def edges(self) -> Iterator[Node]:
        """Iterate over the nodes that depend on something."""
        return (node for node, below in self.items() if below)

    def to_dot(self, fh: TextIO, formatter: GraphFormatter | None = None) -> None:
        """Write the graph to an open text file, in the dot language."""
        draw = formatter or self.formatter
        drawn: set[Any] = set()

        fh.write(draw.head() + "\n")
        for node, below in self.items():
            if draw.label(node) not in drawn:
                drawn.add(draw.label(node))
                fh.write((draw.node if below else draw.terminal_node)(node) + "\n")
            for dependency in below:
                fh.write(draw.edge(node, dependency) + "\n")
        fh.write(draw.tail() + "\n")

    def items(self) -> ItemsView[Node, list[Node]]:
        return self.adjacent.items()

    def __iter__(self) -> Iterator[Node]:
        return iter(self.adjacent)

    def __getitem__(self, node: Node) -> list[Node]:
        return self.adjacent[node]

    def __len__(self) -> int:
        return len(self.adjacent)

    def __contains__(self, node: Node) -> bool:
        return node in self.adjacent

    def __repr__(self) -> str:
        return "\n".join(self.repr_node(node) for node in self)

    def repr_node(self, obj: Node, level: int = 1) -> str:
        """One line per node below `obj`, indented by depth, each with its valency."""
        lines = [f"{obj}({self.valency_of(obj)})"]
        for dependency in self.adjacent.get(obj, []):
            lines.append("     " * level + self.repr_node(dependency, level + 1))
        return "\n".join(lines)


Attributes = Mapping[str, object]


class GraphFormatter:
    """Says what the parts of a graph look like in dot; override `label` to rename nodes."""

    scheme: Attributes = {"shape": "box", "arrowhead": "vee", "style": "filled", "fontname": "HelveticaNeue"}
    edge_scheme: Attributes = {"color": "darkseagreen4", "arrowcolor": "black", "arrowsize": 0.7}
    node_scheme: Attributes = {"fillcolor": "palegreen3", "color": "palegreen4"}
    term_scheme: Attributes = {"fillcolor": "palegreen1", "color": "palegreen2"}
    graph_scheme: Attributes = {"bgcolor": "mintcream"}

    _arrows = {"graph": "--", "digraph": "->"}

    def __init__(
        self,
        root: object = None,
        type: str | None = None,
        id: str | None = None,
        indent: int = 0,
        inw: str = " " * 4,
        **scheme: object,
    ) -> None:
        self.id = id or "dependencies"
        self.root = root
        self.type = type or "digraph"
        self.direction = self._arrows[self.type]
        self.outer = inw * indent
        self.inner = self.outer + inw
        self.scheme = {**self.scheme, **scheme}
        self.graph_scheme = {**self.graph_scheme, "root": self.label(self.root)}

    def label(self, obj: Any) -> Any:
        """Name a node."""
        return obj

    def attrs(self, attrs: Attributes, scheme: Attributes) -> str:
        """Write the attributes of one part: the general ones, then those of its kind, then its own."""
        return ", ".join(f'{name}="{value}"' for name, value in {**self.scheme, **scheme, **attrs}.items())

    def head(self, **attrs: object) -> str:
        graph = f"{self.inner}graph [{self.attrs(attrs, self.graph_scheme)}]"
        return f"{self.outer}{self.type} {self.id} {{\n{graph}"

    def tail(self) -> str:
        return f"{self.outer}}}"

    def node(self, obj: Any, **attrs: object) -> str:
        return self._drawn_node(obj, self.node_scheme, attrs)

    def terminal_node(self, obj: Any, **attrs: object) -> str:
        return self._drawn_node(obj, self.term_scheme, attrs)

    def _drawn_node(self, obj: Any, scheme: Attributes, attrs: Attributes) -> str:
        return f'{self.inner}"{self.label(obj)}" [{self.attrs(attrs, scheme)}]'

    def edge(self, a: Any, b: Any, **attrs: object) -> str:
        ends = f'"{self.label(a)}" {self.direction} "{self.label(b)}"'
        return f"{self.inner}{ends} [{self.attrs(attrs, self.edge_scheme)}]"
