"""`pgtasks workflow`: see what runs of workflows do, talk to them, run them again; `pgtasks replay`: try new code on old runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click

from pgtasks.exceptions import CeleryCommandException, WorkflowError
from pgtasks.platforms import EX_FAILURE
from pgtasks.workflow import care, replaying

_MOST = 1_000_000


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
        click.option("--limit", type=int, default=100, show_default=True, help="So many at most."),
        click.option("--since", type=_Age(), help="Ended, or begun, since: 30m, 12h, 7d, or a moment."),
        click.option("-s", "--state", "states", multiple=True, help="In this state, as in FAILURE or SUSPENDED."),
        click.option("-n", "--name", "names", multiple=True, help="Of this workflow."),
    ):
        command = option(command)
    return command


@click.group("workflow")
def workflow() -> None:
    """See what runs of workflows do, talk to them, and run them again."""


@workflow.command("list")
@_filter
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_context
def list_(
    ctx: Any, names: Sequence[str], states: Sequence[str], since: datetime | None, limit: int, as_json: bool
) -> None:
    """List runs, the newest first."""
    for run in care.find(ctx.obj.app, names, list(states) or None, since, limit):
        if as_json:
            click.echo(json.dumps({**run._asdict(), "id": run.public_id}, default=str))
            continue
        waits = f"  waits for {', '.join(run.waits_for)}" if run.waits_for else ""
        click.echo(f"{run.public_id}  {run.created_at:%Y-%m-%d %H:%M:%S}  {run.state:<9}  {run.name}{waits}")


@workflow.command("show")
@click.argument("run_id")
@click.pass_context
def show(ctx: Any, run_id: str) -> None:
    """Show a run and draw when each of its steps ran."""
    app = ctx.obj.app
    sight = _readably(lambda: care.look(app, run_id))
    lines = care.history(app, run_id)
    until = f", wakes at {sight.wakes_at:%Y-%m-%d %H:%M:%S}" if sight.wakes_at else ""
    click.echo(f"{sight.name}  {sight.state}{until}")
    click.echo(f"{sight.id}  in queue {sight.queue}, delivered {sight.delivery} times, {len(lines)} steps")
    for line in care.timeline(sight, lines):
        click.echo(line)


@workflow.command("steps")
@click.argument("run_id")
@click.pass_context
def steps(ctx: Any, run_id: str) -> None:
    """Print the steps of a run, one JSON object per line."""
    document = json.loads(_readably(lambda: care.export(ctx.obj.app, run_id)))
    for step in document["steps"]:
        click.echo(json.dumps(step))


@workflow.command("signal")
@click.argument("run_id")
@click.argument("name")
@click.argument("value", default="null")
@click.option("--key", help="Send it only once under this key.")
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
) -> list[str]:
    """The runs that were named, or that the filter finds, `default` being the states when it names none."""
    if ids:
        return list(ids)
    if not (names or states or since):
        raise click.UsageError("Name runs by their ids, or choose them by --name, --state or --since.")
    states = states or default
    return [run.public_id for run in care.find(app, names, list(states) or None, since, min(limit, _MOST))]


def _bulk(command: Any) -> Any:
    """What commands on many runs take: ids, or a filter, and whether to do it."""
    command = click.option("--dry-run", is_flag=True, help="Only say which runs it would be.")(command)
    return click.argument("ids", nargs=-1, metavar="[RUN_ID]...")(_filter(command))


def _shown_only(ids: Sequence[str], dry_run: bool) -> bool:
    if dry_run:
        for each in ids:
            click.echo(each)
        click.echo(f"{len(ids)} runs; nothing was done", err=True)
    return dry_run


@workflow.command("cancel")
@_bulk
@click.pass_context
def cancel(ctx: Any, ids: Any, names: Any, states: Any, since: Any, limit: int, dry_run: bool) -> None:
    """Cancel runs: what each did is undone, and its children are cancelled."""
    app = ctx.obj.app
    chosen = _chosen(app, ids, names, states, since, limit, ("READY", "SCHEDULED", "STARTED", "SUSPENDED"))
    if not _shown_only(chosen, dry_run):
        if chosen:
            app.control.revoke(chosen)
        click.echo(f"cancelled {len(chosen)} runs")


@workflow.command("redrive")
@_bulk
@click.pass_context
def redrive(ctx: Any, ids: Any, names: Any, states: Any, since: Any, limit: int, dry_run: bool) -> None:
    """Run failed runs again, each from the step that failed."""
    app = ctx.obj.app
    chosen = _chosen(app, ids, names, states, since, limit, ("FAILURE",))
    if not _shown_only(chosen, dry_run):
        again = care.redrive(app, chosen)
        click.echo(f"{len(again)} tasks run again")
        if ids and not again:
            raise CeleryCommandException(
                "None of these has failed, or all were undone: fork or rewind them.", EX_FAILURE
            )


@workflow.command("fork")
@_bulk
@click.option("--from", "from_step", metavar="STEP", help="Go on from this step: its number, or its name.")
@click.pass_context
def fork(
    ctx: Any, ids: Any, names: Any, states: Any, since: Any, limit: int, dry_run: bool, from_step: str | None
) -> None:
    """Run copies of runs that go on from a step, and print their ids."""
    app = ctx.obj.app
    chosen = _chosen(app, ids, names, states, since, limit)
    if not _shown_only(chosen, dry_run):
        for each in chosen:
            click.echo(_readably(partial(care.fork, app, each, from_step)))


@workflow.command("rewind")
@_bulk
@click.option("--to", "to_step", metavar="STEP", help="Go on from this step: its number, or its name.")
@click.pass_context
def rewind(
    ctx: Any, ids: Any, names: Any, states: Any, since: Any, limit: int, dry_run: bool, to_step: str | None
) -> None:
    """Have runs that have ended, or are suspended, go on from a step."""
    app = ctx.obj.app
    chosen = _chosen(app, ids, names, states, since, limit)
    if not _shown_only(chosen, dry_run):
        for each in chosen:
            _readably(partial(care.rewind, app, each, to_step))
        click.echo(f"rewound {len(chosen)} runs")


@workflow.command("export")
@click.argument("run_id")
@click.pass_context
def export(ctx: Any, run_id: str) -> None:
    """Print a run as JSON: how it was called and what it remembers, for `pgtasks replay`."""
    click.echo(_readably(lambda: care.export(ctx.obj.app, run_id)))


@click.command("replay")
@click.argument("sources", nargs=-1, metavar="[RUN_ID|FILE]...")
@_filter
@click.pass_context
def replay(ctx: Any, sources: Any, names: Any, states: Any, since: Any, limit: int) -> None:
    """Run the present code against stored histories, with every step stubbed; fails where it does not fit.

    Sources are ids of runs and files that `pgtasks workflow export` wrote; without any, the newest runs are taken.
    """
    app = ctx.obj.app
    chosen = list(sources) or [run.public_id for run in care.find(app, names, list(states) or None, since, limit)]
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
