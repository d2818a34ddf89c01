"""`pgtasks shell`: start a Python shell with the app and its tasks."""

from __future__ import annotations

import code
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

import click

from pgtasks import canvas
from pgtasks.app.builtins import BUILT_IN
from pgtasks.bin.options import CeleryCommand, CLIContext, option

_CANVAS = ("chain", "chord", "chunks", "group", "signature", "subtask", "xmap", "xstarmap")
shell_option = partial(option, heading="Shell Options", is_flag=True)


@click.command(cls=CeleryCommand)
@shell_option("-I", "--ipython", help="Use IPython.")
@shell_option("-B", "--bpython", help="Use bpython.")
@shell_option("--python", help="Use the plain shell.")
@shell_option("-T", "--without-tasks", help="Do not define the tasks as names.")
@click.pass_obj
def shell(obj: CLIContext, /, ipython: bool, bpython: bool, python: bool, without_tasks: bool, **_: Any) -> None:
    """Start a Python shell with the app and its tasks.

    Defined are `app` (and `celery`, the same), every task by its function's name, `Task`, and what canvases
    are made of: chain, chord, chunks, group, signature, xmap, xstarmap. The best shell that is installed is
    used.
    """
    sys.path.insert(0, os.getcwd())
    names = _names(obj.app, with_tasks=not without_tasks)
    chosen = [name for name, is_chosen in (("ipython", ipython), ("bpython", bpython), ("python", python)) if is_chosen]
    for name in chosen or _SHELLS:
        with suppress(ImportError):
            _SHELLS[name](names)
            return
    raise click.ClickException(f"{chosen[0]} is not installed. `pip install {chosen[0]}` does, or use --python.")


def _names(app: Any, with_tasks: bool) -> dict[str, Any]:
    app.loader.import_default_modules()
    names = {"app": app, "celery": app, "Task": app.Task, **{name: getattr(canvas, name) for name in _CANVAS}}
    if with_tasks:
        names |= {task.__name__: task for task in app.tasks.values() if not task.name.startswith(BUILT_IN)}
    return names


def _ipython(names: dict[str, Any]) -> None:
    import_module("IPython").start_ipython(argv=[], user_ns=names)


def _bpython(names: dict[str, Any]) -> None:
    import_module("bpython").embed(names)


def _python(names: dict[str, Any]) -> None:
    with suppress(ImportError):  # Python can be built without readline
        readline, completer = import_module("readline"), import_module("rlcompleter")
        readline.set_completer(completer.Completer(names).complete)
        readline.parse_and_bind("tab:complete")
    code.interact(local=names)


_SHELLS: dict[str, Callable[[dict[str, Any]], None]] = {
    "ipython": _ipython,
    "bpython": _bpython,
    "python": _python,
}
