"""Canvases within canvases run to the documented values, several levels deep."""

from celery import Celery, chain, chord, group

from compat.harness import worker

app = Celery("nesting")


@app.task
def add(a, b=0):
    return a + b


@app.task
def total(values):
    def flat(found):
        return sum(map(flat, found)) if isinstance(found, list) else found

    return flat(values)


@app.task
def same(value):
    return value


def main():
    canvases = {
        "chain(chain, chain)": chain(chain(add.s(1, 1), add.s(2)), chain(add.s(3), add.s(4))),
        "chain(a, group, b)": chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s()),
        "chain(group, group)": chain(group(add.s(1, 0), add.s(2, 0)), group(total.s(), same.s())),
        "chain(group, group, group)": chain(
            group(add.s(1, 0), add.s(2, 0)), group(total.s(), same.s()), group(total.s(), total.s())
        ),
        "group(chain, chain)": group(chain(add.s(1, 1), add.s(1)), chain(add.s(2, 2), add.s(2))),
        "group(chain(a, group))": group(chain(add.s(1, 1), group(add.s(1), add.s(2))), add.s(9)),
        "group(chord, chord)": group(chord([add.s(1), add.s(2)], total.s()), chord([add.s(3)], total.s())),
        "group(group, group)": group(group(add.s(1), add.s(2)), group(add.s(3), add.s(4))),
        "chord(group(chain), a)": chord(group(chain(add.s(1), add.s(1)), chain(add.s(2), add.s(2))), total.s()),
        "chord(chord, chord)": chord(
            [chord([add.s(1), add.s(2)], total.s()), chord([add.s(3), add.s(4)], total.s())], same.s()
        ),
        "chord(chord(chord))": chord([chord([chord([add.s(1), add.s(2)], total.s())], total.s()), add.s(5)], same.s()),
        "chord(a, chain(b, group, c))": chord(
            [add.s(1), add.s(2)], chain(total.s(), group(add.s(1), add.s(2)), total.s())
        ),
        "chord([chain(a, group)])": chord([chain(add.s(1), group(add.s(1), add.s(2))), add.s(7)], same.s()),
        "chord([chain(group, a)])": chord([chain(group(add.s(1), add.s(2)), total.s()), add.s(7)], same.s()),
        "chord([chain(a, chord)])": chord(
            [chain(add.s(1), chord([add.s(1), add.s(2)], total.s())), add.s(7)], same.s()
        ),
        "chain(chord, chord)": chain(chord([add.s(1), add.s(2)], total.s()), chord([add.s(3), add.s(4)], total.s())),
        "chain(chord, a, chord, b)": chain(
            chord([add.s(1), add.s(2)], total.s()), add.s(1), chord([add.s(3), add.s(4)], total.s()), add.s(2)
        ),
        "chain(a, chain(group, b), c)": chain(add.s(1, 1), chain(group(add.s(1), add.s(2)), total.s()), add.s(3)),
        "chain(group(chain(a, chord)), b)": chain(
            group(chain(add.s(1, 1), chord([add.s(1), add.s(2)], total.s())), add.s(1)), total.s()
        ),
        "chain of empties": chain(add.s(1, 1), group(), add.s(1)),
        "chord of group of one": chord(group([add.s(1)]), total.s()),
        "group in chord's body's chain": chord([add.s(1), add.s(2)], chain(total.s(), group(add.s(1), add.s(2)))),
        "chain(group(chord), group(chord))": chain(
            group(chord([add.s(1), add.s(2)], total.s()), add.s(1)),
            group(total.s(), chord([total.s(), total.s()], total.s())),
        ),
    }
    with worker("-c", "2"):
        for text, canvas in canvases.items():
            print(f"{text:36} {canvas.delay().get(timeout=20)}")
