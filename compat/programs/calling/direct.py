"""A task is still a function: calling it runs it here, apply runs it here as a task would."""

from celery import Celery

from compat.harness import outcome

app = Celery("direct")


@app.task
def add(a, b=2):
    """Adds."""
    return a + b


@app.task(bind=True, max_retries=1)
def context(self):
    return self.request.called_directly, self.request.is_eager, self.request.delivery_info, self.request.retries


@app.task(bind=True, max_retries=2)
def retried(self):
    if self.request.retries < 2:
        raise self.retry(exc=ValueError("eager retry"))
    return self.request.retries


def main():
    print(add(1), add.run(1, 3), add.__wrapped__(2), add.__doc__)
    result = add.apply((1,), {"b": 5})
    print(
        type(result).__name__,
        result.get(),
        result.state,
        result.ready(),
        result.successful(),
        result.name,
        result.args,
        result.kwargs,
    )
    print(context(), context.apply().get())
    failed = add.apply(("a",))
    print(failed.state, repr(failed.result), outcome(failed.get), failed.failed(), failed.traceback.splitlines()[-1])
    print(outcome(add.apply, ("a",), throw=True))
    print(retried.apply().get(), outcome(retried))
    print(add.apply((1,), task_id="mine").id, add.apply((1,), link=add.s(10)).get())
    print(add.s(1).apply().get(), add.s(1)(), add.s(1)(5))
