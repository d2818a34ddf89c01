"""`pgtasks call`: call a task by name."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import click

from pgtasks.bin.options import (
    ISO8601,
    ISO8601_OR_FLOAT,
    JSON_ARRAY,
    JSON_OBJECT,
    CeleryCommand,
    CLIContext,
    json_option,
    option,
)

calling = partial(option, heading="Calling Options")


@click.command(cls=CeleryCommand)
@click.argument("name")
@calling("-a", "--args", type=JSON_ARRAY, default="[]", help="Positional arguments, a JSON array.")
@calling("-k", "--kwargs", type=JSON_OBJECT, default="{}", help="Keyword arguments, a JSON object.")
@calling("--eta", type=ISO8601, help="When to run it, ISO 8601.")
@calling("--countdown", type=float, help="Seconds from now when to run it.")
@calling("--expires", type=ISO8601_OR_FLOAT, help="When it is too late to run it: ISO 8601, or seconds from now.")
@calling("--serializer", default="json", show_default=True, help="How the arguments are stored.")
@option("--queue", heading="Routing Options", help="Queue to use.")
@option("--exchange", heading="Routing Options", help="Exchange to use.")
@option("--routing-key", heading="Routing Options", help="Routing key to use.")
@json_option
@click.pass_obj
def call(obj: CLIContext, /, name: str, as_json: bool, **options: Any) -> None:
    """Call a task by name, and print the id of the call. The task need not be known here."""
    task_id = obj.app.send_task(name, **options).id
    obj.echo(json.dumps({"id": task_id}) if as_json else task_id)
