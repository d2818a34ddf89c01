"""A chord whose header or body fails: the body's error, its cause, what the members say, which errbacks run how often."""

from celery import Celery, chain, chord, group
from celery.exceptions import ChordError

from compat.harness import outcome, said, say, show, until, worker

app = Celery("chord_errors")


@app.task
def ok(*args):
    return "ok"


@app.task
def fail(*args):
    raise LookupError("the header", 7)


@app.task
def body(values):
    say("a body runs")
    return values


@app.task
def bad_body(values):
    raise OSError("the body")


@app.task
def errback(request, exc, traceback):
    say("errback", request.task, type(exc).__name__)


@app.task
def late_errback(task_id, note=None):
    say("late errback", note)


def tell(name, result, known):
    error = result.get(timeout=15, propagate=False)
    until(lambda: all(r.ready() for r in known))
    print(name, type(error).__name__, result.state, [r.state for r in known], isinstance(error, ChordError))


def main():
    with worker():
        result = chord([ok.s(), fail.s()], body.s()).apply_async()
        tell("member fails", result, result.parent.results)
        result = chord([ok.s(), ok.s()], bad_body.s()).apply_async()
        tell("body fails", result, result.parent.results)
        result = chord([chain(ok.s(), fail.s()), ok.s()], body.s()).apply_async()
        tell("end of a chain fails", result, result.parent.results)
        result = chord([ok.s()], chain(bad_body.s(), ok.s())).apply_async()
        tell("chain as a body", result, [])
        result = chain(ok.s(), chord([fail.s(), ok.s()], body.s()), ok.s()).apply_async()
        tell("within a chain", result, [])
        print(outcome(result.get, timeout=1)[:22])
        error = chord([fail.s()], body.s()).apply_async().get(timeout=15, propagate=False)
        print("LookupError" in str(error), "raised" in str(error))
        say("-- errbacks")
        chord([ok.s(), ok.s()], bad_body.s().on_error(errback.s())).apply_async().get(
            timeout=15, propagate=False
        )
        chord([ok.s(), fail.s()], body.s().on_error(errback.s())).apply_async().get(
            timeout=15, propagate=False
        )
        chord([ok.s(), fail.s()], body.s()).on_error(errback.s()).apply_async().get(
            timeout=15, propagate=False
        )
        chord([fail.s()], body.s(), link_error=late_errback.s(note="n")).apply_async().get(
            timeout=15, propagate=False
        )
        group(ok.s(), fail.s()).on_error(errback.s()).apply_async().get(timeout=15, propagate=False)
        until(lambda: sum("errback" in line for line in said()) >= 5)
        ok.delay().get(timeout=10)
    show(sorted(said()))
