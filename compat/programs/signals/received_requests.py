"""task_received hands over the worker's own request: what a receiver may read from it, before the task runs."""

from celery import Celery, group, signals

from compat.harness import said, say, show, worker

app = Celery("received_requests")

FIELDS = (
    "name type args kwargs argsrepr kwargsrepr content_type content_encoding utc tzlocal ignore_result store_errors "
    "delivery_info errbacks chord group_index replaced_task_nesting stamped_headers stamps groups time_start "
    "worker_pid"
).split()


@app.task
def add(x, y=0):
    return x + y


@app.task(ignore_result=True, store_errors_even_if_ignored=True)
def quiet():
    pass


@signals.task_received.connect
def look(request, **kwargs):
    say(*(f"{name}={getattr(request, name, 'no such attribute')!r}" for name in FIELDS))
    say(request.task is app.tasks[request.name], request.app is app, request.correlation_id == request.id)
    say("due", request.eta and request.eta.isoformat(), "expires", type(request.expires).__name__, tuple(request.time_limits))
    say("own header", request.request_dict.get("own"), "body", request.body.decode()[:8])
    say("info", sorted(request.info()), "human", request.humaninfo() == f"{request.name}[{request.id}]")


def main():
    with worker():
        add.delay(1, y=2).get(timeout=10)
        add.apply_async((1,), expires=600, soft_time_limit=40, time_limit=50, headers={"own": "header"}).get(timeout=10)
        add.apply_async((1,), priority=3, eta="2020-01-01T00:00:00+00:00", link_error=add.s(4)).get(timeout=10)
        add.apply_async((1,), stamped_headers=["kind"], kind="odd").get(timeout=10)
        group(add.s(1), add.s(2)).apply_async().get(timeout=10)
        quiet.delay()
        add.delay(0).get(timeout=10)
    show(said())
