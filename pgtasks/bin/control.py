"""`pgtasks control`: send remote control commands to workers."""

from __future__ import annotations

from functools import partial
from typing import Any

import click
from kombu.utils.json import dumps

from pgtasks.bin.options import CeleryCommand, CLIContext
from pgtasks.bin.remote import compile_arguments, list_option, remote_options, require_replies, say_reply
from pgtasks.worker.panel import Panel

#: Commands about tasks, stored as rows: they hold whether or not a worker is running.
_DURABLE = {"revoke", "terminate"}


@click.command(cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.argument("command")
@list_option("control")
@remote_options
@click.pass_context
def control(
    ctx: click.Context, /, command: str, timeout: float, destination: list[str] | None, json: bool, **_: Any
) -> None:
    """Send workers a command, as in `control rate_limit proj.add 10/m`; exits with status 69 when none has replied.

    \b
    pgtasks -A proj control revoke 5a9b3c1e-...
    pgtasks -A proj control pool_grow 2 -d celery@$HOSTNAME
    pgtasks -A proj control --list
    """
    obj: CLIContext = ctx.obj
    arguments = compile_arguments("control", command, ctx.args)
    if command == "terminate" and "signal" not in arguments:
        raise click.UsageError(f"Command 'terminate' takes arguments: {Panel.meta[command].signature}")
    callback = None if json else partial(say_reply, obj)
    waiting = {"reply": True, "timeout": timeout, "destination": destination, "callback": callback}
    if command in _DURABLE:
        replies = getattr(obj.app.control, command)(**arguments, **waiting)
        require_replies(replies, ". The revocation is stored in the database and takes effect regardless.")
    else:
        replies = obj.app.control.broadcast(command, arguments=arguments, **waiting)
        require_replies(replies)
    if json:
        obj.echo(dumps(replies))
