"""`pgtasks inspect`: query workers."""

from __future__ import annotations

from functools import partial
from typing import Any

import click
from kombu.utils.json import dumps

from pgtasks.bin.options import CeleryCommand, CLIContext
from pgtasks.bin.remote import compile_arguments, count_nodes, list_option, remote_options, require_replies, say_reply


@click.command(cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.argument("command")
@list_option("inspect")
@remote_options
@click.pass_context
def inspect(
    ctx: click.Context, /, command: str, timeout: float, destination: list[str] | None, json: bool, **_: Any
) -> None:
    """Query workers, as in `inspect ping`; exits with status 69 when none has replied.

    \b
    pgtasks -A proj inspect ping -d celery@$HOSTNAME
    pgtasks -A proj inspect active --json
    pgtasks -A proj inspect --list
    """
    obj: CLIContext = ctx.obj
    arguments = compile_arguments("inspect", command, ctx.args)
    asking = obj.app.control.inspect(
        timeout=timeout, destination=destination, callback=None if json else partial(say_reply, obj)
    )
    replies = asking._request(command, **arguments)
    if json:
        require_replies(replies)
        obj.echo(dumps(replies))
    else:
        count_nodes(obj, replies)
