"""map, starmap and chunks are one task over many arguments."""

from celery import Celery, group

from compat.harness import outcome, say, worker

app = Celery("maps")


@app.task
def double(n):
    return 2 * n


@app.task
def add(a, b):
    say("add", a, b)
    return a + b


@app.task
def fail(n):
    if n == 2:
        raise ValueError(n)
    return n


def main():
    with worker():
        print(
            double.map([1, 2, 3]).delay().get(timeout=10),
            double.map(range(3)).apply_async().get(timeout=10),
            (~double.map([])),
        )
        print(
            add.starmap([(1, 2), (3, 4)]).delay().get(timeout=10),
            add.starmap(zip(range(3), range(3))).delay().get(timeout=10),
        )
        chunks = add.chunks(zip(range(5), range(5)), 2)
        print(type(chunks).__name__, len(chunks.group()))
        result = add.chunks([(n, n) for n in range(5)], 2)()
        print(type(result).__name__, result.get(timeout=10), len(result))
        result = add.chunks([(n, n) for n in range(5)], 2).group().apply_async()
        print(result.get(timeout=10))
        print(add.chunks([(n, n) for n in range(3)], 10).apply_async(queue="celery").get(timeout=10))
        print(outcome(fail.map([1, 2, 3]).delay().get, timeout=10))
        print(
            (double.map([1, 2]) | double.s()).delay().get(timeout=10),
            group(double.map([1]), double.map([2]))().get(timeout=10),
        )
        print(repr(double.map([1, 2])), repr(add.starmap([(1, 2)])))
        grouped = add.chunks([(n, n) for n in range(4)], 2).group()
        print(len(grouped), grouped.skew(start=1).tasks[1].options)
