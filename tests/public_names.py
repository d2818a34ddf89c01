"""Print, as JSON, what there is under Celery's names: python -m tests.public_names [--as-celery ASKED]

Without an argument it speaks of the installed Celery: of each module the names in `__all__` or, without that, those that
are made in it, and of each class named in `CLASSES` the attributes of the class and of an instance. With `--as-celery` it
says which of those, read from the file ASKED, are missing from what `import celery` gives after `install_as_celery()`.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType
from typing import Any

#: How to come by an instance of the classes that projects use; `app` is an app.
CLASSES = {
    "Celery": "app",
    "Celery.amqp": "app.amqp",
    "Celery.backend": "app.backend",
    "Celery.conf": "app.conf",
    "Celery.control": "app.control",
    "Celery.events": "app.events",
    "Celery.loader": "app.loader",
    "Celery.log": "app.log",
    "Inspect": "app.control.inspect()",
    "Task": "app.task(body, name='t')",
    "Context": "import_('celery.app.task').Context()",
    "AsyncResult": "app.AsyncResult('1')",
    "GroupResult": "app.GroupResult('1', [])",
    "EagerResult": "import_('celery.result').EagerResult('1', 2, 'SUCCESS')",
    "Signature": "app.signature('t')",
    "chain": "import_('celery').chain(app.signature('t'), app.signature('t'))",
    "group": "import_('celery').group([app.signature('t')])",
    "chord": "import_('celery').chord([app.signature('t')], app.signature('t'))",
    "Signal": "import_('celery.signals').task_prerun",
    "crontab": "import_('celery.schedules').crontab()",
    "schedule": "import_('celery.schedules').schedule(1)",
    "Scheduler": "import_('celery.beat').Scheduler(app, lazy=True)",
    "ScheduleEntry": "import_('celery.beat').ScheduleEntry('e', 't', schedule=1, app=app)",
    "events.State": "import_('celery.events.state').State()",
    "events.Task": "import_('celery.events.state').Task('1')",
}


def _modules() -> Iterator[str]:
    import celery

    yield "celery"
    for found in walk_packages(celery.__path__, "celery.", onerror=lambda name: None):
        if not found.name.endswith("__main__"):
            yield found.name


def _names(module: ModuleType) -> list[str]:
    if hasattr(module, "__all__"):
        return sorted({name for name in module.__all__ if not name.startswith("_")})
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def _instances() -> Iterator[tuple[str, Any]]:
    app = import_module("celery").Celery("names", broker="memory://", backend="cache+memory://", set_as_current=False)
    for name, how in CLASSES.items():
        yield name, eval(how, {"app": app, "body": _body, "import_": import_module})


def _body() -> None:
    """Of the task that is looked at."""


def offered() -> dict[str, list[str]]:
    """What the installed Celery has; modules that cannot be imported, for want of a driver, are left out."""
    found = {}
    for name in _modules():
        try:
            found[name] = _names(import_module(name))
        except Exception:
            continue
    for name, instance in _instances():
        found[f"{name}()"] = [each for each in dir(instance) if not each.startswith("_")]
    return found


def missing(asked: dict[str, list[str]]) -> list[str]:
    """What of that is not here: modules, `module:name`, and `class():name`."""
    lost = []
    for module, names in asked.items():
        if module.endswith("()"):
            continue
        try:
            here = import_module(module)
        except ImportError:
            lost.append(module)
            continue
        except Exception:
            continue  # it is there, and has something against being used like this
        lost += [f"{module}:{name}" for name in names if not hasattr(here, name)]
    for name, instance in _instances():
        here = {*dir(instance), *dir(type(instance))}
        lost += [f"{name}():{each}" for each in asked[f"{name}()"] if each not in here and not hasattr(instance, each)]
    return lost


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if "--as-celery" in sys.argv:
        import pgtasks

        pgtasks.install_as_celery()
        print(json.dumps(missing(json.loads(Path(sys.argv[2]).read_text()))))
    else:
        print(json.dumps(offered()))
