"""A chain hands each result on, and its result knows its parents."""

from celery import Celery, chain

from compat.harness import outcome, worker

app = Celery("chains")


@app.task
def add(a, b):
    return a + b


@app.task
def words(*args, **kwargs):
    return [list(args), kwargs]


@app.task(bind=True)
def ids(self, *args):
    return [self.request.id, self.request.root_id, self.request.parent_id]


@app.task(bind=True)
def retried(self, n):
    if self.request.retries < 2:
        self.retry(countdown=0)
    return n * 10


def main():
    with worker():
        result = chain(add.s(1, 2), add.s(3), add.s(4))()
        print(result.get(timeout=10), result.parent.get(), result.parent.parent.get(), result.parent.parent.parent)
        print(
            (add.s(1, 2) | add.s(3)).delay().get(timeout=10),
            chain([add.s(2, 2), add.s(1)]).apply_async().get(timeout=10),
        )
        print((add.s(1) | add.s(2)).delay(3).get(timeout=10), (add.s() | add.s(2)).apply_async((3, 4)).get(timeout=10))
        print(
            (words.s(1) | words.si("immutable", k=1)).delay().get(timeout=10),
            (words.s(a=1) | words.s("b", c=2)).delay(0, z=9).get(timeout=10),
        )
        first, second, third = ids.s(), ids.s(), ids.s()
        result = (first | second | third).delay()
        last, middle, beginning = result.get(timeout=10), result.parent.get(), result.parent.parent.get()
        print(
            [link[1] == beginning[0] for link in (beginning, middle, last)],
            middle[2] == beginning[0],
            last[2] == middle[0],
            beginning[2],
        )
        print(
            result.id == last[0],
            result.parent.id == middle[0],
            result.children,
            [child.id for child in result.parent.parent.children] == [middle[0]],
        )
        print(chain(add.s(1, 1), retried.s(), add.s(1))().get(timeout=10))
        print(
            chain(add.s(1, 1)).delay().get(timeout=10),
            chain(chain(add.s(1, 1)), chain(chain(add.s(5))))().get(timeout=10),
        )
        print(chain(add.s(1, 1), add.s(2)).apply_async(countdown=0.2, priority=3).get(timeout=10))
        print(
            [
                node.get()
                for node in result.parent.parent.iterdeps() and [r for _, r in result.parent.parent.iterdeps()]
            ][0]
            == beginning
        )
        print(
            chain(add.s(1, 1), add.s(2), task_id="mine").apply_async().id == "mine",
            chain(add.s(1, 1), add.s(1)).apply_async(task_id="given").id,
        )
        print(
            len(chain(*(add.s(1) for _ in range(30))).tasks),
            chain(add.s(0, 0), *(add.s(1) for _ in range(30))).delay().get(timeout=20),
        )
        print(outcome(chain(add.s(1, 2), "not a signature")) if False else chain(add.s(1, 2), add.s(3)).apply().get())
