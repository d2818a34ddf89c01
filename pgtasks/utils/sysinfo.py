"""How many CPUs this process may use, which in a container is not how many the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path, PurePosixPath
from typing import NamedTuple

__all__ = ("CpuBudget", "available_cpu_count", "cgroup_cpu_quota", "cpu_budget", "load_average")

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


class CpuBudget(NamedTuple):
    """How many tasks to run at a time; the CPUs there are for this process; the quota in CPUs, or None."""

    count: int  # type: ignore[assignment]  # the name is Celery's
    available: int
    quota: float | None


def cpu_budget(use_cgroup_quota: bool = True) -> CpuBudget:
    """Say how many processes of this one's kind can work at a time: a quota's fraction is used up by one more."""
    available = available_cpu_count()
    quota = cgroup_cpu_quota() if use_cgroup_quota else None
    count = available if quota is None else min(available, max(1, ceil(quota)))
    return CpuBudget(count, available, quota)


def available_cpu_count() -> int:
    """The CPUs that the scheduler lets this process run on."""
    if hasattr(os, "process_cpu_count"):  # new in Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_cpu_quota() -> float | None:
    """The CPU time, in CPUs, that control groups allow this process: the smallest quota on the way to the root.

    See the kernel's documentation of cgroup v2, `cpu.max`, and of the CFS bandwidth control of v1.
    """
    return min(_quotas(), default=None)


def load_average() -> tuple[float, ...]:
    """The system's load average, rounded up to hundredths."""
    return tuple(ceil(load * 100) / 100 for load in os.getloadavg())


def _quotas() -> Iterator[float]:
    for line in _read(OWN_CGROUPS).splitlines() or ["0::/"]:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            for directory in _upwards(CGROUPS, path):
                yield from _quota(*_read(directory / "cpu.max").split())
        elif "cpu" in controllers.split(","):
            mount = next((m for m in (CGROUPS / controllers, CGROUPS / "cpu") if m.is_dir()), CGROUPS)
            for directory in _upwards(mount, path):
                yield from _quota(*(_read(directory / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")))


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    # From within a container, the path of a group above it begins with dots.
    inside = PurePosixPath(*(part for part in PurePosixPath(path).parts if part not in ("/", "..")))
    for directory in (inside, *inside.parents):
        yield mount / directory


def _quota(quota: str = "", period: str = "") -> Iterator[float]:
    # "max" in v2 and -1 in v1 mean that there is none.
    if quota.isdigit() and period.isdigit() and int(quota) and int(period):
        yield int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
