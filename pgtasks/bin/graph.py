"""`pgtasks graph`: the canvas that a task is part of, and how far it is."""

from __future__ import annotations

from typing import Any

import click

from pgtasks.app.graph import load
from pgtasks.exceptions import CeleryCommandException
from pgtasks.platforms import EX_FAILURE

FORMATS = ("text", "json", "dot", "svg")


@click.command("graph")
@click.argument("task_id")
@click.option("-f", "--format", "format_", type=click.Choice(FORMATS), default="text", help="How to show it.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.pass_context
def graph(ctx: Any, task_id: str, format_: str, as_json: bool) -> None:
    """Show the canvas that TASK_ID is part of: its tasks, their order and their states."""
    found = load(ctx.obj.app, task_id)
    if not found.nodes:
        raise CeleryCommandException(
            f"No task {task_id} is known here. Was it removed since (result_expires)? `pgtasks db status` says which database"
            " this is.",
            EX_FAILURE,
        )
    click.echo(getattr(found, "json" if as_json else format_)())
