"""config_from_object in every form: module, name, class, instance, dict, with namespace, silent, forced, late."""

import sys
import types

from celery import Celery

from compat.harness import outcome

module = types.ModuleType("forms_settings")
module.task_default_queue = "of-module"
module.result_expires = 60
module.NOT_A_SETTING = 1
sys.modules["forms_settings"] = module
upper = types.ModuleType("forms_upper")
upper.CELERY_TASK_DEFAULT_QUEUE = "upper"
upper.CELERY_TASK_SERIALIZER = "pickle"
upper.OTHER = "ignored"
sys.modules["forms_upper"] = upper


class Settings:
    task_default_queue = "of-class"
    task_routes = {"a": "b"}


sys.modules["forms_settings"].Settings = Settings


def made(**kwargs):
    return Celery("made", set_as_current=False, **kwargs)


def main():
    for name, source in {
        "module": module,
        "name": "forms_settings",
        "class": Settings,
        "class by name": "forms_settings:Settings",
        "instance": Settings(),
        "dict": {"task_default_queue": "of-dict", "task_acks_late": True},
    }.items():
        app = made()
        app.config_from_object(source)
        print(f"{name:14} {app.conf.task_default_queue} {app.conf.result_expires} {app.conf.task_routes}")
    app = made()
    app.config_from_object("forms_upper", namespace="CELERY")
    print(app.conf.task_default_queue, app.conf.task_serializer, app.conf.get("OTHER"))
    app = made(namespace="CELERY", config_source="forms_upper")
    print(app.conf.task_default_queue)
    app = made()
    app.config_from_object("no_such_module_at_all")
    print(outcome(lambda: app.conf.task_default_queue)[:40])
    app = made()
    app.config_from_object("no_such_module_at_all", silent=True)
    print(app.conf.task_default_queue)
    app = made(task_default_queue="given")
    app.config_from_object(Settings)
    print(app.conf.task_default_queue)
    app.conf.task_default_queue = "assigned"
    print(app.conf.task_default_queue, app.conf["task_default_queue"], app.conf.get("task_default_queue"))
    app.conf.update(task_default_queue="updated", timezone="Europe/Berlin")
    print(app.conf.task_default_queue, app.conf.timezone, "timezone" in app.conf.changes)
    app = made()
    app.conf.task_default_queue = "early"
    app.config_from_object({"task_default_queue": "late"})
    print(app.conf.task_default_queue)
    app = made()
    app.add_defaults({"my_default": 5})
    app.add_defaults(lambda: {"my_lazy_default": 6})
    print(
        app.conf.my_default,
        app.conf.my_lazy_default,
        app.conf.get("nothing"),
        outcome(lambda: app.conf.nothing),
    )
    app.config_from_cmdline(["task_default_queue=cmd", "worker_concurrency=3"]) if hasattr(
        app, "config_from_cmdline"
    ) else None
    print(app.conf.task_default_queue, "task_default_queue" in app.conf, "nothing" in app.conf)
