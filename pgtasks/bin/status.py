"""`pgtasks status`: show the workers that are online."""

from __future__ import annotations

from functools import partial
from typing import Any

import click
from kombu.utils.json import dumps

from pgtasks.app.control import flatten_reply
from pgtasks.bin.options import CeleryCommand, CLIContext
from pgtasks.bin.remote import count_nodes, remote_options, require_replies, say_reply


@click.command(cls=CeleryCommand)
@remote_options
@click.pass_obj
def status(obj: CLIContext, /, timeout: float, destination: list[str] | None, json: bool, **_: Any) -> None:
    """Show the workers that are online; exits with status 69 when none has replied.

    Each worker is queried, so one that hangs or was killed is not shown even while its lease lasts.
    """
    callback = None if json else partial(say_reply, obj, show_body=False)
    replies = flatten_reply(
        obj.app.control.broadcast(
            "ping", reply=True, timeout=timeout, destination=destination, callback=callback, only_workers=True
        )
    )
    if json:
        require_replies(replies)
        obj.echo(dumps(replies))
    else:
        count_nodes(obj, replies)
