"""config_from_object takes a module, a dotted name, a class or an instance, and reads it when first needed."""

import sys
import types

from celery import Celery

from compat.harness import outcome

app = Celery("from_object")


class Settings:
    task_default_queue = "from-class"
    timezone = "Europe/Berlin"
    enable_utc = True
    _private = 1
    Capital = 2


def main():
    app.config_from_object(Settings)
    print(app.conf.task_default_queue, app.timezone, "_private" in app.conf)

    module = types.ModuleType("some_settings")
    module.task_default_queue = "from-module"
    module.nested = types.SimpleNamespace(task_default_queue="from-attribute")
    sys.modules["some_settings"] = module
    for source in ("some_settings", module, "some_settings:nested"):
        each = Celery("each", set_as_current=False)
        each.config_from_object(source)
        print(each.conf.task_default_queue)

    lost = Celery("lost", set_as_current=False)
    lost.config_from_object("no_such_module_anywhere")
    print("not read yet", lost.configured)
    print(outcome(lambda: lost.conf.task_default_queue))
    silent = Celery("silent", set_as_current=False)
    silent.config_from_object("no_such_module_anywhere", silent=True)
    print(silent.conf.task_default_queue)
    forced = Celery("forced", set_as_current=False)
    print(outcome(forced.config_from_object, "no_such_module_anywhere", force=True))

    twice = Celery("twice", set_as_current=False)
    twice.config_from_object(Settings)
    print(twice.conf.task_default_queue)
    twice.config_from_object({"task_default_queue": "second"})
    print(twice.conf.task_default_queue, twice.conf.timezone)
