"""Groups made of generators: what is in their results, by themselves, in chains and as header and body of chords."""

from celery import Celery, chain, chord, group
from celery.result import GroupResult

from compat.harness import worker

app = Celery("lazy_groups")


@app.task
def num(x, y=0):
    return y or x


@app.task
def listed(values):
    return values


def lazy(*members):
    return group(member for member in members)


def shape(result):
    if isinstance(result, GroupResult):
        return [shape(member) for member in result.results]
    return result.get(timeout=10)


def main():
    with worker():
        for text, make in {
            "alone": lambda: lazy(num.s(1), group(num.s(2), num.s(3))),
            "in another": lambda: group(num.s(1), lazy(num.s(2), num.s(3))),
            "in a chain": lambda: chain(num.s(1), lazy(num.s(2), num.s(3))),
            "with a group in it, in a chain": lambda: chain(num.s(1), lazy(num.s(2), group(num.s(3), num.s(4)))),
            "with a lazy group in it, in a chain": lambda: num.s(1) | lazy(num.s(2), lazy(num.s(3), num.s(4))),
            "in a group in a chain": lambda: chain(num.s(1), group(num.s(2), lazy(num.s(3), num.s(4)))),
            "with a chain in it": lambda: num.s(1) | lazy(num.s(2), chain(num.s(3), group(num.s(4), num.s(5)))),
            "of one": lambda: chain(num.s(1), lazy(num.s(2))),
            "of nothing": lambda: chain(num.s(1), lazy()),
            "as a header": lambda: chord(lazy(num.s(1), num.s(2)), listed.s()),
            "as a body": lambda: chord([num.s(1), num.s(2)], lazy(listed.s(), group(listed.s(), listed.s()))),
            "after another": lambda: chain(lazy(num.s(1), num.s(2)), lazy(listed.s(), listed.s())),
        }.items():
            result = make().apply_async()
            print(f"{text}:", result.get(timeout=10))
            print("  its results:", shape(result))
            print("  before it:", result.parent and shape(result.parent))


if __name__ == "__main__":
    main()
