"""`pgtasks workflow`: inspect, signal, cancel and rerun workflows; `pgtasks replay`: check new code on old runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click

from pgtasks.exceptions import CeleryCommandException, WorkflowError
from pgtasks.platforms import EX_FAILURE
from pgtasks.store.runs import Found, Sight
from pgtasks.workflow import operations, replaying
from pgtasks.workflow.timeline import draw, span_text

_MOST = 1_000_000
_OPEN_STATES = ("READY", "SCHEDULED", "STARTED", "SUSPENDED")
_STATES = (*_OPEN_STATES, "SUCCESS", "FAILURE", "REVOKED")


def _readably(call: Callable[[], Any]) -> Any:
    """Say what was wrong with a request in one line, and leave with a status."""
    try:
        return call()
    except WorkflowError as error:
        raise CeleryCommandException(str(error), EX_FAILURE) from error


class _Age(click.ParamType[datetime]):
    """An age, as in 30m, 12h or 7d; or a moment in ISO 8601."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
        try:
            if value[-1] in units:
                return datetime.now(UTC) - timedelta(**{units[value[-1]]: float(value[:-1])})
            moment = datetime.fromisoformat(value)
        except (ValueError, IndexError):
            self.fail(
                f"{value!r} is neither an age as in 30m, 12h or 7d nor a moment as in 2026-01-31T12:00.", param, ctx
            )
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _filter(command: Any) -> Any:
    """The options by which commands choose runs."""
    for option in (
        click.option("--limit", type=int, default=100, show_default=True, help="Maximum number of runs."),
        click.option("--since", type=_Age(), help="Ended or started since: 30m, 12h, 7d, or a time in ISO 8601."),
        click.option(
            "-s", "--state", "states", multiple=True, type=click.Choice(_STATES, case_sensitive=False), help="In this state."
        ),
        click.option("-n", "--name", "names", multiple=True, help="Of this workflow."),
    ):
        command = option(command)
    return command


@click.group("workflow")
def workflow() -> None:
    """Inspect, signal, cancel and rerun workflows."""


@workflow.command("list")
@_filter
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_context
def list_(
    ctx: Any, names: Sequence[str], states: Sequence[str], since: datetime | None, limit: int, as_json: bool
) -> None:
    """List runs, the newest first."""
    for run in _found(ctx.obj.app, names, states, since, limit):
        click.echo(json.dumps({**run._asdict(), "id": run.public_id}, default=str) if as_json else _line(run))


def _found(
    app: Any, names: Sequence[str], states: Sequence[str], since: datetime | None, limit: int
) -> list[Found]:
    """The runs that a filter finds; says so when it names what is not known here, and finds nothing."""
    found = operations.find(app, names, list(states) or None, since, min(limit, _MOST))
    unknown = [name for name in names if name not in operations.names(app)]
    if unknown and not found:
        known = ", ".join(operations.names(app)) or "none"
        click.echo(f"No workflow is named {', '.join(unknown)} here. This app has: {known}.", err=True)
    return found


def _line(run: Found | Sight) -> str:
    waits = f"  waits for {', '.join(run.waits_for)}" if isinstance(run, Found) and run.waits_for else ""
    return f"{run.task_id or run.id}  {run.created_at:%Y-%m-%d %H:%M:%S}  {run.state:<9}  {run.name}{waits}"


def _counted(count: int, what: str = "run") -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


@workflow.command("show")
@click.argument("run_id")
@click.pass_context
def show(ctx: Any, run_id: str) -> None:
    """Show a run and draw when each of its steps ran."""
    app = ctx.obj.app
    sight = _readably(lambda: operations.look(app, run_id))
    lines = operations.history(app, run_id)
    until = f", wakes at {sight.wakes_at:%Y-%m-%d %H:%M:%S}" if sight.wakes_at else ""
    lasted = span_text(((sight.done_at or sight.now) - sight.created_at).total_seconds())
    click.echo(f"{sight.name}  {sight.state}{until}")
    click.echo(
        f"{sight.task_id or sight.id}  sent {sight.created_at:%Y-%m-%d %H:%M:%S},"
        f" {'ended after' if sight.done_at else 'for'} {lasted}"
    )
    count = max([sight.delivery, *(line.delivery for line in lines)])
    deliveries = "1 delivery" if count == 1 else f"{count} deliveries"
    click.echo(f"queue {sight.queue}, {deliveries}, {_counted(len(lines), 'step')}")
    for line in draw(sight, lines):
        click.echo(line)


@workflow.command("steps")
@click.argument("run_id")
@click.pass_context
def steps(ctx: Any, run_id: str) -> None:
    """Print the steps of a run, one JSON object per line."""
    document = json.loads(_readably(lambda: operations.export(ctx.obj.app, run_id)))
    for step in document["steps"]:
        click.echo(json.dumps(step))


@workflow.command("signal")
@click.argument("run_id")
@click.argument("name")
@click.argument("value", default="null")
@click.option("--key", help="Idempotency key: a signal is sent once per key.")
@click.pass_context
def signal(ctx: Any, run_id: str, name: str, value: str, key: str | None) -> None:
    """Send a run the signal NAME, with a VALUE in JSON."""
    try:
        decoded = json.loads(value)
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is not JSON: {error}. A string is written with quotes: '\"text\"'."
        ) from error
    result = ctx.obj.app.AsyncResult(run_id)
    is_new = _readably(lambda: result.signal(name, decoded, key=key))
    click.echo("sent" if is_new else f"sent before under the key {key!r}")


# -- many at once


def _chosen(
    app: Any,
    ids: Sequence[str],
    names: Sequence[str],
    states: Sequence[str],
    since: datetime | None,
    limit: int,
    default: Sequence[str] = (),
) -> dict[str, str]:
    """The runs that were named, or that the filter finds, by id, each with a line that says which it is.

    `default` are the states when none is named. A run that was named must be there.
    """
    if ids:
        return {each: _line(_readably(partial(operations.look, app, each))) for each in ids}
    if not (names or states or since):
        raise click.UsageError("Name runs by their ids, or choose them by --name, --state or --since.")
    found = _found(app, names, states or default, since, limit)
    if len(found) == limit:
        click.echo(f"These are {_counted(limit)}, and there may be more: see --limit.", err=True)
    return {run.public_id: _line(run) for run in found}


def _bulk(command: Any) -> Any:
    """What commands on many runs take: ids, or a filter, and whether to do it."""
    command = click.option("--dry-run", is_flag=True, help="Only list the runs that would be affected.")(command)
    return click.argument("ids", nargs=-1, metavar="[RUN_ID]...")(_filter(command))


def _shown_only(chosen: Mapping[str, str], dry_run: bool) -> bool:
    if dry_run:
        for line in chosen.values():
            click.echo(line)
        click.echo(f"{_counted(len(chosen))}; nothing was done", err=True)
    return dry_run


@workflow.command("cancel")
@_bulk
@click.pass_context
def cancel(ctx: Any, ids: Any, names: Any, states: Any, since: Any, limit: int, dry_run: bool) -> None:
    """Cancel runs: their undo steps run, and their children are cancelled."""
    app = ctx.obj.app
    chosen = _chosen(app, ids, names, states, since, limit, _OPEN_STATES)
    ended = [each for each in ids if operations.look(app, each).done_at is not None]
    if not _shown_only(chosen, dry_run):
        left = [each for each in chosen if each not in ended]
        if left:
            app.control.revoke(left)
        click.echo(f"cancelled {_counted(len(left))}" + (f"; {len(ended)} had ended before" if ended else ""))


@workflow.command("redrive")
@_bulk
@click.pass_context
def redrive(ctx: Any, ids: Any, names: Any, states: Any, since: Any, limit: int, dry_run: bool) -> None:
    """Rerun failed runs, each from the step that failed."""
    app = ctx.obj.app
    chosen = _chosen(app, ids, names, states, since, limit, ("FAILURE",))
    if not _shown_only(chosen, dry_run):
        again = operations.redrive(app, chosen)
        click.echo(f"{_counted(len(again), 'task')} {'runs' if len(again) == 1 else 'run'} again")
        if ids and not again:
            raise CeleryCommandException(
                "None of these has failed, or all were undone: fork or rewind them.", EX_FAILURE
            )


@workflow.command("fork")
@_bulk
@click.option("--from", "from_step", metavar="STEP", help="Step to resume from: its number or name.")
@click.pass_context
def fork(
    ctx: Any, ids: Any, names: Any, states: Any, since: Any, limit: int, dry_run: bool, from_step: str | None
) -> None:
    """Start copies of runs that resume from a given step, and print their ids."""
    app = ctx.obj.app
    chosen = _chosen(app, ids, names, states, since, limit)
    if not _shown_only(chosen, dry_run):
        for each in chosen:
            click.echo(_readably(partial(operations.fork, app, each, from_step)))


@workflow.command("rewind")
@_bulk
@click.option("--to", "to_step", metavar="STEP", help="Step to resume from: its number or name.")
@click.pass_context
def rewind(
    ctx: Any, ids: Any, names: Any, states: Any, since: Any, limit: int, dry_run: bool, to_step: str | None
) -> None:
    """Resume runs that have ended, or are suspended, from a given step."""
    app = ctx.obj.app
    chosen = _chosen(app, ids, names, states, since, limit)
    if not _shown_only(chosen, dry_run):
        for each in chosen:
            _readably(partial(operations.rewind, app, each, to_step))
        click.echo(f"rewound {_counted(len(chosen))}")


@workflow.command("export")
@click.argument("run_id")
@click.pass_context
def export(ctx: Any, run_id: str) -> None:
    """Print a run as JSON, its call and its history, for `pgtasks replay`."""
    click.echo(_readably(lambda: operations.export(ctx.obj.app, run_id)))


@click.command("replay")
@click.argument("sources", nargs=-1, metavar="[RUN_ID|FILE]...")
@_filter
@click.pass_context
def replay(ctx: Any, sources: Any, names: Any, states: Any, since: Any, limit: int) -> None:
    """Run the current code against stored histories, with every step stubbed; fails where they diverge.

    Sources are ids of runs and files that `pgtasks workflow export` wrote; without any, the newest runs are taken.
    """
    app = ctx.obj.app
    chosen = list(sources) or [run.public_id for run in _found(app, names, states, since, limit)]
    verdicts = [_readably(partial(_verdict, app, each)) for each in chosen]
    for verdict in verdicts:
        click.echo(f"{'fits' if verdict.fits else 'DIVERGES'}  {verdict.run}  {verdict.name}  ({verdict.end})")
        for divergence in verdict.divergences:
            click.echo(f"    {divergence}")
    wrong = sum(not verdict.fits for verdict in verdicts)
    click.echo(f"{len(verdicts)} replayed, {wrong} diverge", err=True)
    if wrong:
        ctx.exit(EX_FAILURE)


def _verdict(app: Any, source: str) -> replaying.Verdict:
    path = Path(source)
    if path.is_file():
        return replaying.replay_document(app, path.read_text(encoding="utf-8"))
    return replaying.replay(app, source)


workflow.add_command(replay)
