"""The tasks of `loadtest.bench`: what its workers import, and what it calls.

`noop` does nothing but note, in a file shared by all processes, that it ran: byte n counts the runs of call n. So a
benchmark can tell that every task really ran, and once, without taking the results' word for it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from pgtasks import Celery

#: Names the file in which runs are counted.
LEDGER = "PGTASKS_BENCH_LEDGER"
QUEUE = "bench"

app = Celery("bench", set_as_current=False, task_default_queue=QUEUE)


def open_ledger(path: Path) -> mmap.mmap:
    """Map the file of counters, whose size says how many calls there are."""
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


_ran = open_ledger(Path(os.environ[LEDGER])) if LEDGER in os.environ else bytearray()


@app.task(name="bench.noop")
def noop(number: int) -> int:
    """Note that call `number` ran."""
    _ran[number] += 1
    return number


@app.task(name="bench.follow")
def follow(number: int) -> int:
    """A link of a chain: one more than what came before."""
    return number + 1


@app.task(name="bench.total")
def total(numbers: Sequence[int]) -> int:
    """The body of a chord."""
    return sum(numbers)
