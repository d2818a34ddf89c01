"""Tasks replaced by canvases that are nested, in every place that a task can have, callbacks and errbacks included."""

from celery import Celery, chain, chord, group

from compat.harness import outcome, said, say, show, until, worker

app = Celery("replaced_by_nested")


@app.task
def num(n):
    return n


@app.task
def inc(x, by=1):
    return x + by


@app.task
def total(values):
    return sum(values)


@app.task
def same(value):
    return value


@app.task
def fail(*args):
    raise LookupError("on purpose")


@app.task
def note(value, name):
    say("callback of", name, value)


@app.task
def regret(request, exc, traceback, name):
    say("errback of", name, type(exc).__name__)


@app.task(bind=True)
def becomes(self, x, what):
    raise self.replace(
        {
            "chain": lambda: chain(num.s(x), inc.s(10)),
            "group": lambda: group(num.s(x), num.s(x + 1)),
            "chord": lambda: chord([num.s(x), num.s(x + 1)], total.s()),
            "failure": lambda: fail.s(),
            "chord and group": lambda: chain(num.s(x), chord([inc.s(1), inc.s(2)], total.s()), group(inc.s(1), inc.s(2))),
        }[what]()
    )


def linked(sig, name):
    sig.link(note.s(name))
    return sig.on_error(regret.s(name))


def main():
    cases = {
        "chain in a chain": lambda: chain(num.s(1), becomes.s("chain"), inc.s()),
        "group in a chain": lambda: chain(num.s(1), becomes.s("group"), total.s()),
        "all in a header": lambda: chord([becomes.s(n, how) for n, how in enumerate(("chord", "group", "chain"))], same.s()),
        "a body": lambda: chord([num.s(1)], chain(total.s(), becomes.s("chord and group"), same.s())),
        "linked": lambda: linked(becomes.s(1, "group"), "the replaced"),
        "failure in a header": lambda: chord([becomes.s(1, "failure"), num.s(2)], total.s().on_error(regret.s("the body"))),
        "failure, linked": lambda: linked(becomes.s(1, "failure"), "the failure"),
    }
    with worker():
        for name, made in cases.items():
            result = made().apply_async()
            print(name, outcome(result.get, timeout=15))
        until(lambda: len(said()) >= 3)
        num.delay(0).get(timeout=10)
    show(sorted(said()))
