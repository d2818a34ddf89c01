"""Options given to a call, a signature or the task: which win, and which reach the worker."""

from celery import Celery

from compat.harness import outcome, worker

app = Celery("options")


@app.task(bind=True, priority=2, queue="celery", time_limit=60)
def look(self):
    request = self.request
    return (
        request.delivery_info["routing_key"],
        request.delivery_info["priority"],
        request.timelimit,
        request.headers,
        request.shadow,
    )


@app.task(bind=True)
def properties(self):
    found = self.request.properties
    return {name: found.get(name) for name in ("app_id", "my_own", "priority", "correlation_id", "content_type")}


@app.task(bind=True, shadow_name=lambda self, args, kwargs, options: f"shadow of {args}")
def shadowed(self, *args):
    return self.request.shadow


def main():
    with worker("-Q", "celery,fast"):
        print(look.delay().get(timeout=10))
        print(look.apply_async(priority=5, queue="fast").get(timeout=10))
        print(look.apply_async(routing_key="fast", exchange="fast", time_limit=9, soft_time_limit=3).get(timeout=10))
        print(look.s().set(priority=7, headers={"a": 1}).apply_async(headers={"b": 2}).get(timeout=10))
        print(look.apply_async(shadow="other").get(timeout=10))
        print(app.send_task("options.look").get(timeout=10))
        print(app.send_task("options.look", priority=1, time_limit=None).get(timeout=10))
        result = properties.apply_async(app_id="shop", my_own="property", priority=4)
        print({k: v for k, v in result.get(timeout=10).items() if k != "correlation_id"})
        print(shadowed.delay(1, 2).get(timeout=10))
        print(outcome(look.apply_async, soft_time_limit=10, time_limit=5))
        print(outcome(look.apply_async, retry=False, ignore_result=False).get(timeout=10)[0])
