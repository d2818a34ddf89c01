"""With a namespace only the prefixed upper-case names count, as in Django's settings."""

from celery import Celery

from compat.harness import outcome

app = Celery("namespace")


class Settings:
    DEBUG = True
    CELERY_TASK_DEFAULT_QUEUE = "namespaced"
    CELERY_TASK_ALWAYS_EAGER = True
    CELERY_BEAT_SCHEDULE = {"each-minute": {"task": "t", "schedule": 60}}
    TASK_SERIALIZER = "ignored"
    task_time_limit = 7


def main():
    app.config_from_object(Settings, namespace="CELERY")
    print(app.conf.task_default_queue, app.conf.task_always_eager, sorted(app.conf.beat_schedule))
    print(app.conf.task_serializer, app.conf.task_time_limit)
    print(app.namespace, app.conf["task_default_queue"], "DEBUG" in app.conf)
    own = Celery("own", set_as_current=False)
    own.config_from_object({"SHOP_TASK_DEFAULT_QUEUE": "shop", "SHOP_TASK_TIME_LIMIT": 3}, namespace="SHOP")
    print(own.conf.task_default_queue, own.conf.task_time_limit)
    given = Celery("given", namespace="CELERY", set_as_current=False)
    given.config_from_object({"CELERY_TASK_DEFAULT_QUEUE": "constructor"})
    print(given.conf.task_default_queue)
    old = Celery("old", set_as_current=False)
    old.config_from_object({"CELERY_DEFAULT_QUEUE": "x", "CELERY_TASK_TIME_LIMIT": 3}, namespace="CELERY")
    print(outcome(lambda: old.conf.task_default_queue))
