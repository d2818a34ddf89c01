"""Judges of flow control: they read what tasks wrote down, and know nothing of how limits are kept.

A run that was killed ends when whoever killed it says so (`killed`, with the pids): nobody can run its task again before
the lease is over, so that the order of lines is the order of events.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

Line = Mapping[str, Any]


def most_at_once(lines: Iterable[Line]) -> Counter[str]:
    """The most runs there were at a time, of each key, and of all tenants together ("all of abc")."""
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    open_runs: dict[tuple[Any, Any], list[str]] = {}

    def change(keys: list[str], by: int) -> None:
        for key in keys:
            running[key] += by
            most[key] = max(most[key], running[key])

    for line in lines:
        if line["event"] == "begin":
            keys = [line["key"], *(["all of abc"] if line["key"] in ("a", "b", "c") else [])]
            keys += [f"plain of worker {line['worker']}"] if "worker" in line else []
            open_runs[line["pid"], line["id"]] = keys
            change(keys, 1)
        elif line["event"] == "end":
            change(open_runs.pop((line["pid"], line["id"])), -1)
        elif line["event"] == "killed":
            for run in [run for run in open_runs if run[0] in line["pids"]]:
                change(open_runs.pop(run), -1)
    return most


def windows_broken(starts: Sequence[datetime], most: int, period_s: float) -> list[tuple[datetime, datetime]]:
    """Where more than so many starts are within one period: the first and the last of each such run of starts."""
    ordered = sorted(starts)
    pairs = zip(ordered, ordered[most:], strict=False)
    return [(first, last) for first, last in pairs if (last - first).total_seconds() < period_s]


def starts_without_stamp(lines: Iterable[Line], stamps: Iterable[tuple[str, datetime]]) -> list[str]:
    """Tasks that began more often than they were counted, or before it."""
    begun: defaultdict[str, list[float]] = defaultdict(list)
    counted: defaultdict[str, list[float]] = defaultdict(list)
    for line in lines:
        if line["event"] == "begin":
            begun[line["id"]].append(line["at"])
    for task_id, at in stamps:
        counted[task_id].append(at.timestamp())
    return [
        task_id
        for task_id, moments in begun.items()
        if len(counted[task_id]) < len(moments)
        or any(at < stamp for at, stamp in zip(sorted(moments), sorted(counted[task_id]), strict=False))
    ]
