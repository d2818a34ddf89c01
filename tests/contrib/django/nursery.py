"""A process that has imported what programs of a Django project import, and is forked for each of them.

    python -m tests.contrib.django.nursery     one line of JSON in: arguments, directory, environment, where to write
                                               one line out: the exit status

Importing Django, kombu and pgtasks takes a second, setting a project up a tenth of one. What depends on settings is not
imported before the fork, so each program sets up its project as one that was started from a shell does.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import sys
import threading
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import PIPE, CompletedProcess, Popen
from typing import Any, NoReturn

REPOSITORY = Path(__file__).parents[3]
#: Only a program that is stuck takes so long.
STUCK_S = 120
BEFOREHAND = (
    *("django.core.management", "django.core.handlers.wsgi", "django.core.handlers.asgi", "django.db.models"),
    *("django.db.backends.postgresql.base", "django.forms", "django.template.defaulttags", "django.test"),
    *("kombu.messaging", "pgtasks.app.base", "pgtasks.bin.base", "pgtasks.canvas", "pgtasks.contrib.django.integration"),
    *("pgtasks.app.publish", "pgtasks.asyncresult", "pgtasks.resultset", "pgtasks.app.bulk", "psycopg"),
)


class Nursery:
    """The process, as whoever needs a program sees it."""

    def __init__(self) -> None:
        # Modules of the project shall be found in its directory, not in the repository's.
        command = [sys.executable, "-m", "tests.contrib.django.nursery"]
        self._process = Popen(command, cwd=REPOSITORY, stdin=PIPE, stdout=PIPE, text=True)

    def run(
        self, arguments: Sequence[str], directory: Path, environ: Mapping[str, str]
    ) -> CompletedProcess[str]:
        """What `python *arguments` says there; arguments are a file's name or `-c` and a program, and what it gets."""
        said = [directory / "program.out", directory / "program.err"]
        wanted = {"arguments": arguments, "directory": str(directory), "environ": dict(environ), "said": list(map(str, said))}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        return CompletedProcess(arguments, status, *(path.read_text() for path in said))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(STUCK_S)


def _serve() -> None:
    for name in BEFOREHAND:
        importlib.import_module(name)
    for line in sys.stdin:
        wanted = json.loads(line)
        child = os.fork()
        if not child:
            _become(wanted)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(wanted: Mapping[str, Any]) -> NoReturn:
    """Run a program as `python` would, and end."""
    signal.alarm(STUCK_S)
    for number, path in enumerate(wanted["said"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(wanted["environ"])
    os.chdir(wanted["directory"])
    sys.path[:] = ["", *(path for path in sys.path if path and Path(path) != REPOSITORY)]
    status = 1
    try:
        status = _run(wanted["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(arguments: list[str]) -> int:
    try:
        if arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(arguments[1], "<program>", "exec"), main.__dict__)
        else:
            sys.argv = list(arguments)
            runpy.run_path(arguments[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    return status


if __name__ == "__main__":
    _serve()
