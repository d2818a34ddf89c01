"""The app of chaos runs: tasks whose every run has a token.

CHAOS_HISTORY   the file of notes
CHAOS_CONF      settings, as JSON
CHAOS_MUTANT    a defect to work with, by its name in `tests.chaos.mutants`
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from pgtasks import Celery, chain
from tests.chaos import mutants
from tests.support import history

app = Celery("chaos")
app.conf.update(json.loads(os.environ.get("CHAOS_CONF", "{}")))
mutants.apply(os.environ.get("CHAOS_MUTANT"))


def _begin(task: Any, **facts: Any) -> str:
    token = uuid4().hex
    history.note(
        os.environ["CHAOS_HISTORY"],
        "begin",
        id=task.request.id,
        token=token,
        name=task.name,
        parent=os.getppid(),
        **facts,
    )
    return token


def _kill(what: str) -> None:
    """Kill the process that runs this, or the worker with all its processes."""
    os.kill({"child": os.getpid(), "worker": os.getppid()}[what], signal.SIGKILL)
    time.sleep(60)


@app.task(bind=True)
def work(self: Any, *, request: str, seconds: float = 0.0, gate: str | None = None) -> dict[str, Any]:
    token = _begin(self)
    time.sleep(seconds)
    while gate is not None and not Path(gate).exists():
        time.sleep(0.005)
    return {"token": token}


@app.task(bind=True)
def poison(self: Any, *, request: str, kills: str) -> None:
    _begin(self)
    _kill(kills)


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
def node(self: Any, *inputs: Any, request: str, n: int, crash: str | None = None) -> dict[str, Any]:
    """A part of a canvas: it says what it has seen of those before it, and crashes the first time when told to."""
    token = _begin(self)
    _crash_once(self, crash)
    return {"token": token, "n": n, "seen": [_seen(each) for each in inputs]}


def _seen(value: Any) -> Any:
    return [_seen(each) for each in value] if isinstance(value, list) else value["n"]


def _crash_once(task: Any, what: str | None) -> None:
    """Kill what runs this, the first time that this task comes by."""
    if what is None:
        return
    try:
        os.close(os.open(f"{os.environ['CHAOS_HISTORY']}.{task.request.id}.{task.name}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    _kill(what)


@app.task(bind=True)
def replaced(self: Any, *inputs: Any, request: str, n: int, inner: str, crash: str | None = None) -> None:
    """Go on as a chain of two, the second of which takes this one's place."""
    _begin(self)
    _crash_once(self, crash)
    first, second = node.si(request=request, n=n - 1, crash=crash), node.s(request=request, n=n, crash=crash)
    raise self.replace(chain(first.set(task_id=inner), second))


@app.task(bind=True)
def adding(self: Any, *inputs: Any, request: str, n: int, added: str, crash: str | None = None) -> dict[str, Any]:
    """Have one more task in the header that this one is in."""
    token = _begin(self)
    self.add_to_chord(node.s(request=request, n=n - 1, crash=crash).set(task_id=added))
    _crash_once(self, crash)
    return {"token": token, "n": n, "seen": []}


@app.task(bind=True)
def failing(self: Any, *inputs: Any, request: str, n: int, crash: str | None = None) -> None:
    _begin(self)
    _crash_once(self, crash)
    raise ValueError("as it shall")


@app.task(bind=True)
def parent(self: Any, *, request: str, n: int, children: list[str], crash: str | None = None) -> dict[str, Any]:
    """Send tasks one by one, under ids of their own, and crash in the middle of that."""
    token = _begin(self)
    for number, child in enumerate(children):
        node.apply_async(kwargs={"request": request, "n": number}, task_id=child)
        if number == len(children) // 2:
            _crash_once(self, crash)
    return {"token": token, "n": n, "seen": []}


@app.task(bind=True)
def undo(self: Any, value: dict[str, Any], *, undoes: str, crash: str | None = None) -> dict[str, Any]:
    _crash_once(self, crash)
    return {"undone": value["n"]}
