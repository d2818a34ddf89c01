"""A task that starts a canvas: ids of its members, children of the caller, priority and headers."""

from celery import Celery, chain, chord, group

from compat.harness import worker

app = Celery("calling_inside")


@app.task(bind=True)
def ids(self, *args):
    return [self.request.root_id, self.request.parent_id]


@app.task(bind=True)
def starts(self, kind):
    canvas = {
        "chain": lambda: chain(ids.s(), ids.s()),
        "group": lambda: group(ids.s(), ids.s()),
        "chord": lambda: chord([ids.s(), ids.s()], ids.s()),
    }
    result = canvas[kind]().delay()
    return self.request.id, result.as_tuple()


def main():
    from celery.result import result_from_tuple

    with worker("-c", "2"):
        for kind in ("chain", "group", "chord"):
            outer = starts.delay(kind)
            own, inner = outer.get(timeout=10)
            result = result_from_tuple(inner, app=app)
            values = result.get(timeout=10)
            print(kind, type(result).__name__, len(outer.children), type(outer.children[0]).__name__)
            for root, parent in values if kind == "group" else [values]:
                print("   root is the caller", root == own, "parent is the caller", parent == own)
