"""A producer and a worker that run unmodified code for Celery under the eyes of a monitoring library.

Both are processes of their own, since `import celery` means pgtasks there. What the library reports, either of them
appends to a file as JSON, and does so before a result can be seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.workers import REPOSITORY, WorkerProcess, running

Report = dict[str, Any]


def write(report: Report) -> None:
    """Append a report to the file; one write, so that those of two processes do not mix."""
    file = os.open(os.environ["REPORTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, (json.dumps({**report, "pid": os.getpid()}, default=str) + "\n").encode())
    finally:
        os.close(file)


@contextmanager
def worker_of(module: str, directory: Path, url: str) -> Iterator[tuple[WorkerProcess, dict[str, str]]]:
    """A prefork worker for a module that says `import celery`, and the environment its producer needs."""
    environ = {"PGTASKS_DATABASE_URL": url, "REPORTS": str(directory / "reports")}
    options = {"concurrency": 1, "module": module, "environ": environ, "globally": ["--as-celery"]}
    with running(directory, **options) as worker:  # type: ignore[arg-type]
        yield worker, environ


def produce(module: str, environ: dict[str, str]) -> Any:
    """Run the module's `produce` in a process of its own; gives what it returns, by way of JSON."""
    code = (
        "import pgtasks; pgtasks.install_as_celery(); import json;"
        f" from {module} import produce; print(json.dumps(produce()))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def reports(environ: dict[str, str]) -> list[Report]:
    return [json.loads(line) for line in Path(environ["REPORTS"]).read_text().splitlines()]
