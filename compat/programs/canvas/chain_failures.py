"""When a step of a chain fails, the later ones never run and their results raise the same error."""

from celery import Celery, chain, group

from compat.harness import outcome, said, say, show, until, worker

app = Celery("chain_failures")


@app.task
def ok(*args):
    say("ok runs")
    return "ok"


@app.task
def fail(*args):
    raise ValueError("step failed")


@app.task
def errback(request, exc, traceback):
    say("errback", request.task, repr(exc))


@app.task
def old_errback(task_id):
    say("old errback", app.AsyncResult(task_id).state)


def tell(result):
    until(result.ready)
    print(outcome(result.get, timeout=10))
    while result is not None:
        print("   ", result.state, repr(result.result))
        result = result.parent


def main():
    with worker():
        tell(chain(fail.s(), ok.s(), ok.s())())
        tell(chain(ok.s(), fail.s(), ok.s())())
        tell(chain(ok.s(), ok.s(), fail.s())())
        tell(chain(ok.s(), chain(fail.s(), ok.s()), ok.s())())
        result = chain(fail.s(), ok.s())()
        print(repr(result.get(timeout=10, propagate=False)), outcome(result.get, follow_parents=False))
        result = chain(fail.s(), group(ok.s(), ok.s()))()
        print(outcome(result.get, timeout=2), [r.state for r in result.results])
        result = chain(ok.s(), group(ok.s(), fail.s()))()
        until(result.ready)
        print(outcome(result.get, timeout=10), [r.state for r in result.results])
        show(said())
        say("-- errbacks")
        chain(ok.s(), fail.s(), ok.s()).apply_async(link_error=errback.s()).get(timeout=10, propagate=False)
        chain(ok.s(), fail.s().on_error(errback.s()), ok.s()).apply_async().get(timeout=10, propagate=False)
        chain(ok.s(), fail.s(), ok.s().on_error(errback.s())).apply_async().get(timeout=10, propagate=False)
        chain(ok.s(), fail.s(), ok.s()).on_error(old_errback.s()).apply_async().get(timeout=10, propagate=False)
        chain(ok.s(), ok.s()).on_error(errback.s()).apply_async().get(timeout=10)
        ok.delay().get(timeout=10)
    lines = said()
    show(sorted(line for line in lines[lines.index("-- errbacks") :] if "errback" in line))
