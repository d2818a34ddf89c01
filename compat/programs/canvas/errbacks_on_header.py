"""task_allow_error_cb_on_chord_header also puts a chord's errback on each header task."""

from celery import Celery, chord

from compat.harness import said, say, worker

app = Celery("errbacks_on_header", task_allow_error_cb_on_chord_header=True)


@app.task
def ok(*args):
    return "ok"


@app.task
def fail(*args):
    raise ValueError("failed")


@app.task
def errback():
    say("errback")


def main():
    for allowed in (True, False):
        app.conf.task_allow_error_cb_on_chord_header = allowed
        canvas = chord([ok.s(), fail.s(), fail.s()], ok.s())
        canvas.link_error(errback.si())
        print(
            allowed,
            [len(task.options.get("link_error", [])) for task in canvas.tasks],
            len(canvas.body.options.get("link_error", [])),
        )
        with worker():
            canvas.delay().get(timeout=10, propagate=False)
            ok.delay().get(timeout=10), ok.delay().get(timeout=10), ok.delay().get(timeout=10)
        print(len(said()))
