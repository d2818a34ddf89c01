"""link runs tasks with the result, link_error after a failure: several of each, nested, with partial arguments."""

from celery import Celery, chain, group

from compat.harness import outcome, said, say, show, until, worker

app = Celery("links")


@app.task
def add(a, b):
    return a + b


@app.task
def note(*args, **kwargs):
    say("note", args, sorted(kwargs.items()))


@app.task(bind=True)
def fail(self, *args):
    raise ValueError("failed", *args)


@app.task(bind=True)
def related(self, value):
    say("related", value, self.request.parent_id is not None, self.request.root_id == self.request.parent_id)


def main():
    with worker():
        result = add.apply_async((1, 2), link=note.s("after"))
        print(result.get(timeout=10), len(result.children))
        add.apply_async((1, 2), link=[note.s(1), note.si("immutable"), note.s(k="v")]).get(timeout=10)
        add.apply_async((1, 2), link=add.s(10).set(link=add.s(100).set(link=note.s("nested")))).get(timeout=10)
        add.apply_async((1, 2), link=related.s()).get(timeout=10)
        add.apply_async((2, 2), link=group(note.s("g1"), note.s("g2"))).get(timeout=10)
        add.apply_async((2, 3), link=chain(add.s(1), note.s("end of chain"))).get(timeout=10)
        signature = add.s(5, 5)
        signature.link(note.s("by method")), signature.link(note.s("by method")), signature.link(note.s("another"))
        print(len(signature.options["link"]), signature.delay().get(timeout=10))
        print(outcome(fail.apply_async((), link=note.s("never")).get, timeout=10))
        failed = add.apply_async((0, 0), link=fail.s())
        print(failed.get(timeout=10), outcome(failed.children[0].get, timeout=10))
        until(lambda: len(said()) >= 11)
    show(sorted(said()))
