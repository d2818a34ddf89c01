"""A group runs its members side by side and gives their results in its own order."""

from celery import Celery, chain, group

from compat.harness import outcome, worker

app = Celery("groups")


@app.task
def add(a, b=0):
    return a + b


@app.task(bind=True)
def ids(self, *args):
    return self.request.group, self.request.group_index, self.request.root_id == self.request.id, self.request.parent_id


@app.task
def fail():
    raise ValueError("member failed")


def main():
    with worker("-c", "2"):
        result = group(add.s(n, n) for n in range(5))()
        print(
            type(result).__name__,
            result.get(timeout=10),
            result.ready(),
            result.successful(),
            result.completed_count(),
            len(result),
        )
        print(
            group([add.s(1, 1), add.s(2, 2)]).delay().get(timeout=10),
            group(add.s(1), add.s(2)).delay(10).get(timeout=10),
        )
        print(
            group(add.s(1), add.s(2)).apply_async((5,), {}).get(timeout=10),
            group(add.si(1, 1), add.s(2)).delay(10).get(timeout=10),
        )
        print(group()().get(timeout=1), group([]).apply_async().results, bool(group()()))
        nested = group(add.s(1), group(add.s(2), group(add.s(3), add.s(4))), chain(add.s(5), add.s(6)))()
        print(nested.get(timeout=10), [type(r).__name__ for r in nested.results])
        found = group(ids.s(), ids.s())()
        print(
            [member == [found.id, n, True, None] for n, member in enumerate(found.get(timeout=10))],
            [m[1:] for m in found.get()],
        )
        mixed = group(add.s(1), fail.s(), add.s(3))()
        print(outcome(mixed.get, timeout=10), mixed.failed(), mixed.successful())
        values = mixed.get(timeout=10, propagate=False)
        print([repr(v) for v in values], mixed.completed_count(), mixed.waiting(), mixed.ready())
        print(list(group(add.s(n) for n in range(3))().join(timeout=10)))
        chained = (add.s(1, 1) | group(add.s(10), add.s(20)))()
        print(type(chained).__name__, chained.get(timeout=10), chained.parent.get(), type(chained.parent).__name__)
        print(outcome(group(add.s(1)).apply_async, link=add.s(1)))
        single = group(add.s(4, 4))()
        print(type(single).__name__, single.get(timeout=10))
        print(
            group(add.s(1, 1), add.s(2, 2)).set(priority=5).tasks[0].options.get("priority"),
            group(add.s(1), add.s(2)).apply_async((1,), countdown=0.1).get(timeout=10),
        )
        skewed = group(add.s(n) for n in range(3)).skew(start=0, stop=3)
        print([task.options["countdown"] for task in skewed.tasks], len(skewed))
        linked = group(add.s(1), add.s(2))
        linked.link(add.s(100))
        print(
            [len(task.options.get("link", [])) for task in linked.tasks],
            linked.tasks[0].options["link"][0].get("immutable"),
        )
        linked.link_error(add.s(100))
        print([len(task.options.get("link_error", [])) for task in linked.tasks])
