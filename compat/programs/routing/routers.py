"""task_routes as dicts, globs, regular expressions, functions, classes and lists; what a call may still change."""

import re

from celery import Celery
from kombu import Exchange, Queue

from compat.harness import outcome

app = Celery("routers")
app.conf.task_queues = [
    Queue("celery"),
    Queue("feeds", Exchange("feeds", type="topic"), routing_key="feed.#"),
    Queue("video", routing_key="video"),
]


def by_function(name, args, kwargs, options, task=None, **kw):
    if name == "fn.task":
        return {"queue": "video", "priority": len(args)}
    if name == "fn.name":
        return "feeds"


class ByClass:
    def route_for_task(self, task, args=None, kwargs=None):
        if task == "class.task":
            return {"queue": "class-queue", "exchange": "x", "routing_key": "y"}


ROUTES = [
    {"exact.task": {"queue": "video"}, "feed.*": {"queue": "feeds", "routing_key": "feed.import"}},
    [(re.compile(r"(image|sound)\..*"), {"queue": "media"}), ("text.*", {"queue": "texts"})],
    by_function,
    ByClass(),
    {
        "named.task": "by-name",
        "opts.task": {"queue": "video", "priority": 9, "headers": {"r": 1}, "serializer": "pickle"},
    },
]


def place(route):
    queue = route.get("queue")
    shown = {key: value for key, value in route.items() if key != "queue"}
    return getattr(queue, "name", queue), sorted((k, str(v)) for k, v in shown.items())


def main():
    app.conf.task_routes = ROUTES
    router = app.amqp.router
    for name in (
        "exact.task",
        "feed.tasks.import",
        "image.resize",
        "sound.x",
        "fn.task",
        "fn.name",
        "class.task",
        "named.task",
        "opts.task",
        "other",
    ):
        print(f"{name:18}", outcome(lambda: place(router.route({}, name, (1, 2), {}))))
    print(place(router.route({"queue": "feeds"}, "exact.task")))
    print(place(router.route({"priority": 1}, "opts.task")))
    print(place(router.route({"routing_key": "mine"}, "other")))
    app.conf.task_create_missing_queues = False
    other = Celery(
        "strict", task_queues=[Queue("celery")], task_create_missing_queues=False, set_as_current=False
    )
    print(outcome(lambda: place(other.amqp.router.route({"queue": "nowhere"}, "t"))))
    text = Celery("text", task_routes="routers.by_function", set_as_current=False)
    print(place(text.amqp.router.route({}, "fn.task", (1,), {})))
    print(
        sorted(app.amqp.queues), app.amqp.queues["feeds"].exchange.type, app.amqp.queues["feeds"].routing_key
    )
