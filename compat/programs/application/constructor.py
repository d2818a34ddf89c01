"""Constructor arguments become settings; the app knows its broker, backend and includes."""

from celery import Celery

from compat.harness import outcome

app = Celery(
    "constructor",
    include=["json"],
    task_default_queue="mine",
    result_extended=True,
    changes={"task_serializer": "json"},
    an_own_setting=7,
)


def main():
    print(app.main, app.conf.include, app.conf.task_default_queue, app.conf.result_extended, app.conf.an_own_setting)
    print(app.conf.task_serializer, app.strict_typing, app.autofinalize, app.set_as_current)
    print(repr(app).split(" at ")[0])
    print(outcome(Celery, "x", no_such_thing=1, set_as_current=False) is not None)
    loose = Celery("loose", strict_typing=False, set_as_current=False)

    @loose.task
    def one(a):
        return a

    print(one.typing)
    nameless = Celery(set_as_current=False)
    print(nameless.main, outcome(nameless.gen_task_name, "f", "m"))
    print(app.uses_utc_timezone(), app.timezone, app.now().tzinfo)
    print(app.current_task, app.current_worker_task)
    print(app.either("task_default_queue", None), app.either("task_default_queue", "given"))
