"""then, collect, iterdeps, children, graph: following a result to what it has led to."""

from celery import Celery, chain, group
from celery.result import AsyncResult

from compat.harness import outcome, until, worker

app = Celery("then_and_collect")


@app.task
def add(a, b):
    return a + b


@app.task(bind=True)
def parent(self, n):
    for i in range(n):
        add.delay(i, i)
    return n


@app.task(trail=False, bind=True)
def without_trail(self):
    add.delay(1, 1)


@app.task
def start_group():
    return group(add.s(1, 1), add.s(2, 2)).delay()


def main():
    with worker():
        seen = []
        result = add.delay(1, 2)
        result.then(lambda ready: seen.append((type(ready).__name__, ready.result)))
        print(result.get(timeout=10), seen)
        result.then(lambda ready: seen.append("again"))
        print(seen[1:])
        result = parent.delay(3)
        result.get(timeout=10)
        print(len(result.children), [child.get(timeout=10) for child in result.children])
        print(
            [
                (owner and owner.id == result.id, node.get())
                for owner, node in result.iterdeps(intermediate=True)
            ]
        )
        print(sorted(value for _, value in result.collect(timeout=10)))
        print(outcome(lambda: list(AsyncResult("unknown").iterdeps())))
        print(outcome(lambda: list(AsyncResult("unknown").iterdeps(intermediate=True))))
        result = without_trail.delay()
        result.get(timeout=10)
        print(result.children)
        result = start_group.delay()
        value = result.get(timeout=10)
        print(type(value).__name__, len(value[1]) if isinstance(value, list) else len(value))
        print(len(result.children), [type(child).__name__ for child in result.children])
        chained = chain(add.s(1, 1), add.s(2), add.s(3))()
        chained.get(timeout=10)
        root = chained.parent.parent
        until(lambda: len(root.children or ()) == 1)
        print(
            [value for _, value in root.collect(timeout=10)], root.parent, sum(1 for _ in root.graph.edges())
        )
        print(chained.parent.get(), root.get(), chained.children)
        print(root.get_leaf())
        promise = group(add.s(1, 1), add.s(2, 2))()
        promise.then(lambda ready: seen.append(ready.get()))
        promise.get(timeout=10)
        print(seen[-1])
