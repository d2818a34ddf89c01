"""self.replace puts another task, or canvas, in the place of the running one: same id, callbacks, chain and chord."""

from celery import Celery, chain, chord, group

from compat.harness import outcome, said, say, show, worker

app = Celery("replacement")


@app.task
def add(a, b=0):
    return a + b


@app.task
def total(values):
    return sum(values)


@app.task
def fail(*args):
    raise ValueError("replacement failed")


@app.task
def note(value):
    say("note", value)


@app.task
def errback(request, exc, traceback):
    say("errback", request.task, repr(exc))


@app.task(bind=True)
def replaced(self, a, by="task"):
    nesting = self.request.replaced_task_nesting
    raise self.replace(
        {
            "task": lambda: add.s(a, 10),
            "chain": lambda: chain(add.s(a, 10), add.s(100)),
            "group": lambda: group(add.s(a, 1), add.s(a, 2)),
            "chord": lambda: chord([add.s(a, 1), add.s(a, 2)], total.s()),
            "group chain": lambda: chain(group(add.s(a, 1), add.s(a, 2)), total.s()),
            "failure": lambda: fail.s(),
            "again": lambda: replaced.s(a, "task" if nesting == 2 else "again"),
            "itself with more": lambda: nest.si(),
            "empty chain": lambda: chain(),
            "empty group": lambda: group(),
            "with link": lambda: add.s(a, 1).set(link=note.s()),
            "chord signature": lambda: add.s(1, 1).set(chord=total.s()),
        }[by]()
    )


@app.task(bind=True)
def nest(self):
    return self.request.replaced_task_nesting


@app.task(bind=True)
def own_id(self, *args):
    return self.request.id


@app.task(bind=True)
def replaced_by_own_id(self):
    return self.replace(own_id.s())


class Watching(app.Task):
    def on_replace(self, sig):
        say("on_replace", sig.task)
        return super().on_replace(sig)

    def after_return(self, *args):
        say("after_return")


@app.task(bind=True, base=Watching)
def watched(self):
    self.replace(add.s(1, 1))
    say("not reached")


def main():
    kinds = (
        "task",
        "chain",
        "group",
        "chord",
        "group chain",
        "failure",
        "again",
        "itself with more",
        "empty group",
        "with link",
    )
    with worker():
        for kind in kinds:
            print(f"{kind:20}", outcome(replaced.delay(1, kind).get, timeout=10))
            print(f"{'  in a chain':20}", outcome(chain(add.s(0, 1), replaced.s(kind), own_args.s())().get, timeout=10))
            print(
                f"{'  in a chord':20}",
                type(
                    outcome(chord([replaced.s(1, kind), add.s(5)])(own_args.s()).get, timeout=10, propagate=False)
                ).__name__,
            )
            print(f"{'  in a group':20}", outcome(group(replaced.s(1, kind), add.s(5))().get, timeout=10))
        for kind in ("empty chain", "chord signature"):
            print(f"{kind:20}", outcome(replaced.delay(1, kind).get, timeout=10).splitlines()[0])
        result = replaced_by_own_id.delay()
        print(result.get(timeout=10) == result.id)
        print(
            replaced.apply_async((1,), link=note.s()).get(timeout=10),
            outcome(replaced.apply_async((1, "failure"), link_error=errback.s()).get, timeout=10),
        )
        print(watched.delay().get(timeout=10))
        print(outcome(watched))
        add.delay(1).get(timeout=10), add.delay(1).get(timeout=10)
    show(said())


@app.task
def own_args(*args):
    return list(args)
