"""The tasks of the load tests: what their workers import, and what the users of `loadtest.locustfile`
call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pgtasks import Celery

QUEUE = "load"

app = Celery("load", set_as_current=False, task_default_queue=QUEUE)


@app.task(name="load.noop")
def noop(number: int = 0) -> int:
    """Do nothing, with a result."""
    return number


@app.task(name="load.follow")
def follow(number: int) -> int:
    """A link of a chain: one more than what came before."""
    return number + 1


@app.task(name="load.total")
def total(numbers: Sequence[int]) -> int:
    """The body of a chord."""
    return sum(numbers)


@app.task(name="load.burn")
def burn(ms: float) -> float:
    """Take so long of the processor."""
    until = time.process_time() + ms / 1000
    while time.process_time() < until:
        pass
    return ms


def _step(number: int) -> int:
    return number + 1


def _five_steps(number: int) -> int:
    # Slow to import, and workers of the other users have no need of it.
    from pgtasks import wf

    for _ in range(5):
        number = wf.step(_step, number)
    return number


def _nap(seconds: float) -> bool:
    from pgtasks import wf

    wf.sleep(seconds)
    return True


#: A workflow that sleeps.
nap: Any = app.workflow(name="load.nap")(_nap) if hasattr(app, "workflow") else None
#: A workflow of five steps; None where this release has no workflows.
five_steps: Any = app.workflow(name="load.five_steps")(_five_steps) if hasattr(app, "workflow") else None
