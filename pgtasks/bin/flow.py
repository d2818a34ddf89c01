"""`pgtasks flow` and `pgtasks queue`: show limits, and change them while workers run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from pgtasks.bin.options import CeleryCommand, CLIContext, json_option
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.flow import check_count, read_rate
from pgtasks.message import Limits
from pgtasks.store import flows
from pgtasks.store.flows import FlowRow, QueueLimit


class _Rate(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """A rate, `10/s`, as a count and seconds."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return read_rate(value) if isinstance(value, str) else value
        except ImproperlyConfigured as error:
            self.fail(str(error), param, ctx)


class _Count(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """A number of tasks."""

    name = "integer"

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            check_count("It", number := int(value), self._least)
        except (ValueError, ImproperlyConfigured):
            self.fail(f"{value!r} is not a whole number, {self._least} or more.", param, ctx)
        return number


_NO_RATE = (None, None)


@click.group()
def flow() -> None:
    """Show and change the limits of the flows that tasks declare.

    A limit set here applies at once, in all workers, and overrides what programs declare until it is reset.
    """


@flow.command(name="list", cls=CeleryCommand)
@json_option
@click.pass_obj
def list_flows(obj: CLIContext, /, as_json: bool) -> None:
    """List flows with their limits and how many tasks are held."""
    _show(obj, as_json, obj.app.database.run(flows.flows()), _line_of_flow)


@flow.command(cls=CeleryCommand)
@click.argument("name")
@click.option("--concurrency", type=_Count(1), help="Maximum tasks at once; per key, if any.")
@click.option("--rate", type=_Rate(), default=_NO_RATE, help="Maximum starts per period, as in 10/s; per key, if any.")
@click.option("--total-concurrency", type=_Count(1), help="Maximum tasks at once, over all keys.")
@click.option("--total-rate", type=_Rate(), default=_NO_RATE, help="Maximum starts per period, over all keys.")
@click.pass_obj
def limit(
    obj: CLIContext, /, name: str, concurrency: int | None, rate: Any, total_concurrency: int | None, total_rate: Any
) -> None:
    """Set the limits of the flow NAME, removing those not given."""
    known = {each.name: each for each in obj.app.database.run(flows.flows())}
    if name not in known:
        raise click.UsageError(f"There is no flow {name!r}. There are: {', '.join(known) or 'none'}.")
    (most, period_s), (total_most, total_period_s) = rate, total_rate
    is_keyed = known[name].is_keyed
    limits = Limits(is_keyed, concurrency, most, period_s, total_concurrency, total_most, total_period_s)
    obj.app.database.run(flows.declare(name, limits, by_hand=True))
    obj.echo(f"The flow {name} is limited to: {_limits_of(limits)}.")


@flow.command(cls=CeleryCommand)
@click.argument("name")
@click.pass_obj
def reset(obj: CLIContext, /, name: str) -> None:
    """Go back to the limits that programs declare, from the next start of a worker on."""
    if obj.app.database.run(flows.undo_by_hand(name)):
        obj.echo(f"The flow {name} goes by its code when a worker starts that has it.")
    else:
        raise click.UsageError(f"There is no flow {name!r} that was limited by hand.")


@click.group()
def queue() -> None:
    """Show and change the limits of queues, which apply to any task from any sender."""


@queue.command(cls=CeleryCommand)
@json_option
@click.pass_obj
def limits(obj: CLIContext, /, as_json: bool) -> None:
    """List the queues that have limits."""
    _show(obj, as_json, obj.app.database.run(flows.queue_limits()), _line_of_queue)


@queue.command(name="limit", cls=CeleryCommand)
@click.argument("name")
@click.option("--concurrency", type=_Count(0), help="Maximum tasks at once; 0 pauses the queue.")
@click.option("--per-worker", type=_Count(0), help="Maximum tasks at once per worker.")
@click.option("--rate", type=_Rate(), default=_NO_RATE, help="Maximum tasks handed out per period, as in 10/s.")
@click.pass_obj
def limit_queue(obj: CLIContext, /, name: str, concurrency: int | None, per_worker: int | None, rate: Any) -> None:
    """Set the limits of the queue NAME, removing those not given. Workers apply them within two seconds."""
    if concurrency is None and per_worker is None and rate == _NO_RATE:
        raise click.UsageError("Give a --concurrency, a --per-worker or a --rate; or `pgtasks queue unlimit`.")
    found = QueueLimit(name, concurrency, per_worker, *rate)
    obj.app.database.run(flows.limit_queue(found))
    obj.echo(f"The queue {name} is limited to: {_limits_of_queue(found)}.")


@queue.command(cls=CeleryCommand)
@click.argument("name")
@click.pass_obj
def unlimit(obj: CLIContext, /, name: str) -> None:
    """Remove all limits of the queue NAME."""
    was_limited = obj.app.database.run(flows.unlimit_queue(name))
    obj.echo(f"The queue {name} {'is limited no more' if was_limited else 'was not limited'}.")


def _show(obj: CLIContext, as_json: bool, rows: Sequence[Any], line_of: Callable[[Any], str]) -> None:
    if as_json:
        obj.echo(json.dumps([row._asdict() for row in rows]))
        return
    for row in rows:
        obj.echo(line_of(row))
    if not rows:
        obj.echo("- empty -")


def _line_of_flow(row: FlowRow) -> str:
    limits = Limits(
        row.is_keyed, row.concurrency, row.rate, row.period_s, row.total_concurrency, row.total_rate, row.total_period_s
    )
    oldest = "" if row.oldest_s is None else f", the oldest for {row.oldest_s:.0f} s"
    by_hand = " (by hand)" if row.is_set_by_hand else ""
    return f"{row.name}: {_limits_of(limits)}{by_hand}; {row.let_in} let in, {row.held} held{oldest}"


def _limits_of(limits: Limits) -> str:
    return _together(
        ("concurrency", limits.concurrency),
        ("rate", _rate(limits.rate, limits.period)),
        ("total concurrency", limits.total_concurrency),
        ("total rate", _rate(limits.total_rate, limits.total_period)),
        ("keys", "in turn" if limits.is_keyed else None),
    )


def _line_of_queue(row: QueueLimit) -> str:
    return f"{row.queue}: {_limits_of_queue(row)}; {row.claimed} claimed"


def _limits_of_queue(row: QueueLimit) -> str:
    rate = _rate(row.rate, row.period_s)
    return _together(("concurrency", row.concurrency), ("per worker", row.per_worker), ("rate", rate))


def _together(*limits: tuple[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in limits if value is not None) or "nothing"


def _rate(count: int | None, period_s: float | None) -> str | None:
    return None if count is None else f"{count}/{period_s:g}s"
