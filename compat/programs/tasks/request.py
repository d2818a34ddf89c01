"""A bound task sees its own message in self.request."""

from celery import Celery

from compat.harness import show, worker

app = Celery("request")

FIELDS = (
    "task lang args kwargs retries is_eager eta expires called_directly timelimit time_limit soft_time_limit utc "
    "headers shadow ignore_result group group_index chord chain callbacks errbacks delivery_info "
    "replaced_task_nesting stamped_headers stamps loglevel logfile argsrepr kwargsrepr"
).split()


@app.task(bind=True)
def look(self, *args, **kwargs):
    request = self.request
    seen = {name: getattr(request, name, "no such attribute") for name in FIELDS}
    seen["origin is a client"] = request.origin.startswith("gen")
    seen["hostname"] = request.hostname
    seen["correlated"] = request.correlation_id == request.id
    seen["root and parent"] = [request.root_id == request.id, request.parent_id]
    seen["reply_to"] = bool(request.reply_to)
    seen["children"] = request.children
    return {name: repr(value) for name, value in seen.items()}


def main():
    seen = {}
    with worker("-n", "w@h"):
        seen["delay(1, a=2)"] = look.delay(1, a=2)
        seen["options"] = look.apply_async(
            ("x",),
            retries=3,
            time_limit=9,
            soft_time_limit=5,
            headers={"my": "own"},
            shadow="other.name",
            priority=3,
            argsrepr="(hidden)",
        )
        seen["send_task"] = app.send_task("request.look", kwargs={"k": [1]}, queue="celery", ignore_result=False)
        for how, result in seen.items():
            print(how)
            show(f"{name}: {value}" for name, value in result.get(timeout=10).items())
    print("called directly")
    show(f"{name}: {value}" for name, value in look_directly().items())


@app.task(bind=True)
def look_directly(self):
    request = self.request
    return {
        name: getattr(request, name)
        for name in ("id", "called_directly", "args", "retries", "is_eager", "delivery_info", "root_id")
    }
