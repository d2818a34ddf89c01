"""Groups in groups, chords in chords, chains in all of them: what comes out, and in which shape."""

from celery import Celery, chain, chord, group

from compat.harness import worker

app = Celery("deep_nesting")


@app.task
def add(*numbers):
    return sum(numbers)


@app.task
def total(values):
    return sum(total.run(value) if isinstance(value, list) else value for value in values)


@app.task
def echo(value):
    return value


def pair(a, b):
    return group(add.s(a), add.s(b))


def main():
    with worker():
        for name, canvas in {
            "chord of chords": chord([chord(pair(1, 2), total.s()), chord(pair(3, 4), total.s())], total.s()),
            "chord of chains": chord(
                [chain(add.s(1), add.s(2)), chain(add.s(3), add.s(4), add.s(5))], total.s()
            ),
            "chord in a chain": chain(add.s(1), chord([add.s(1), add.s(2)], total.s()), add.s(10)),
            "chord as a body": chord(pair(1, 2), chord([total.s(), total.s()], total.s())),
            "chain as a body": chord(pair(1, 2), chain(total.s(), add.s(1), add.s(1))),
            "group as a body": chord(pair(1, 2), group(total.s(), echo.s())),
            "chain of chords": chain(chord(pair(1, 2), total.s()), chord([add.s(1), add.s(2)], total.s())),
            "group, task, group": chain(pair(1, 2), total.s(), group(add.s(1), add.s(2))),
            "group of groups": group(pair(1, 2), pair(3, 4)),
            "group of a chain with a group": group(chain(add.s(1), group(add.s(1), add.s(2))), add.s(9)),
            "five links": chain(*(add.s(1) for _ in range(5))),
            "group in the header": chord([pair(1, 2), add.s(5)], total.s()),
            "group of one": chain(group(add.s(1)), add.s(1)),
            "chain, group of one": chain(add.s(3), group(add.s(1)), add.s(1)),
        }.items():
            result = canvas.apply_async()
            print(f"{name:30} {result.get(timeout=20)!r:28} {type(result).__name__}")
