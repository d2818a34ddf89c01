"""link and link_error on chains, groups and chords: where they end up and how often they run."""

from celery import Celery, chain, chord, group

from compat.harness import outcome, said, say, show, worker

app = Celery("links_on_canvas")


@app.task
def ok(*args):
    return "ok"


@app.task
def fail(*args):
    raise ValueError("failed")


@app.task
def note(*args):
    say("link", *args)


@app.task
def errback(request, exc, traceback):
    say("errback", request.task)


def main():
    with worker():
        for text, make in {
            "chain": lambda: chain(ok.s(), ok.s()),
            "failing chain": lambda: chain(fail.s(), ok.s()),
            "group": lambda: group(ok.s(), ok.s()),
            "failing group": lambda: group(ok.s(), fail.s()),
            "chord": lambda: chord([ok.s(), ok.s()], ok.s()),
            "failing chord": lambda: chord([ok.s(), fail.s()], ok.s()),
            "failing body": lambda: chord([ok.s(), ok.s()], fail.s()),
            "chain ending in a group": lambda: chain(ok.s(), group(ok.s(), ok.s())),
            "chain ending in a failing group": lambda: chain(ok.s(), group(ok.s(), fail.s())),
            "group of chains": lambda: group(chain(ok.s(), fail.s()), chain(ok.s(), ok.s())),
        }.items():
            say(text)
            canvas = make()
            canvas.link(note.s("linked"))
            canvas.link_error(errback.s())
            canvas.apply_async().get(timeout=10, propagate=False)
            ok.delay().get(timeout=10), ok.delay().get(timeout=10), ok.delay().get(timeout=10)
        say("as options")
        chain(ok.s(), ok.s()).apply_async(link=note.s("chain option")).get(timeout=10)
        chord([ok.s(), ok.s()], ok.s()).apply_async(link=note.s("chord option")).get(timeout=10)
        print(
            outcome(group(ok.s()).apply_async, link=note.s()),
            outcome(group(ok.s()).apply_async, link_error=errback.s()) is not None,
        )
        ok.delay().get(timeout=10), ok.delay().get(timeout=10), ok.delay().get(timeout=10)
    show(said())
