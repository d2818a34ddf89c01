"""Graphs of dependencies, compared with Celery's."""

from __future__ import annotations

import io
from typing import Any

import celery.utils.graph
import pytest

import pgtasks.utils.graph
from pgtasks.utils.graph import CycleError, DependencyGraph

PAIRS = [("a", ["b", "c"]), ("b", ["d"]), ("c", ["d"]), ("d", [])]


def described(kit: Any) -> list[Any]:
    graph = kit.DependencyGraph(PAIRS, formatter=kit.GraphFormatter(root="a", shape="oval"))
    out = io.StringIO()
    graph.to_dot(out)
    sizes = [graph.valency_of(node) for node in (*graph, "unknown")]
    return [out.getvalue(), repr(graph), sizes, list(graph.edges()), len(graph), "b" in graph, graph["a"]]


def test_a_graph_is_drawn_and_described_as_celery_does() -> None:
    assert described(pgtasks.utils.graph) == described(celery.utils.graph)


def test_each_node_comes_after_all_it_depends_on() -> None:
    order = DependencyGraph(PAIRS).topsort()

    assert order[0] == "d"
    assert order[-1] == "a"
    assert len(order) == 4


def test_a_circle_has_no_order_and_is_named() -> None:
    graph = DependencyGraph([("a", ["b"]), ("b", ["a"])])

    with pytest.raises(CycleError, match=r"No order exists: (a|b) -> "):
        graph.topsort()


def test_an_edge_from_an_unknown_node_is_refused() -> None:
    with pytest.raises(KeyError):
        DependencyGraph().add_edge("a", "b")


def test_graphs_can_be_joined() -> None:
    graph = DependencyGraph([("a", [])])

    graph.connect(DependencyGraph([("b", ["c"]), ("c", [])]))

    assert dict(graph.items()) == {"a": [], "b": ["c"], "c": []}
