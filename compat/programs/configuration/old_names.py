"""The upper-case names of Celery 3 are understood; mixing them with new ones is refused with advice."""

from celery import Celery

from compat.harness import outcome

app = Celery("old_names")


def made(**settings):
    each = Celery("each", set_as_current=False)
    each.config_from_object(settings)
    return each.conf


def main():
    old = made(
        CELERY_DEFAULT_QUEUE="old",
        CELERYD_CONCURRENCY=3,
        CELERY_TASK_RESULT_EXPIRES=60,
        CELERYBEAT_SCHEDULE={},
        CELERY_ALWAYS_EAGER=True,
        CELERY_IMPORTS=("json",),
        CELERYD_TASK_SOFT_TIME_LIMIT=4,
        CELERY_ACKS_LATE=True,
    )
    print(old.task_default_queue, old.worker_concurrency, old.result_expires, old.beat_schedule, old.task_always_eager)
    print(old.imports, old.task_soft_time_limit, old.task_acks_late)
    print(old.CELERY_DEFAULT_QUEUE, old["CELERYD_CONCURRENCY"])
    new = made(task_default_queue="new")
    print(new.CELERY_DEFAULT_QUEUE)
    print(outcome(lambda: made(CELERY_DEFAULT_QUEUE="old", task_time_limit=3).task_time_limit))
    print(outcome(lambda: made(CELERY_DEFAULT_QUEUE="a", CELERY_ALWAYS_EAGER=True, task_time_limit=3).task_time_limit))
    print(outcome(lambda: made(task_default_queue="a", task_time_limit=3, CELERY_ALWAYS_EAGER=True).task_time_limit))
