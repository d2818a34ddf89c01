"""When a header task fails the body never runs: its result is a ChordError, its errbacks run, and so on down the line."""

from celery import Celery, chain, chord, group

from compat.harness import outcome, said, say, show, until, worker

app = Celery("chord_failures")


@app.task
def ok(*args):
    return "ok"


@app.task
def fail(*args):
    raise ValueError("header failed")


@app.task
def body(values):
    say("body runs", values)
    return values


@app.task
def failing_body(values):
    raise KeyError("body failed")


@app.task
def errback(request, exc, traceback):
    say("errback", request.task or "without a task", type(exc).__name__)


@app.task
def old_errback(task_id):
    say("old errback", app.AsyncResult(task_id).state)


def main():
    with worker():
        result = chord([ok.s(), fail.s(), ok.s()])(body.s())
        error = result.get(timeout=10, propagate=False)
        until(result.parent.ready)
        dependency = result.parent.results[1].id
        print(type(error).__name__, str(error).replace(dependency, "<the member>"), result.state)
        print(repr(error.__cause__), [r.state for r in result.parent.results])
        print(outcome(chord([ok.s(), ok.s()])(failing_body.s()).get, timeout=10))
        for text, canvas in {
            "all fail": chord([fail.s(), fail.s()], body.s()),
            "chained after": chord([ok.s(), fail.s()], body.s()) | ok.s(),
            "chain in header": chord([chain(ok.s(), fail.s(), ok.s()), ok.s()], body.s()),
            "chord in header": chord([chord([fail.s(), ok.s()], body.s()), ok.s()], body.s()),
            "chain as body": chord([ok.s(), fail.s()], chain(body.s(), ok.s())),
            "failing step before": chain(fail.s(), group(ok.s(), ok.s()), body.s()),
            "one member": chord([fail.s()], body.s()),
            "body in chain fails": chord([ok.s(), ok.s()], failing_body.s()) | ok.s(),
        }.items():
            result = canvas.delay()
            print(f"{text}: {outcome(result.get, timeout=3)}")
        grouped = chord([ok.s(), fail.s()], group(ok.s(), ok.s())).delay()
        until(grouped.ready)
        print("group as body:", [repr(r.result).replace(r.id, "<id>")[:30] for r in grouped.results])
        ok.delay().get(timeout=10)
        show(said())
        say("-- errbacks")
        for canvas in (
            chord([ok.s(), fail.s()], body.s().on_error(errback.s())),
            chord([ok.s(), fail.s()], body.s()).on_error(errback.s()),
            chord([ok.s(), fail.s().on_error(errback.s())], body.s()),
            chord([ok.s(), ok.s()], failing_body.s().on_error(errback.s())),
            chord([ok.s(), fail.s()], body.s().on_error(old_errback.s())),
            chord([ok.s(), ok.s()], failing_body.s().on_error(old_errback.s())),
        ):
            say("next")
            canvas.delay().get(timeout=10, propagate=False)
            ok.delay().get(timeout=10), ok.delay().get(timeout=10)
    lines = said()
    show(lines[lines.index("-- errbacks") :])
