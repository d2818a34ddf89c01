"""Which pool a worker has, and the crew made of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from pgtasks.concurrency.base import ChildOptions
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.execution import Site
from pgtasks.message import Claim
from pgtasks.utils.sysinfo import cpu_budget
from pgtasks.worker.crew import CrewOptions
from pgtasks.worker.pacing import PacedCrew
from pgtasks.worker.throttle import Throttle

#: Pools by the names that Celery gives them: the module, and whether slots are children or within one child.
POOLS: dict[str, tuple[str, bool]] = {
    "prefork": ("pgtasks.concurrency.prefork", True),
    "processes": ("pgtasks.concurrency.prefork", True),
    "threads": ("pgtasks.concurrency.thread", False),
    "aio": ("pgtasks.concurrency.aio", False),
    "solo": ("pgtasks.concurrency.solo", False),
}


def concurrency_of(wanted: int | str | None) -> int:
    """How many tasks run at a time: as wanted, as many as there are CPUs, or for `auto` as many as may be used."""
    if wanted == "auto":
        return cpu_budget().count
    return int(wanted or os.cpu_count() or 1)


def assemble(
    worker: Any, *, is_at_most_once: Callable[[Claim], bool], private_descriptors: Callable[[], Iterable[int]]
) -> PacedCrew:
    """Make the crew of a worker for its current registration; its children are not started yet."""
    serve, are_children = _pool(worker.pool)
    return PacedCrew(
        Site(worker.app, worker.consumer.worker, worker.hostname),
        CrewOptions(
            serve=serve,
            children=worker.concurrency if are_children else 1,
            child=ChildOptions(
                slots=1 if are_children else worker.concurrency,
                max_tasks=worker.max_tasks_per_child,
                max_memory_kib=worker.max_memory_per_child,
            ),
            max_deliveries=int(worker.app.conf.task_max_deliveries),
        ),
        is_at_most_once=is_at_most_once,
        private_descriptors=private_descriptors,
        throttle=Throttle(worker.app.tasks, is_disabled=bool(worker.app.conf.worker_disable_rate_limits)),
    )


def _pool(name: str) -> tuple[Any, bool]:
    try:
        module, are_children = POOLS[name]
    except KeyError:
        raise ImproperlyConfigured(
            f"No pool {name!r} here. There are: {', '.join(POOLS)}."
            " (gevent and eventlet: use aio for coroutines, or threads.)"
        ) from None
    return getattr(import_module(module), "serve", None), are_children
