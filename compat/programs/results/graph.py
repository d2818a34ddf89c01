"""The results a task started: children, collect, graph, and tuples that rebuild them."""

from celery import Celery, chain, chord, group
from celery.result import result_from_tuple

from compat.harness import worker

app = Celery("graph")


@app.task
def number(n):
    return n


@app.task
def double(n):
    return 2 * n


@app.task
def tree(depth):
    if depth:
        tree.delay(depth - 1)
        tree.delay(0)
    return depth


@app.task
def total(values):
    return sum(values)


@app.task
def fans_out(n):
    group(number.s(i) for i in range(n))()
    return n


def main():
    with worker():
        result = chain(number.s(1), double.s(), double.s())()
        result.get(timeout=10)
        first = result.parent.parent
        print(
            [value for _, value in first.collect()],
            [value for _, value in first.collect(intermediate=True)],
            first.get_leaf(),
        )
        print([(parent.result if parent else None, node.result) for parent, node in first.iterdeps()])
        print([each.result for each in first.graph], len(list(first.graph.edges())), type(first.graph).__name__)
        tuple_ = result.as_tuple()
        again = result_from_tuple(tuple_, app=app)
        print(
            again == result,
            again.parent == result.parent,
            again.get(),
            again.parent.parent.get(),
            again.as_tuple() == tuple_,
        )
        print([id_ == node.id for id_, node in zip(result.as_list(), (result, result.parent, first))])
        grown = tree.delay(2)
        grown.get(timeout=10)
        number.delay(0).get(timeout=10), number.delay(0).get(timeout=10)
        print([value for _, value in grown.collect()], [child.get(timeout=10) for child in grown.children])
        fan = fans_out.delay(3)
        fan.get(timeout=10)
        number.delay(0).get(timeout=10)
        print(
            type(fan.children[0]).__name__,
            fan.children[0].get(timeout=10),
            [v for _, v in fan.collect() if not isinstance(v, list)],
        )
        joined = chord([number.s(1), number.s(2)])(total.s())
        print(
            joined.get(timeout=10),
            joined.parent.children == joined.parent.results,
            joined.as_tuple()[0][1][0][0] == joined.parent.id,
        )
        rebuilt = result_from_tuple(joined.as_tuple(), app=app)
        print(rebuilt.get(timeout=1), rebuilt.parent.get(timeout=1), type(rebuilt.parent).__name__)
        grouped = group(number.s(1), number.s(2))()
        print(grouped.get(timeout=10))
        print(result_from_tuple(grouped.as_tuple(), app=app) == grouped, grouped.as_tuple()[0][0] == grouped.id)
        number.delay(0).get(timeout=10)
