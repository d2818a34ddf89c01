"""`pgtasks list`: list queues and bindings."""

from __future__ import annotations

import json

import click

from pgtasks.bin.options import CeleryCommand, CLIContext, json_option
from pgtasks.store import overview, tasks

#: Of the queues that have tasks: as many as anybody reads.
_MOST = 1000


@click.group(name="list")
def list_() -> None:
    """List queues and bindings."""


@list_.command(cls=CeleryCommand)
@json_option
@click.pass_obj
def bindings(obj: CLIContext, /, as_json: bool) -> None:
    """Show which exchange and routing key lead to which queue, as the app declares it."""
    rows = []
    for queue in obj.app.amqp.queues.values():
        exchange = queue.exchange.name if queue.exchange else ""
        rows.append({"queue": queue.name, "exchange": exchange, "routing_key": queue.routing_key})
    if as_json:
        obj.echo(json.dumps(rows))
        return
    for row in ({"queue": "Queue", "exchange": "Exchange", "routing_key": "Routing Key"}, _RULE, *rows):
        obj.echo(f"{row['queue']:<28} {row['exchange']:<28} {row['routing_key']}")


_RULE = {"queue": "-" * 16, "exchange": "-" * 16, "routing_key": "-" * 16}


@list_.command(cls=CeleryCommand)
@json_option
@click.pass_obj
def queues(obj: CLIContext, /, as_json: bool) -> None:
    """Show how many tasks wait in each queue that the app declares, and in any other that has some."""
    with_tasks = {queue for queue, *_ in obj.app.database.run(overview.look(_MOST)).queues}
    found = obj.app.database.run(tasks.lengths(sorted(with_tasks.union(obj.app.amqp.queues))))
    if as_json:
        keys = ("queue", "ready", "scheduled")
        obj.echo(json.dumps([dict(zip(keys, row, strict=True)) for row in found]))
        return
    obj.echo(f"{'Queue':<28} {'Ready':>10} {'Scheduled':>10}")
    for name, ready, scheduled in found:
        obj.echo(f"{name:<28} {ready:>10} {scheduled:>10}")
