"""`pgtasks beat`: start the scheduler of periodic tasks; list, pause, run and backfill them.

Without a subcommand it starts a scheduler. The subcommands speak with the same scheduler class, so `list` and `run` know
the entries of any; pausing, resuming and backfilling are what the scheduler that shares its memory in the database
can do.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import partial
from typing import Any

import click

from pgtasks.app.jsonlog import JSON
from pgtasks.beat.durable import PersistentScheduler
from pgtasks.beat.service import scheduler_class
from pgtasks.bin.daemon import become_a_service
from pgtasks.bin.options import (
    ISO8601,
    LOG_FORMATS,
    LOG_LEVEL,
    CeleryCommand,
    CeleryDaemonCommand,
    CLIContext,
    json_option,
    option,
    set_log_format,
)
from pgtasks.exceptions import CeleryCommandException
from pgtasks.platforms import EX_FAILURE
from pgtasks.store import schedules
from pgtasks.utils.nodenames import gethostname
from pgtasks.utils.time import maybe_make_aware

on_beat = partial(option, heading="Beat Options")
#: Most turns that a backfill sends unless --limit allows more.
MANY = 1000


class BeatGroup(CeleryDaemonCommand, click.Group):
    """A command that starts something, with subcommands."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=BeatGroup, invoke_without_command=True)
@on_beat("--detach", is_flag=True, help="Run in the background.")
@on_beat("-s", "--schedule", help="File of a file-based scheduler.")
@on_beat("-S", "--scheduler", help="Scheduler class, or the name of an installed plug-in.")
@on_beat("--max-interval", type=float, help="Maximum seconds between checks of the schedule.")
@on_beat(
    "--enable-remote-control/--no-enable-remote-control",
    "remote_control",
    default=None,
    help="Answer `pgtasks inspect ping`, for health checks. [default: beat_enable_remote_control]",
)
@on_beat("-n", "--hostname", help="Name of the node that answers. [default: celerybeat@%h]")
@on_beat("-l", "--loglevel", type=LOG_LEVEL, default="WARNING", show_default=True, help="What to log.")
@on_beat("--log-format", type=click.Choice(LOG_FORMATS), help="Format of log lines: text, or a JSON object per line.")
@click.pass_context
def beat(ctx: click.Context, /, **options: Any) -> None:
    """Start the scheduler of periodic tasks. Any number may run: each due run is sent once.

    \b
    pgtasks -A proj beat -l INFO
    pgtasks -A proj beat list
    pgtasks -A proj beat pause nightly-report
    pgtasks -A proj beat backfill nightly-report --from 2026-01-01 --to 2026-01-31
    """
    obj: CLIContext = ctx.obj
    if options["scheduler"]:
        obj.app.conf.beat_scheduler = options["scheduler"]
    if ctx.invoked_subcommand is not None:
        return
    set_log_format(obj.app, options["log_format"])
    become_a_service(obj.app, gethostname(), options)
    obj.app.Beat(
        max_interval=options["max_interval"],
        schedule=options["schedule"],
        loglevel=options["loglevel"],
        logfile=options["logfile"],
        no_color=obj.no_color or None,
        remote_control=options["remote_control"],
        hostname=options["hostname"],
        quiet=obj.quiet or obj.app.conf.worker_log_format == JSON,
    ).run()


def _scheduler(obj: CLIContext) -> Any:
    obj.app.loader.import_default_modules()
    obj.app.finalize()
    return scheduler_class(obj.app.conf.beat_scheduler)(app=obj.app)


def _durable(obj: CLIContext) -> PersistentScheduler:
    scheduler = _scheduler(obj)
    if not isinstance(scheduler, PersistentScheduler):
        raise CeleryCommandException(
            f"The scheduler {type(scheduler).__qualname__} keeps its entries elsewhere: change them there.", EX_FAILURE
        )
    return scheduler


def _entry(scheduler: Any, name: str) -> Any:
    try:
        return scheduler.schedule[name]
    except KeyError:
        known = ", ".join(sorted(scheduler.schedule)) or "none"
        raise click.UsageError(f"There is no periodic task {name!r} here. There are: {known}.") from None


@beat.command("list", cls=CeleryCommand)
@json_option
@click.pass_obj
def list_(obj: CLIContext, /, as_json: bool) -> None:
    """List periodic tasks with their last and next run and the outcome of the last one."""
    scheduler = _durable(obj)
    found = obj.app.database.run(schedules.listing(scheduler.app_name))
    keys = ("name", "task", "schedule", "is_paused", "last_run_at", "next_run_at", "runs", "skips", "task_id", "state")
    told = [dict(zip(keys, row, strict=True)) for row in found]
    for each in told:
        each["is_known"] = each["name"] in scheduler.schedule
    if as_json:
        obj.echo(json.dumps(told, default=str))
        return
    for each in told:
        note = "paused" if each["is_paused"] else "" if each["is_known"] else "not in this app's schedule"
        obj.echo(f"{each['name']}  {each['schedule']}  {each['task']}" + (f"  ({note})" if note else ""))
        upcoming = "-" if each["is_paused"] else each["next_run_at"] or "-"
        # Until it has run, its time is that from which its turns are counted.
        last = each["last_run_at"] if each["runs"] else "-"
        obj.echo(f"    last {last}, next {upcoming}, {each['runs']} runs, {each['skips']} passed over")
        if each["state"]:
            obj.echo(f"    {each['task_id']} {each['state']}")


@beat.command(cls=CeleryCommand)
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def pause(obj: CLIContext, /, names: tuple[str, ...]) -> None:
    """Pause periodic tasks until they are resumed; schedulers need not be restarted."""
    _told(obj, names, obj.app.database.run(schedules.pause(_durable(obj).app_name, names)), "paused")


@beat.command(cls=CeleryCommand)
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def resume(obj: CLIContext, /, names: tuple[str, ...]) -> None:
    """Resume periodic tasks; what was due in the meantime is not made up for."""
    _told(obj, names, obj.app.database.run(schedules.resume(_durable(obj).app_name, names)), "resumed")


def _told(obj: CLIContext, names: tuple[str, ...], done: list[str], what: str) -> None:
    for name in names:
        if name in done:
            obj.echo(f"{name}: {what}")
    missing = [name for name in names if name not in done]
    if missing:
        raise click.UsageError(
            f"There is no periodic task {', '.join(map(repr, missing))} here. `pgtasks beat list` shows which there are."
        )


@beat.command(cls=CeleryCommand)
@click.argument("name")
@json_option
@click.pass_obj
def run(obj: CLIContext, /, name: str, as_json: bool) -> None:
    """Send a periodic task now, in addition to its schedule, and print the id of the call."""
    scheduler = _scheduler(obj)
    result = scheduler.apply_async(_entry(scheduler, name), advance=False)
    obj.echo(json.dumps({"id": result.id}) if as_json else result.id)


@beat.command(cls=CeleryCommand)
@click.argument("name")
@click.option("--from", "start", type=ISO8601, required=True, help="Start of the period, exclusive; ISO 8601.")
@click.option("--to", "end", type=ISO8601, help="End of the period, inclusive; default: now.")
@click.option("--dry-run", is_flag=True, help="Only show the times.")
@click.option("--limit", type=int, default=MANY, show_default=True, help="Refuse to send more than this.")
@click.pass_obj
def backfill(obj: CLIContext, /, name: str, start: datetime, end: datetime | None, dry_run: bool, limit: int) -> None:
    """Send a periodic task for each time it was due in a past period, which it finds in its header scheduled_for."""
    scheduler = _durable(obj)
    entry = _entry(scheduler, name)
    period = (_in_zone(obj, start), _in_zone(obj, end or datetime.now(obj.app.timezone)))
    if period[0] >= period[1]:
        since, until = (moment.isoformat() for moment in period)
        raise click.UsageError(
            f"The period from {since} to {until} is empty: --from must be before --to, which is now if it is not given."
        )
    if any(number >= limit for number, _ in enumerate(scheduler.backfill(entry, *period, is_dry=True))):
        raise click.UsageError(f"{name!r} has more than {limit} turns in this period. Say --limit if that is meant.")
    for moment, result in scheduler.backfill(entry, *period, is_dry=dry_run):
        obj.echo(f"{moment.isoformat()}  {result.id if result else '-'}")


def _in_zone(obj: CLIContext, moment: datetime) -> datetime:
    """A moment without a zone is in the app's."""
    zone = obj.app.timezone
    return maybe_make_aware(moment, zone, naive_as_utc=False).astimezone(zone)
