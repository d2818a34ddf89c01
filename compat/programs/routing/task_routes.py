"""task_routes sends tasks to queues by name, pattern, expression or function."""

import re

from celery import Celery

from compat.harness import worker

app = Celery("task_routes")


def by_function(name, args, kwargs, options, task=None, **kw):
    if name == "task_routes.by_argument":
        return {"queue": "even" if args[0] % 2 == 0 else "odd", "priority": 3}


app.conf.task_routes = (
    by_function,
    [
        ("task_routes.exact", "exact"),
        ("video.*", {"queue": "video"}),
        (re.compile(r"(task_routes)\.re_(x|y)"), {"queue": "expression"}),
        ("task_routes.by_key", {"exchange": "by_key", "routing_key": "by_key"}),
    ],
)
QUEUES = "celery,exact,video,expression,even,odd,given,by_key,decorated"


def queued(self):
    return self.request.delivery_info["routing_key"], self.request.delivery_info["priority"]


@app.task(bind=True)
def plain(self):
    return queued(self)


@app.task(bind=True)
def exact(self):
    return queued(self)


@app.task(bind=True, name="video.encode")
def encode(self):
    return queued(self)


@app.task(bind=True)
def re_x(self):
    return queued(self)


@app.task(bind=True)
def by_argument(self, n):
    return queued(self)


@app.task(bind=True, queue="decorated")
def decorated(self):
    return queued(self)


@app.task(bind=True)
def by_key(self):
    return queued(self)


def main():
    with worker("-Q", QUEUES):
        for signature in (
            plain.s(),
            exact.s(),
            encode.s(),
            re_x.s(),
            by_argument.s(1),
            by_argument.s(2),
            decorated.s(),
            by_key.s(),
        ):
            print(signature, signature.delay().get(timeout=10), signature.apply_async(queue="given").get(timeout=10))
        print(by_argument.apply_async((1,), priority=9).get(timeout=10), app.send_task("video.encode").get(timeout=10))
        print((exact.s() | plain.si() | encode.si()).delay().get(timeout=10))
    Celery("other", set_as_current=False)
    for routes in ({"a.*": "glob"}, {"a.b": {"queue": "exact"}}, "task_routes.by_function", [{"a.b": "listed"}]):
        each = Celery("each", set_as_current=False, task_routes=routes)
        route = each.amqp.router.route({}, "a.b")
        print(routes, getattr(route.get("queue"), "name", route.get("queue")))
