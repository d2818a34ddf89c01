"""An errback of one argument gets the failed task's id; one of three gets request, exception and traceback in the worker."""

from celery import Celery

from compat.harness import said, say, show, worker

app = Celery("errbacks")


@app.task
def fail(message="broken"):
    raise ValueError(message)


@app.task
def old_style(task_id):
    say("old style", task_id == app.conf.get("expected_id") or len(task_id) == 36)


@app.task
def new_style(request, exc, traceback):
    say("new style", request.task, request.args, repr(exc), type(traceback).__name__)


@app.task(bind=True)
def bound_old_style(self, task_id):
    say("bound old style", self.request.parent_id == task_id, self.request.root_id == task_id)


@app.task
def with_partial(word, task_id):
    say("with partial", word, len(task_id))


@app.task
def immutable():
    say("immutable")


@app.task
def any_arguments(*args):
    say("any arguments", len(args))


@app.task
def broken_errback(request, exc, traceback):
    say("broken errback")
    raise RuntimeError("in the errback")


@app.task
def fine():
    return "fine"


def main():
    with worker():
        for errback in (
            old_style.s(),
            new_style.s(),
            bound_old_style.s(),
            with_partial.s("word"),
            immutable.si(),
            any_arguments.s(),
            [old_style.s(), new_style.s()],
            broken_errback.s(),
        ):
            say("--", errback)
            fail.apply_async(("args",), link_error=errback).get(timeout=10, propagate=False)
            # The errback may be sent after the failure shows; two more tasks on the one process let it run.
            fine.delay().get(timeout=10), fine.delay().get(timeout=10)
        say("-- none")
        fine.apply_async(link_error=old_style.s()).get(timeout=10)
        say("-- on_error")
        fail.s("on_error").on_error(new_style.s()).apply_async().get(timeout=10, propagate=False)
        fine.delay().get(timeout=10)
        say("-- unregistered")
        app.send_task("no.such.task", link_error=old_style.s()).get(timeout=10, propagate=False)
        fine.delay().get(timeout=10), fine.delay().get(timeout=10)
    show(said())
