"""The commands of remote control that every worker knows.

A command is a function of `state` and of what the letter says; `@control_command` and `@inspect_command` add to them.
It runs in the worker's parent process, between two turns of its loop, so it should not take long. `state` has the
attributes `app`, `hostname`, and `consumer`, whose `controller` is the worker.

Replies have the shape of Celery's, which monitors depend on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pgtasks.app.builtins import BUILT_IN
from pgtasks.canvas import maybe_signature
from pgtasks.exceptions import WorkerShutdown
from pgtasks.message import id_of
from pgtasks.platforms import signal_name
from pgtasks.utils.functional import maybe_list
from pgtasks.utils.log import get_logger
from pgtasks.utils.serialization import strtobool
from pgtasks.utils.time import rate
from pgtasks.worker import memory as memory  # adds its commands
from pgtasks.worker import state as worker_state
from pgtasks.worker.panel import Panel, control_command, inspect_command, nok, ok, plain
from pgtasks.worker.request import Request

__all__ = ("Panel", "control_command", "inspect_command")

logger = get_logger("celery.worker.control")

DEFAULT_TASK_INFO_ITEMS = ("exchange", "routing_key", "rate_limit")


# -- the app


@inspect_command()
def report(state: Any, **kwargs: Any) -> Any:
    """Information about Celery installation for bug reports."""
    return ok(state.app.bugreport())


@inspect_command(alias="dump_conf", signature="[include_defaults=False]", args=[("with_defaults", strtobool)])
def conf(state: Any, with_defaults: bool = False, **kwargs: Any) -> Any:
    """List configuration."""
    settings = state.app.conf
    table = settings.table(with_defaults=with_defaults)
    return plain({**table, "deprecated_settings": settings.deprecated_settings})


@inspect_command(alias="dump_tasks", variadic="taskinfoitems", signature="[attr1 [attr2 [... [attrN]]]]")
def registered(state: Any, taskinfoitems: Any = None, builtins: bool = False, **kwargs: Any) -> list[str]:
    """List of registered tasks."""
    items = [
        item for item in taskinfoitems or DEFAULT_TASK_INFO_ITEMS if isinstance(item, str) and not item.startswith("_")
    ]

    def told(task: Any) -> str:
        values = [(item, getattr(task, item, None)) for item in items]
        told = " ".join(f"{item}={value}" for item, value in values if value is not None)
        return f"{task.name} [{told}]" if told else str(task.name)

    tasks = state.app.tasks
    return [told(tasks[name]) for name in sorted(tasks) if builtins or not name.startswith(BUILT_IN)]


# -- tasks


@inspect_command(alias="dump_active")
def active(state: Any, safe: bool | None = False, **kwargs: Any) -> Any:
    """List of tasks currently being executed."""
    return [request.info(safe=bool(safe)) for request in state.consumer.controller.active_requests()]


@inspect_command(alias="dump_reserved")
def reserved(state: Any, **kwargs: Any) -> Any:
    """List of currently reserved tasks, not including scheduled/active."""
    return [request.info() for request in state.consumer.controller.reserved_requests()]


#: What Celery's timer says of every task that it keeps until it is due.
_TIMER_PRIORITY = 6


@inspect_command(alias="dump_schedule")
def scheduled(state: Any, **kwargs: Any) -> Any:
    """List of currently scheduled ETA/countdown tasks."""
    timezone = state.app.timezone
    return [
        {
            "eta": request.claim.due.astimezone(timezone).isoformat(),
            "priority": _TIMER_PRIORITY,
            "request": request.info(),
        }
        for request in state.consumer.controller.scheduled_requests()
    ]


@inspect_command(variadic="ids", signature="[id1 [id2 [... [idN]]]]")
def query_task(state: Any, ids: Any, **kwargs: Any) -> Any:
    """Query for task information by id."""
    worker = state.consumer.controller
    wanted = set(maybe_list(ids) or ())
    found = {}
    for name, requests in (
        ("active", worker.active_requests()),
        ("reserved", worker.reserved_requests()),
        ("scheduled", worker.scheduled_requests(wanted)),
    ):
        found.update({request.id: (name, request.info()) for request in requests if request.id in wanted})
    return found


@inspect_command(alias="dump_revoked")
def revoked(state: Any, **kwargs: Any) -> list[str]:
    """List of revoked task-ids."""
    return list(worker_state.revoked)


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:
    """Revoke task by task id (or list of ids)."""
    ids = set(maybe_list(task_id) or ())
    signal = signal_name(signal or "SIGTERM")
    worker_state.revoked.update(ids)
    if not terminate:
        logger.info("Tasks flagged as revoked: %s", ", ".join(ids))
        return ok(f"tasks {ids} flagged as revoked")
    _terminate(state, [request for request in _in_hand(state) if request.id in ids], signal)
    # Its row may have reached this worker before the letter did.
    lately = state.consumer.controller.crew.terminated
    mine = [each for each in ids if id_of(each) in lately]
    return ok(f"terminate: {', '.join(mine)}" if mine else "terminate: tasks unknown")


@control_command(variadic="task_id", args=[("signal", signal_name)], signature="<signal> [id1 [id2 [... [idN]]]]")
def terminate(state: Any, signal: Any, task_id: Any, **kwargs: Any) -> Any:
    """Terminate task by task id (or list of ids)."""
    return revoke(state, task_id, terminate=True, signal=signal)


@control_command(variadic="headers", signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]")
def revoke_by_stamped_headers(
    state: Any, headers: Any, terminate: bool = False, signal: Any = None, **kwargs: Any
) -> Any:
    """Revoke task by header (or list of headers)."""
    signal = signal_name(signal or "SIGTERM")
    if isinstance(headers, list):
        headers = dict(header.split("=", 1) for header in headers)
    for header, stamps in headers.items():
        worker_state.revoked_stamps.setdefault(header, []).extend(maybe_list(stamps) or [])
    if not terminate:
        return ok(f"headers {headers} flagged as revoked, but not terminated")
    wanted = {header: maybe_list(stamps) or [] for header, stamps in headers.items()}
    found: dict[str, set[Any]] = {}
    doomed = []
    for request in state.consumer.controller.active_requests():
        for header, stamps in request.matching(wanted).items():
            found.setdefault(header, set()).update(stamps)
            doomed.append(request)
    _terminate(state, doomed, signal)
    return ok(f"headers {found} revoked" if found else f"headers {headers} were not terminated")


def _in_hand(state: Any) -> list[Request]:
    worker = state.consumer.controller
    return [*worker.active_requests(), *worker.reserved_requests()]


def _terminate(state: Any, requests: Iterable[Request], signal: str) -> None:
    for request in requests:
        logger.info("Terminating %s (%s)", request.id, signal)
        state.consumer.controller.crew.revoke(id_of(request.id), signal)


@control_command(
    args=[("task_name", str), ("rate_limit", str)], signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>"
)
def rate_limit(state: Any, task_name: str, rate_limit: Any, **kwargs: Any) -> Any:
    """Tell worker(s) to modify the rate limit for a task by type."""
    try:
        rate(rate_limit)
    except ValueError as error:
        return nok(f"Invalid rate limit string: {error!r}")
    if task_name not in state.app.tasks:
        logger.error("Rate limit attempt for unknown task %s", task_name)
        return nok("unknown task")
    state.app.tasks[task_name].rate_limit = rate_limit
    state.consumer.controller.crew.reset_rate_limits()
    if not rate_limit:
        logger.info("Rate limits disabled for tasks of type %s", task_name)
        return ok("rate limit disabled successfully")
    logger.info("New rate limit for tasks of type %s: %s.", task_name, rate_limit)
    return ok("new rate limit set successfully")


@control_command(
    args=[("task_name", str), ("soft", float), ("hard", float)], signature="<task_name> <soft_secs> [hard_secs]"
)
def time_limit(state: Any, task_name: str | None = None, hard: Any = None, soft: Any = None, **kwargs: Any) -> Any:
    """Tell worker(s) to modify the time limit for task by type."""
    task = state.app.tasks.get(task_name)
    if task is None:
        logger.error("Change time limit attempt for unknown task %s", task_name)
        return nok("unknown task")
    task.soft_time_limit, task.time_limit = soft, hard
    # Children know the tasks as they were when they were forked.
    state.consumer.controller.crew.renew()
    logger.info("New time limits for tasks of type %s: soft=%s hard=%s", task_name, soft, hard)
    return ok("time limits set successfully")


# -- the worker


@inspect_command(default_timeout=0.2)
def ping(state: Any, **kwargs: Any) -> Any:
    """Ping worker(s)."""
    return ok("pong")


@inspect_command()
def stats(state: Any, **kwargs: Any) -> Any:
    """Request worker statistics/information."""
    return state.consumer.controller.stats()


@inspect_command()
def clock(state: Any, **kwargs: Any) -> Any:
    """Get current logical clock value."""
    return {"clock": state.app.clock.value}


@inspect_command(visible=False)
def hello(state: Any, from_node: str, revoked: Any = None, **kwargs: Any) -> Any:
    """Request mingle sync-data."""
    if from_node == state.hostname:
        return None
    logger.info("sync with %s", from_node)
    worker_state.revoked.update(revoked or ())
    return {"revoked": list(worker_state.revoked), "clock": state.app.clock.forward()}


@control_command()
def election(state: Any, id: str, topic: str, action: Any = None, **kwargs: Any) -> None:
    """Hold election."""
    if topic != "task":
        logger.error("Unknown election topic %r: there is only 'task'", topic)
        return
    # Every worker sends it under the same id, so it exists once: nobody has to be elected.
    maybe_signature(action, app=state.app).apply_async(task_id=id)


@control_command()
def shutdown(state: Any, msg: str = "Got shutdown from remote", **kwargs: Any) -> Any:
    """Shutdown worker(s)."""
    logger.warning(msg)
    raise WorkerShutdown(0)


@control_command(args=[("n", int)], signature="[N=1]")
def pool_grow(state: Any, n: int = 1, **kwargs: Any) -> Any:
    """Grow pool by n processes/threads."""
    if state.consumer.controller.autoscaler:
        return nok("pool_grow is not supported with autoscale. Adjust autoscale range instead.")
    state.consumer.controller.resize(n)
    return ok("pool will grow")


@control_command(args=[("n", int)], signature="[N=1]")
def pool_shrink(state: Any, n: int = 1, **kwargs: Any) -> Any:
    """Shrink pool by n processes/threads."""
    if state.consumer.controller.autoscaler:
        return nok("pool_shrink is not supported with autoscale. Adjust autoscale range instead.")
    state.consumer.controller.resize(-n)
    return ok("pool will shrink")


@control_command()
def pool_restart(state: Any, modules: Any = None, reload: bool = False, reloader: Any = None, **kwargs: Any) -> Any:
    """Restart execution pool."""
    if not state.app.conf.worker_pool_restarts:
        raise ValueError("Pool restarts not enabled")
    state.consumer.controller.reload(modules, reload, reloader=reloader)
    return ok("reload started")


@control_command(args=[("max", int), ("min", int)], signature="[max [min]]")
def autoscale(state: Any, max: int | None = None, min: int | None = None, **kwargs: Any) -> Any:
    """Modify autoscale settings."""
    autoscaler = state.consumer.controller.autoscaler
    if autoscaler is None:
        raise ValueError("Autoscale not enabled")
    most, fewest = autoscaler.update(max, min)
    return ok(f"autoscale now max={most} min={fewest}")


# -- queues


@inspect_command()
def active_queues(state: Any, **kwargs: Any) -> Any:
    """List the task queues a worker is currently consuming from."""
    return [dict(queue.as_dict(recurse=True)) for queue in state.app.amqp.queues.consume_from.values()]


@control_command(
    args=[("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)],
    signature="<queue> [exchange [type [routing_key]]]",
)
def add_consumer(
    state: Any,
    queue: str,
    exchange: str | None = None,
    exchange_type: str | None = None,
    routing_key: str | None = None,
    **options: Any,
) -> Any:
    """Tell worker(s) to consume from task queue by name."""
    queues = state.app.amqp.queues
    if queue in queues:
        queues.consume_from[queue] = queues[queue]
    else:
        declaration = {"exchange_type": exchange_type or "direct", "routing_key": routing_key, **options}
        queues.select_add(queue, exchange=exchange or queue, **declaration)
    state.consumer.subscribe(list(queues.consume_from))
    logger.info("Started consuming from %s", queue)
    return ok(f"add consumer {queue}")


@control_command(args=[("queue", str)], signature="<queue>")
def cancel_consumer(state: Any, queue: str, **kwargs: Any) -> Any:
    """Tell worker(s) to stop consuming from task queue by name."""
    queues = state.app.amqp.queues
    queues.deselect(queue)
    state.consumer.subscribe(list(queues.consume_from))
    logger.info("Canceling queue %s", queue)
    return ok(f"no longer consuming from {queue}")


# -- events


@control_command()
def enable_events(state: Any, **kwargs: Any) -> Any:
    """Tell worker(s) to send task-related events."""
    dispatcher = state.consumer.event_dispatcher
    if dispatcher is None:
        return nok("event dispatcher unavailable")
    if dispatcher.groups and "task" not in dispatcher.groups:
        dispatcher.groups.add("task")
        return ok("task events enabled")
    return ok("task events already enabled")


@control_command()
def disable_events(state: Any, **kwargs: Any) -> Any:
    """Tell worker(s) to stop sending task-related events."""
    dispatcher = state.consumer.event_dispatcher
    if dispatcher is None:
        return nok("event dispatcher unavailable")
    if "task" in dispatcher.groups:
        dispatcher.groups.discard("task")
        return ok("task events disabled")
    return ok("task events already disabled")


@control_command()
def heartbeat(state: Any, **kwargs: Any) -> Any:
    """Tell worker(s) to send event heartbeat immediately."""
    state.consumer.controller.attendants.reporter.heartbeat()
