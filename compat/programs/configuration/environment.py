"""CELERY_CONFIG_MODULE and config_from_envvar name the settings module from outside."""

import os
import sys
import types

from celery import Celery

from compat.harness import outcome

app = Celery("environment")


def main():
    module = types.ModuleType("settings_of_the_environment")
    module.task_default_queue = "from-environment"
    module.task_time_limit = 9
    sys.modules[module.__name__] = module
    os.environ["SHOP_SETTINGS"] = module.__name__
    app.config_from_envvar("SHOP_SETTINGS")
    print(app.conf.task_default_queue, app.conf.task_time_limit)
    lost = Celery("lost", set_as_current=False)
    print(outcome(lost.config_from_envvar, "NO_SUCH_VARIABLE"))
    print(lost.config_from_envvar("NO_SUCH_VARIABLE", silent=True))
    argued = Celery("argued", set_as_current=False)
    argued.config_from_cmdline(["task.default_queue=by-hand", "task.time_limit=30"])
    print(argued.conf.task_default_queue, repr(argued.conf.task_time_limit))
