"""A task's attributes come from the decorator, its class, or the configuration, in this order."""

from celery import Celery, Task

from compat.harness import outcome, show

app = Celery(
    "attributes",
    task_acks_late=True,
    task_default_rate_limit="5/m",
    task_time_limit=100,
    task_serializer="yaml",
    task_track_started=True,
)

NAMES = (
    "max_retries default_retry_delay rate_limit time_limit soft_time_limit acks_late acks_on_failure_or_timeout "
    "reject_on_worker_lost track_started ignore_result serializer throws expires priority typing trail "
    "store_errors_even_if_ignored resultrepr_maxsize abstract send_events autoretry_for retry_backoff"
).split()


class Base(Task):
    time_limit = 50
    autoretry_for = (KeyError,)
    label = "from the class"


@app.task
def plain():
    """The docstring."""


@app.task(base=Base, time_limit=20, acks_late=False, label2="from the decorator", track_started=False, rate_limit=None)
def special(a: int, b: str = "x") -> str:
    pass


def main():
    for task in (plain, special):
        show(f"{task.name} {name} = {getattr(task, name, 'no such attribute')!r}" for name in NAMES)
    print(special.label, special.label2, plain.__doc__, special.__annotations__)
    print(special.__name__, special.__qualname__, special.__wrapped__.__name__, special.run.__name__)
    print(plain == app.tasks[plain.name], plain.app is app, plain.name in app.tasks)
    print(outcome(lambda: plain.nothing), hasattr(special, "request"))
    print(special.s(1), special.signature((1,), countdown=2).options)
    print(special.subtask((1,)), plain.si())
