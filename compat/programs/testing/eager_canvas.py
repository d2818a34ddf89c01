"""Chains, groups, chords and replacement in eager mode."""

from celery import Celery, chain, chord, group

from compat.harness import outcome

app = Celery("eager_canvas", task_always_eager=True)


@app.task
def add(a, b=0):
    return a + b


@app.task
def total(values):
    return sum(values)


@app.task
def fail(*args):
    raise ValueError("failed")


@app.task(bind=True)
def replaced(self, n):
    raise self.replace(add.s(n, 100))


@app.task(bind=True)
def replaced_by_chain(self, n):
    raise self.replace(chain(add.s(n, 1), add.s(10)))


def main():
    result = chain(add.s(1, 2), add.s(3))()
    print(result.get(), type(result).__name__, result.parent.get(), (add.s(1) | add.s(2)).delay(10).get())
    grouped = group(add.s(n, n) for n in range(3))()
    print(
        grouped.get(),
        type(grouped).__name__,
        grouped.successful(),
        group()().get(),
        group(add.s(1, 1), fail.s())().get(propagate=False)[0],
    )
    print(
        chord([add.s(1, 1), add.s(2, 2)])(total.s()).get(),
        chord([], total.s())().get(),
        (group(add.s(1), add.s(2)) | total.s()).delay().get(),
    )
    print((add.s(1, 1) | group(add.s(1), add.s(2)) | total.s() | add.s(100)).delay().get())
    print(chain(add.s(1, 1), chord([add.s(1), add.s(2)], total.s()), add.s(5))().get())
    print(group(chain(add.s(1, 1), add.s(2)), group(add.s(5), add.s(6)))().get())
    print(add.map([1, 2]).delay().get(), add.starmap([(1, 2)]).delay().get(), add.chunks([(1, 2), (3, 4)], 1)().get())
    print(outcome(chain(add.s(1, 1), fail.s(), add.s(1))), outcome(chain(add.s(1, 1), fail.s())().get))
    print(outcome(lambda: chord([add.s(1, 1), fail.s()])(total.s()).get()))
    print(outcome(group(add.s(1, 1), fail.s())().get))
    for canvas in (replaced.s(1), replaced_by_chain.s(1), chain(add.s(1, 1), replaced.s())):
        print(str(outcome(lambda: canvas.delay().get())).split("!")[0])
    print(
        chain(add.s(1, 2), add.s(3)).apply().get(),
        group(add.s(1), add.s(2)).apply().get(),
        chord([add.s(1)], total.s()).apply().get(),
    )
    print((~add.s(1, 2)), add.s(1, 2).apply_async().get(), add.s(2).apply((1,)).get())
