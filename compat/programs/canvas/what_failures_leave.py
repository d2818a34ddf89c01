"""What the tasks that never ran show once another has failed: the traceback of that one, and the errbacks as children."""

from celery import Celery, chain, chord, group
from celery.result import GroupResult

from compat.harness import outcome, until, worker

app = Celery("what_failures_leave")


@app.task
def ok(*args):
    return "ok"


@app.task
def fail(*args):
    raise LookupError("on purpose")


@app.task
def errback(task_id):
    return task_id


def kind(result):
    return f"group of {len(result)}" if isinstance(result, GroupResult) else "task"


def told(result):
    """The state, the last line of the traceback less what tells the libraries apart, and the children."""
    last = (result.traceback or "none").strip().splitlines()[-1].split(":")[0].rpartition(".")[2]
    return result.state, last, [kind(child) for child in result.children or ()]


def tell(name, sig, *, errbacks=0):
    result = sig.apply_async()
    print(name, outcome(result.get, timeout=15).partition(":")[0])
    ends = result.results if isinstance(result, GroupResult) else [result]
    until(lambda: all(end.ready() for end in ends))
    until(lambda: sum(kind(child) != "task" for end in ends for child in end.children or ()) >= errbacks)
    for end in ends:
        while end is not None:
            if not isinstance(end, GroupResult):
                print("  ", *told(end))
            end = end.parent
    if errbacks:
        (called,) = [child for child in ends[0].children if isinstance(child, GroupResult)]
        print("   errback got the id:", called.get(timeout=15) == [ends[0].id])


def main():
    with worker():
        tell("step", chain(ok.s(), fail.s(), ok.s(), ok.s()))
        tell("first step", chain(fail.s(), ok.s()))
        tell("step, with an errback", chain(fail.s(), ok.s()).on_error(errback.si("x")))
        tell("body", chord([ok.s(), fail.s()], ok.s()))
        tell("body with an errback", chord([ok.s(), fail.s()], ok.s().on_error(errback.s())), errbacks=1)
        tell("group as a body", chord([fail.s(), ok.s()], group(ok.s().on_error(errback.s()), ok.s())), errbacks=1)
