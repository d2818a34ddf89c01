"""task_always_eager runs tasks at once in the caller: values, states, errors, links, retries."""

from celery import Celery, signals

from compat.harness import outcome, said, say, show

app = Celery("eager", task_always_eager=True)


class Watched(app.Task):
    def before_start(self, *args):
        say("before_start")

    def on_success(self, *args):
        say("on_success")

    def on_failure(self, exc, *args):
        say("on_failure", repr(exc))

    def on_retry(self, exc, *args):
        say("on_retry", repr(exc))

    def after_return(self, status, *args):
        say("after_return", status)


@app.task(base=Watched)
def add(a, b=0):
    return a + b


@app.task(base=Watched)
def fail():
    raise ValueError("failed")


@app.task(bind=True, base=Watched, max_retries=2)
def retried(self, succeed=True):
    if self.request.retries < 2 or not succeed:
        raise self.retry(exc=KeyError("again"), countdown=100)
    return self.request.retries


@app.task(bind=True)
def request(self, *args):
    r = self.request
    return (
        r.is_eager,
        r.called_directly,
        r.args,
        r.retries,
        r.delivery_info,
        r.hostname is not None,
        r.root_id == r.id,
        r.headers,
    )


@app.task(bind=True)
def progress(self):
    self.update_state(state="PROGRESS", meta={"done": 1})
    return "done"


@app.task
def parent():
    return add.delay(1, 2).get()


@app.task
def echo(value):
    return value


for name in ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry", "before_task_publish"):
    getattr(signals, name).connect(
        lambda sender, signal, **kwargs: say(signal.name, getattr(sender, "name", sender)), weak=False
    )


def main():
    result = add.delay(1, b=2)
    print(
        type(result).__name__,
        result.get(),
        result.result,
        result.state,
        result.ready(),
        result.successful(),
        result.children,
        len(result.id),
    )
    failed = fail.delay()
    print(
        failed.state,
        repr(failed.result),
        outcome(failed.get),
        repr(failed.get(propagate=False)),
        failed.traceback.strip().splitlines()[-1],
    )
    print(retried.delay().get(), outcome(retried.delay(False).get), retried.delay(False).state)
    print(request.apply_async((1,), headers={"a": 1}, priority=4, queue="q").get())
    print(
        add.apply_async((1, 2), link=add.s(10)).get(),
        add.apply_async((1,), countdown=1000).get(),
        add.apply_async((1,), expires=1000).get(),
    )
    print(
        outcome(lambda: fail.apply_async(link_error=add.s(1)).state),
        outcome(parent.delay().get).split("!")[0],
        progress.delay().get(),
        progress.delay().state,
    )
    given = [1, (2, 3)]
    print(echo.delay(given).get(), echo.delay(given).get() is given, outcome(echo.delay, object()), outcome(add.delay))
    print(
        app.AsyncResult(result.id).state,
        add.delay(1, 2).forget(),
        result.revoke(),
        add.apply_async((1,), task_id="mine").id,
    )
    print(
        repr(add.delay(1)).split(":")[0], outcome(result.get, timeout=1, interval=2), outcome(result.wait), result.state
    )
    show(said())
