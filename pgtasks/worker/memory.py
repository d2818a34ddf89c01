"""Remote control commands for finding memory leaks: `memsample`, `memdump` and `objgraph`.

They report on the worker's parent process. Memory that tasks leak is in its children, where
`worker_max_memory_per_child` bounds it.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections import deque
from importlib import import_module
from pathlib import Path
from typing import Any

from pgtasks.worker.panel import inspect_command

__all__ = ("memdump", "memsample", "objgraph")

#: The last samples that were taken, in bytes.
_samples: deque[int] = deque(maxlen=1000)


@inspect_command()
def memsample(state: Any, **kwargs: Any) -> str:
    """Sample current RSS memory usage."""
    _samples.append(_resident())
    return _in_words(_samples[-1])


@inspect_command(args=[("samples", int)], signature="[n_samples=10]")
def memdump(state: Any, samples: int = 10, **kwargs: Any) -> str:
    """Dump statistics of previous memsample requests."""
    now = _resident()
    taken = list(_samples)
    _samples.clear()
    step = max(1, len(taken) // max(1, samples))
    lines = [f"- rss (sample): {_in_words(sample)}." for sample in taken[::step][:samples]]
    return "\n".join([*lines, f"- rss (end): {_in_words(now)}.\n"])


@inspect_command(
    default_timeout=60.0,
    args=[("type", str), ("num", int), ("max_depth", int)],
    signature="[object_type=Request] [num=200 [max_depth=10]]",
)
def objgraph(state: Any, num: int = 200, max_depth: int = 10, type: str = "Request", **kwargs: Any) -> dict[str, str]:
    """Create graph of uncollected objects (memory-leak debugging)."""
    try:
        library = import_module("objgraph")
    except ImportError as error:
        raise ImportError("Requires the objgraph library") from error
    objects = library.by_type(type)[:num]
    with tempfile.NamedTemporaryFile(prefix="pgtasks-objects-", suffix=".png", delete=False) as file:
        library.show_backrefs(objects, max_depth=max_depth, highlight=lambda each: each in objects, filename=file.name)
    return {"filename": file.name}


def _resident() -> int:
    """Bytes of memory that this process has at the moment; where that cannot be seen, the most it has had."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _in_words(size: int) -> str:
    for unit, bytes_ in (("GB", 2**30), ("MB", 2**20), ("KB", 2**10)):
        if size >= bytes_:
            return f"{size / bytes_:.5g}{unit}"
    return f"{size}B"
