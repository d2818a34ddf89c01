"""Eager mode with links, errbacks, retries, groups and chords: what runs, in which order, and what is returned."""

from celery import Celery, chain, chord, group
from celery.result import EagerResult

from compat.harness import outcome

app = Celery("eager_links", task_always_eager=True)
ran = []


@app.task
def add(a, b):
    ran.append(("add", a, b))
    return a + b


@app.task
def fail(*args):
    raise ValueError("failed")


@app.task
def note(*args):
    ran.append(("note", *args))


@app.task
def errback(request, exc, traceback):
    ran.append(("errback", request.task, repr(exc), request.is_eager))


@app.task(bind=True, max_retries=2)
def retried(self, n):
    ran.append(("retried", self.request.retries, self.request.is_eager, self.request.called_directly))
    if self.request.retries < n:
        raise self.retry(countdown=60)
    return "done"


@app.task(bind=True)
def look(self):
    request = self.request
    return (
        request.id is not None,
        request.delivery_info,
        request.headers,
        request.parent_id,
        request.root_id == request.id,
    )


@app.task(ignore_result=True)
def ignored():
    return 5


def tell(name, result):
    value = result if not hasattr(result, "get") else outcome(result.get)
    print(f"{name:12} {type(result).__name__:12} {value!r} {ran}")
    ran.clear()


def main():
    tell("delay", add.delay(1, 2))
    tell("link", add.apply_async((1, 2), link=[add.s(3), note.s()]))
    tell("errback", fail.apply_async((1,), link_error=errback.s()))
    tell("retry", retried.delay(2))
    tell("exhausted", retried.delay(5))
    tell("chain", chain(add.s(1, 1), add.s(2), note.s())())
    tell("group", group(add.s(1, 1), add.s(2, 2))())
    tell("chord", chord([add.s(1, 1), add.s(2, 2)])(note.s()))
    tell("map", add.starmap([(1, 1), (2, 2)]).delay())
    tell("chunks", add.chunks([(1, 1), (2, 2), (3, 3)], 2)())
    tell("chain fails", outcome(chain(add.s(1, 1), fail.s(), note.s())))
    tell("ignored", ignored.delay())
    tell("look", look.apply_async(headers={"h": 1}, queue="q", priority=3, countdown=100))
    result = add.delay(2, 2)
    print(
        isinstance(result, EagerResult),
        result.state,
        result.ready(),
        result.successful(),
        result.id is not None,
        result.parent,
    )
    print(outcome(add.delay, 1), outcome(add.apply_async, (1,)))
    app.conf.task_eager_propagates = True
    print(outcome(fail.delay), outcome(chain(fail.s(), note.s())), outcome(group(fail.s(), add.s(1, 1))))
    print(outcome(add.apply, (1, 2)).get(), outcome(fail.apply, throw=False).state)
