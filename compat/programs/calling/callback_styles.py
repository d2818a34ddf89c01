"""Callbacks and errbacks of every style: old, new, immutable, partial, lists, dicts, canvases, unknown names."""

from celery import Celery, chain, group, signature

from compat.harness import outcome, said, say, show, until, worker

app = Celery("callback_styles")


@app.task
def add(a, b):
    return a + b


@app.task
def fail(*args):
    raise ValueError("failed")


@app.task
def note(*args, **kwargs):
    say("note", args, sorted(kwargs.items()))


@app.task
def old(task_id):
    say("old", app.AsyncResult(task_id).state)


@app.task
def new(request, exc, traceback):
    say("new", request.task, request.args, repr(exc), "Traceback" in str(traceback))


@app.task(bind=True)
def bound(self, *args):
    say("bound", len(args), self.request.parent_id is not None)


@app.task
def any_number(*args):
    say("any", len(args))


def main():
    with worker():
        for name, links in {
            "one": note.s(),
            "list": [note.s("a"), note.si("b")],
            "keyword": note.s(k=1),
            "dict": dict(note.s("d")),
            "chain": chain(add.s(1), note.s()),
            "group": group(note.s(1), note.s(2)),
            "by name": signature("callback_styles.note", ("named",)),
            "nested": add.s(10).set(link=note.s()),
        }.items():
            before = len(said())
            wanted = 2 if name in ("list", "group") else 1
            add.apply_async((1, 2), link=links).get(timeout=10)
            until(lambda: len(said()) >= before + wanted)
            print(name)
            show(sorted(said()[before:]))
        for name, links in {
            "old": old.s(),
            "new": new.s(),
            "bound": bound.s(),
            "any number": any_number.s(),
            "immutable": note.si("i"),
            "list": [old.s(), new.s()],
            "dict": dict(new.s()),
            "by name": signature("callback_styles.new"),
            "chain": chain(note.si("c1"), note.si("c2")),
            "group": group(note.si("g1"), note.si("g2")),
        }.items():
            before = len(said())
            wanted = 2 if name in ("list", "group", "chain") else 1
            outcome(fail.apply_async((1,), link_error=links).get, timeout=10)
            until(lambda: len(said()) >= before + wanted)
            print("error,", name)
            show(sorted(said()[before:]))
