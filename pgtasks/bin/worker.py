"""`pgtasks worker`: start a worker.

All options of Celery's worker are understood. Some have nothing left to do, because the database does it:
mingle, gossip and the state database (revoked tasks and workers are rows), AMQP heartbeats (a worker's lease
cannot be turned off), `-O fair` (tasks are always handed to free slots only).
"""

from __future__ import annotations

import atexit
import signal
import sys
from contextlib import ExitStack
from functools import partial
from typing import Any

import click

from pgtasks.app.jsonlog import JSON
from pgtasks.beat.service import embedded
from pgtasks.bin.daemon import become_a_service
from pgtasks.bin.options import (
    COMMA_SEPARATED_LIST,
    LOG_FORMATS,
    LOG_LEVEL,
    CeleryDaemonCommand,
    CLIContext,
    option,
    set_log_format,
)
from pgtasks.exceptions import ImproperlyConfigured, OperationalError
from pgtasks.platforms import EX_FAILURE
from pgtasks.utils.log import get_logger
from pgtasks.utils.nodenames import default_nodename, host_format
from pgtasks.worker.supervisor import Worker

logger = get_logger("celery.worker")

POOLS = ("prefork", "threads", "aio", "gevent", "solo", "processes")


class Hostname(click.ParamType):  # type: ignore[type-arg]
    """A node name; patterns are filled in."""

    name = "hostname"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return host_format(default_nodename(value))


class Concurrency(click.ParamType):  # type: ignore[type-arg]
    """A number of tasks, or `auto`: the number of CPUs that this process may use."""

    name = "concurrency"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if str(value).lower() == "auto":
            return "auto"
        if not str(value).isdigit():
            self.fail(f"must be a non-negative integer or 'auto', got {value!r}", param, ctx)
        return int(value)


class Autoscale(click.ParamType):  # type: ignore[type-arg]
    """The most and the fewest processes, in any order; one number alone is the most."""

    name = "max,min"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        numbers = [number.strip() for number in value.split(",")]
        if len(numbers) > 2 or not all(number.isdigit() for number in numbers):
            self.fail(f"Expected one or two integers separated by a comma, as in 10,3; got {value!r}.", param, ctx)
        most, fewest = sorted(map(int, [*numbers, *(["0"] if len(numbers) == 1 else [])]), reverse=True)
        return most, fewest


class Pool(click.ParamType):  # type: ignore[type-arg]
    """How tasks run."""

    name = "|".join(POOLS)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == "eventlet":
            self.fail(
                "There is no eventlet pool: its authors advise against its use. Take `-P gevent`, which is closest to it,"
                " `-P threads`, or `-P aio` for tasks that are coroutines.",
                param,
                ctx,
            )
        if value not in POOLS:
            self.fail(f"{value!r} is none of {', '.join(POOLS)}.", param, ctx)
        return "prefork" if value == "processes" else str(value)


on_worker = partial(option, heading="Worker Options")
on_pool = partial(option, heading="Pool Options")
on_queues = partial(option, heading="Queue Options")
on_features = partial(option, heading="Features")
on_beat = partial(option, heading="Embedded Beat Options")


@click.command(cls=CeleryDaemonCommand, context_settings={"allow_extra_args": True})
@on_worker(
    "-n",
    "--hostname",
    type=Hostname(),
    default="celery@%h",
    help="Name of the worker. Expands %h (host), %n (name), %d (domain).",
)
@on_worker("-D", "--detach", is_flag=True, help="Run in the background.")
@on_worker("-S", "--statedb", type=click.Path(), help="Ignored: revoked tasks are in the database.")
@on_worker("-l", "--loglevel", type=LOG_LEVEL, default="WARNING", show_default=True, help="What to log.")
@on_worker("--log-format", type=click.Choice(LOG_FORMATS), help="Format of log lines: text, or a JSON object per line.")
@on_worker(
    "-O",
    "--optimization",
    type=click.Choice(["default", "fair"]),
    default="default",
    help="Ignored: scheduling is always fair.",
)
@on_worker(
    "--prefetch-multiplier",
    type=int,
    help="Maximum tasks claimed ahead per slot.",
)
@on_worker(
    "--disable-prefetch",
    is_flag=True,
    default=None,
    help="Claim a task only when a slot is free.",
)
@on_pool(
    "-c",
    "--concurrency",
    type=Concurrency(),
    help="How many tasks run at a time, or 'auto': the number of CPUs.",
)
@on_pool(
    "-P",
    "--pool",
    type=Pool(),
    help="How tasks run: in processes, threads, coroutines, greenlets, or one at a time.",
)
@on_pool("-E", "--task-events", "--events", is_flag=True, default=None, help="Send events for monitors.")
@on_pool("--time-limit", type=float, help="Seconds after which a task's process is killed.")
@on_pool("--soft-time-limit", type=float, help="Seconds after which SoftTimeLimitExceeded is raised in a task.")
@on_pool("--max-tasks-per-child", type=int, help="Number of tasks after which a process is replaced.")
@on_pool("--max-memory-per-child", type=int, help="Memory in KiB after which a process is replaced.")
@on_pool("--pool-start-method", type=click.Choice(["fork", "spawn", "forkserver"]), help="How processes are made.")
@on_queues("--purge", "--discard", is_flag=True, help="Delete all waiting tasks first.")
@on_queues("-Q", "--queues", type=COMMA_SEPARATED_LIST, help="Queues to consume, separated by commas.")
@on_queues("-X", "--exclude-queues", type=COMMA_SEPARATED_LIST, help="Queues not to consume.")
@on_queues("-I", "--include", type=COMMA_SEPARATED_LIST, help="Further modules to import.")
@on_features("--without-gossip", is_flag=True, help="Ignored: there is no gossip.")
@on_features("--without-mingle", is_flag=True, help="Ignored: there is no mingling.")
@on_features("--without-heartbeat", is_flag=True, help="Send no heartbeat events; the lease is still renewed.")
@on_features("--heartbeat-interval", type=int, help="Seconds between heartbeat events.")
@on_features("--autoscale", type=Autoscale(), help="Maximum and minimum number of processes, as in 10,3.")
@on_beat("-B", "--beat", is_flag=True, help="Run the scheduler in this worker as well.")
@on_beat(
    "-s",
    "--schedule-filename",
    "--schedule",
    help="File of a file-based scheduler.",
)
@on_beat("--scheduler", help="Scheduler class.")
@click.pass_context
def worker(ctx: click.Context, /, hostname: str, **options: Any) -> None:
    """Start a worker.

    \b
    pgtasks -A proj worker -l INFO
    pgtasks -A proj worker -Q mail,default -c 8
    pgtasks -A proj worker -P threads -c 100
    pgtasks -A proj worker --autoscale=10,2

    TERM and INT let running tasks finish; a second INT, or QUIT, kills them, and they go back to the queue.
    """
    obj: CLIContext = ctx.obj
    _configure(ctx, obj.app, options)
    become_a_service(obj.app, hostname, options)
    if options["autoscale"]:
        most, fewest = options["autoscale"]
        # Threads and coroutines that have nothing to do cost nothing: all that may be needed are there from the start.
        if (options["pool"] or obj.app.conf.worker_pool) == "prefork":
            options["concurrency"] = max(1, fewest)
        else:
            options["concurrency"], options["autoscale"] = most, None
    with ExitStack() as beside:
        if options["beat"]:
            beside.enter_context(_beat(obj.app, options))
        # Among lines of JSON a banner would be in the way.
        quiet = obj.quiet or obj.app.conf.worker_log_format == JSON
        worker = Worker(obj.app, hostname=hostname, no_color=obj.no_color or None, quiet=quiet, **options)
        status = _run(worker, options["logfile"])
    atexit.register(_ignore_signals)
    ctx.exit(status)


def _ignore_signals() -> None:
    """Ignore what stops a worker. It has signed off, and while the interpreter ends, which puts the signals' own effects
    back, one more would look like a crash.
    """
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)


def _run(worker: Worker, logfile: str | None) -> int:
    try:
        return worker.start()
    except click.ClickException:
        raise
    except (OperationalError, ImproperlyConfigured) as exc:
        if logfile:
            # The command tells it in a line: whoever started it is to see that too, and not the log alone.
            logger.critical("Cannot go on: %s", exc)
            sys.stderr = sys.__stderr__
        raise
    except Exception as exc:
        if not worker.app.log.already_setup:
            raise
        # As one record: what the interpreter writes to a stderr that is logged comes in pieces, each a record.
        logger.critical("Unrecoverable error: %r", exc, exc_info=True)
        return EX_FAILURE


def _beat(app: Any, options: dict[str, Any]) -> Any:
    logging = {"loglevel": options["loglevel"], "logfile": options["logfile"]}
    return embedded(app, logging, scheduler_cls=options["scheduler"], schedule_filename=options["schedule_filename"])


_SETTINGS = {
    "disable_prefetch": "worker_disable_prefetch",
    "pool_start_method": "worker_pool_start_method",
    "prefetch_multiplier": "worker_prefetch_multiplier",
    "task_events": "worker_send_task_events",
}


def _configure(ctx: click.Context, app: Any, options: dict[str, Any]) -> None:
    """Change the settings that options stand for, and those given like `-- worker.prefetch_multiplier=8`."""
    set_log_format(app, options.pop("log_format"))
    for name, setting in _SETTINGS.items():
        if options[name] is not None:
            setattr(app.conf, setting, options[name])
    if options["include"]:
        app.conf.include = (*app.conf.include, *options["include"])
    if not ctx.args:
        return
    try:
        app.config_from_cmdline(ctx.args, namespace="worker")
    except (KeyError, ValueError) as exc:
        raise click.UsageError(
            f"Cannot read the settings in {' '.join(ctx.args)!r}: {exc}. Write them as in "
            "worker.prefetch_multiplier=8.",
            ctx=ctx,
        ) from exc
