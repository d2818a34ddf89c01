"""The app of chaos runs: tasks whose every run has a token.

CHAOS_HISTORY   the file of notes
CHAOS_CONF      settings, as JSON
CHAOS_MUTANT    a defect to work with, by its name in `tests.chaos.mutants`
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from pgtasks import Celery
from tests.chaos import mutants
from tests.support import history

app = Celery("chaos")
app.conf.update(json.loads(os.environ.get("CHAOS_CONF", "{}")))
mutants.apply(os.environ.get("CHAOS_MUTANT"))


def _begin(task: Any, **facts: Any) -> str:
    token = uuid4().hex
    history.note(
        os.environ["CHAOS_HISTORY"], "begin", id=task.request.id, token=token, name=task.name, parent=os.getppid(), **facts
    )
    return token


@app.task(bind=True)
def work(self: Any, *, request: str, seconds: float = 0.0, gate: str | None = None) -> dict[str, Any]:
    token = _begin(self)
    time.sleep(seconds)
    while gate is not None and not Path(gate).exists():
        time.sleep(0.005)
    return {"token": token}


@app.task(bind=True, acks_late=False)
def once(self: Any, *, request: str) -> dict[str, Any]:
    return {"token": _begin(self, once=True)}


@app.task(bind=True, track_started=True, max_retries=None)
def flaky(self: Any, *, request: str, times: int = 1) -> dict[str, Any]:
    token = _begin(self)
    if self.request.retries < times:
        raise self.retry(countdown=random.choice([0, 0.02]))
    return {"token": token}


@app.task(bind=True)
def link(self: Any, before: Any = None, *, request: str, n: int) -> dict[str, Any]:
    token = _begin(self)
    seen = [] if before is None else [*before["seen"], before["n"]]
    return {"token": token, "n": n, "seen": seen}


@app.task(bind=True)
def body(self: Any, header: list[dict[str, Any]], *, request: str) -> dict[str, Any]:
    return {"token": _begin(self), "seen": [each["n"] for each in header]}
