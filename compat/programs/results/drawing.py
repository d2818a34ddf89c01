"""A result's graph of dependencies can be drawn: result.graph.to_dot"""

import io
import re

from celery import Celery, chain, group

from compat.harness import worker

app = Celery("drawing")


@app.task
def add(x, y=0):
    return x + y


def dot(graph, names):
    out = io.StringIO()
    graph.to_dot(out)
    text = re.sub(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", lambda found: names.get(found[0], "other"), out.getvalue())
    return sorted(line.strip() for line in text.splitlines())


def main():
    with worker():
        result = chain(add.s(1, 1), add.s(2), add.s(3))()
        print(result.get(timeout=20))
        first = result.parent.parent
        names = {first.id: "first", result.parent.id: "second", result.id: "third"}
        for line in dot(first.graph, names):
            print(line)
        print([names[node.id] for node in first.graph.topsort()])
        print(sorted(str(value) for value in first.graph.valency_of(first) and [first.graph.valency_of(first)]))
        print("second" in {names[node.id] for node in first.graph}, len(first.graph.items()))
        started = group(add.s(1), add.s(2))()
        started.get(timeout=20)
        print(len(started.results))
