"""The request is an attribute bag per execution: nested calls stack, own attributes are kept, options can be derived."""

from celery import Celery
from celery.app.task import Context

from compat.harness import outcome, worker

app = Celery("request_context")


@app.task(bind=True)
def outer(self):
    before = (self.request.args, self.request.called_directly)
    inside = inner(1)
    self.request.update(tenant="acme")
    return before, inside, self.request.tenant, self.request.get("tenant"), self.request.get("missing", "default")


@app.task(bind=True)
def inner(self, n):
    return self.request.called_directly, self.request.args, self.request.id


@app.task(bind=True)
def options(self):
    found = self.request.as_execution_options()
    found.pop("task_id"), found.pop("root_id"), found.pop("reply_to")
    return sorted(found.items(), key=lambda item: item[0])


def main():
    with worker():
        print(outer.delay().get(timeout=10))
        for name, value in options.apply_async(priority=2, headers={"a": 1}, expires=1000, soft_time_limit=50).get(
            timeout=10
        ):
            print(name, "given" if name == "expires" else value)
    inner.push_request(args=("pushed",), id="by-hand", called_directly=False)
    print(inner.request.args, inner.request.id, inner(2), inner.request.called_directly)
    inner.pop_request()
    print(inner.request.args, inner.request.id)
    context = Context({"id": "x", "retries": 2}, args=[1])
    print(context.id, context.retries, context.args, context.get("nothing"), outcome(lambda: context.nothing))
    context.clear()
    print(context.id, context.retries)
