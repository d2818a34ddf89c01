"""A chord's body gets the header's results in header order, whatever order they came in."""

from celery import Celery, chain, chord, group

from compat.harness import said, say, show, worker

app = Celery("chords")


@app.task
def add(a, b=0):
    return a + b


@app.task(bind=True)
def slow_first(self, n):
    if n == 0 and not self.request.retries:
        self.retry(countdown=0.5)
    return n


@app.task
def total(numbers, extra=0):
    return sum(numbers) + extra


@app.task
def listed(values, *args, **kwargs):
    return [values, list(args), kwargs]


@app.task
def body_without_arguments():
    say("body without arguments")
    return "immutable"


@app.task(bind=True)
def ids(self, *args):
    return [self.request.id, self.request.root_id, self.request.parent_id, self.request.group, self.request.group_index]


def main():
    with worker("-c", "2"):
        result = chord(add.s(n, n) for n in range(5))(total.s())
        print(
            type(result).__name__, result.get(timeout=10), type(result.parent).__name__, result.parent.get(timeout=10)
        )
        print(
            chord([add.s(1)], total.s(extra=5))().get(timeout=10),
            chord(group(add.s(1), add.s(2)))(total.s(7)).get(timeout=10),
        )
        print(chord([slow_first.s(n) for n in range(4)])(listed.s()).get(timeout=10))
        print(chord([], total.s())().get(timeout=10), chord([])(listed.s("x", k=1)).get(timeout=10))
        print(chord([add.s(1), add.s(2)])(body_without_arguments.si()).get(timeout=10))
        print((group(add.s(1), add.s(2)) | total.s() | add.s(100)).delay().get(timeout=10))
        print((add.s(1, 1) | group(add.s(1), add.s(2)) | total.s()).delay().get(timeout=10))
        print(
            chord([add.s(1), add.s(2)], total.s()).apply_async((10,)).get(timeout=10),
            chord([add.s(1)], total.s()).delay(5).get(timeout=10),
        )
        print(chord([chain(add.s(1), add.s(2)), add.s(3)])(total.s()).get(timeout=10))
        print(chord([add.s(1), add.s(2)])(chain(total.s(), add.s(10))).get(timeout=10))
        print(chord([add.s(1), add.s(2)])(group(total.s(), total.s(5))).get(timeout=10))
        print(chord([group(add.s(1), add.s(2)), add.s(3)])(listed.s()).get(timeout=10))
        print(chord([chord([add.s(1), add.s(2)], total.s()), add.s(3)])(listed.s()).get(timeout=10))
        print(chord([add.s(1), add.s(2)])(chord([total.s(), total.s(1)], listed.s())).get(timeout=10))
        sent = chord([ids.s(), ids.s()])(ids.s())
        body, header = sent.get(timeout=10), sent.parent.get(timeout=10)
        print(
            [h[3] == sent.parent.id for h in header],
            [h[4] for h in header],
            [h[1] == h[0] for h in header],
            [h[2] for h in header],
        )
        print(body[0] == sent.id, body[1] in [h[0] for h in header], body[2] in [h[0] for h in header], body[3:])
        print(
            chord([add.s(1), add.s(2)], total.s(), task_id="x")().id == "x",
            chord([add.s(1)])(total.s(), task_id="body-id").id,
        )
        print(chord([add.s(1), add.s(2)], total.s()).apply_async(countdown=0.2).get(timeout=10))
        print((chord([add.s(1), add.s(1)], total.s()) | add.s(5) | add.s(6)).delay().get(timeout=10))
    show(said())
