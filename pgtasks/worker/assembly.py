"""What a worker is put together from: its database, its queues, its pool, and the crew of children that run tasks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import count
from typing import Any

from pgtasks.concurrency.base import ChildOptions
from pgtasks.exceptions import DatabaseUnavailable, ImproperlyConfigured
from pgtasks.execution import Site
from pgtasks.message import Claim
from pgtasks.utils.log import get_logger
from pgtasks.utils.nodenames import worker_direct
from pgtasks.utils.sysinfo import cpu_budget
from pgtasks.worker.crew import CrewOptions
from pgtasks.worker.pacing import PacedCrew
from pgtasks.worker.throttle import Throttle

logger = get_logger("celery.worker.consumer.consumer")

#: Pauses before a worker that starts tries to reach its database again grow by so much, up to so much, in seconds.
RETRY_STEP_S, RETRY_MOST_S = 2.0, 32.0

#: Pools by the names that Celery gives them: the module, and whether slots are children or within one child.
POOLS: dict[str, tuple[str, bool]] = {
    "prefork": ("pgtasks.concurrency.prefork", True),
    "processes": ("pgtasks.concurrency.prefork", True),
    "threads": ("pgtasks.concurrency.thread", False),
    "aio": ("pgtasks.concurrency.aio", False),
    "gevent": ("pgtasks.concurrency.gevent", False),
    "solo": ("pgtasks.concurrency.solo", False),
}


#: What else there is for those who are used to another one.
_INSTEAD = {
    "eventlet": " The authors of eventlet advise against its use: take gevent, which is closest to it, threads, or aio"
    " for coroutines."
}


def concurrency_of(wanted: int | str | None, pool: str = "prefork") -> tuple[int, str | None]:
    """How many tasks run at a time: as wanted, as many as there are CPUs, or for `auto` as many as may be used.

    For `auto` it also says why: a quota counts where slots are processes.
    """
    if str(wanted).strip().lower() != "auto":
        return int(wanted or os.cpu_count() or 1), None
    are_processes = POOLS.get(pool, ("", False))[1]
    budget = cpu_budget(use_cgroup_quota=are_processes)
    quota = "no cgroup cpu quota found" if budget.quota is None else f"cgroup cpu quota={budget.quota:.2f}"
    why = f"{quota}, available cpus={budget.available}" if are_processes else f"available cpus={budget.available}"
    return budget.count, f"worker_concurrency='auto' resolved to {budget.count} (pool={pool}, {why})."


def pool_class(name: str) -> type:
    """A class that stands for a pool, in its module: what handlers of `worker_init` ask for which pool this is."""
    module, _ = _pool(name)
    return type("TaskPool", (), {"__module__": module.__name__, "__doc__": module.__doc__})


def await_database(app: Any, ask: Callable[[], Any], sleep: Callable[[float], Any] = time.sleep) -> None:
    """Ask a server that cannot be reached yet, as often and as long as Celery's workers wait for a broker."""
    waits, most = app.conf.broker_connection_retry_on_startup, app.conf.broker_connection_max_retries
    for attempt in count(1):
        try:
            ask()
            return
        except DatabaseUnavailable as error:
            must_wait = app.conf.broker_connection_retry if waits is None else waits
            # Those below it have answered, and will not say anything else.
            if type(error) is not DatabaseUnavailable or not must_wait or (most and attempt > most):
                raise
            pause_s = min(RETRY_STEP_S * attempt, RETRY_MOST_S)
            logger.error("%s Trying again in %.2f seconds... (%s/%s)", error, pause_s, attempt, most or "inf")
            sleep(pause_s)


def select_queues(app: Any, hostname: str, queues: Iterable[str] | None, exclude_queues: Iterable[str] | None) -> None:
    """Have the app's workers take from these queues, and from the worker's own with `worker_direct`."""
    app.amqp.queues.select(queues)
    app.amqp.queues.deselect(exclude_queues)
    if app.conf.worker_direct:
        app.amqp.queues.select_add(worker_direct(hostname))


def assemble(
    worker: Any, *, is_at_most_once: Callable[[Claim], bool], private_descriptors: Callable[[], Iterable[int]]
) -> PacedCrew:
    """Make the crew of a worker for its current registration; its children are not started yet."""
    pool, are_children = _pool(worker.pool)
    if worker.sizing:
        logger.info(worker.sizing)
    return PacedCrew(
        Site(worker.app, worker.consumer.worker, worker.hostname),
        CrewOptions(
            serve=getattr(pool, "serve", None),
            children=worker.concurrency if are_children else 1,
            child=ChildOptions(
                slots=1 if are_children else worker.concurrency,
                max_tasks=worker.max_tasks_per_child,
                max_memory_kib=worker.max_memory_per_child,
                can_stop=getattr(pool, "can_stop", False),
                can_resize=getattr(pool, "can_resize", False),
            ),
            max_deliveries=int(worker.app.conf.task_max_deliveries),
        ),
        is_at_most_once=is_at_most_once,
        private_descriptors=private_descriptors,
        throttle=Throttle(worker.app.tasks, is_disabled=bool(worker.app.conf.worker_disable_rate_limits)),
    )


def _pool(name: str) -> tuple[Any, bool]:
    if name not in POOLS:
        raise ImproperlyConfigured(f"No pool {name!r} here. There are: {', '.join(POOLS)}.{_INSTEAD.get(name, '')}")
    module, are_children = POOLS[name]
    return import_module(module), are_children
