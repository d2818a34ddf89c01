"""What the programs of all contenders have in common. Each runs in an environment of its own, so nothing else
is imported.

    program.py prepare                      make what must be there: a schema, mostly
    program.py worker                       work until terminated
    program.py send|bulk N                  send N no-op tasks, numbered from 0, one by one or as many at once
                                            as it can
    program.py flows N                      the same with workflows of five steps
    program.py walk N STEPS                 run N workflows of so many steps, one after the other
    program.py trip|chain|chord|flow N      do so N times, one after the other, and wait for the answer each time

What took how long is printed as JSON. A no-op notes, in a file shared by all processes, that it ran, as a workflow
does at its end: byte n counts the runs of number n. So whether each ran, and once, is nobody's word but its own. The last
byte says that the first step of any workflow has run.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from collections.abc import Callable
from typing import Any

URL = os.environ.get("RIVALS_DATABASE_URL", "")


def _open_ledger() -> Any:
    path = os.environ.get("RIVALS_LEDGER")
    if not path:
        return bytearray(1_000_000)
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 0)


_ran = _open_ledger()


def note(number: int) -> int:
    """The no-op."""
    _ran[number] += 1
    return number


def note_step(number: int) -> int:
    """The step of a workflow."""
    _ran[-1] = 1
    return number + 1


def note_end(value: int) -> int:
    """The end of a workflow that began with a number and had five steps."""
    note(value - 5)
    return value


def several(calls: int, call: Callable[[], Any], expected: Any) -> dict[str, Any]:
    """Time calls one after the other; the first five only warm up."""
    took_ms = []
    for number in range(calls + 5):
        began_at = time.perf_counter()
        found = call()
        if found != expected:
            raise SystemExit(f"{found!r} came back in the place of {expected!r}")
        if number >= 5:
            took_ms.append((time.perf_counter() - began_at) * 1000)
    return {"took_ms": took_ms}


def timed(send: Callable[[], Any]) -> dict[str, Any]:
    """Time one call."""
    began_at = time.perf_counter()
    send()
    return {"seconds": time.perf_counter() - began_at}


def main(**commands: Callable[..., Any]) -> None:
    """Do what the command line says."""
    name, *numbers = sys.argv[1:]
    found = commands[name](*map(int, numbers))
    if found is not None:
        print(json.dumps(found), flush=True)
