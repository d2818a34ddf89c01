"""`pgtasks status`: show the workers that are online."""

from __future__ import annotations

from functools import partial
from typing import Any

import click
from kombu.utils.json import dumps

from pgtasks.bin.options import COMMA_SEPARATED_LIST, CeleryCommand, CLIContext, option
from pgtasks.exceptions import CeleryCommandException
from pgtasks.platforms import EX_UNAVAILABLE
from pgtasks.utils.text import pluralize

remote = partial(option, heading="Remote Control Options")


@click.command(cls=CeleryCommand)
@remote("-t", "--timeout", type=float, default=1.0, show_default=True, help="Seconds to wait for replies.")
@remote("-d", "--destination", type=COMMA_SEPARATED_LIST, help="Node names to ask, separated by commas.")
@remote("-j", "--json", is_flag=True, help="Print JSON, for programs to read.")
@click.pass_obj
def status(obj: CLIContext, /, timeout: float, destination: list[str] | None, json: bool, **_: Any) -> None:
    """Show the workers that are online; exits with status 69 when there is none."""
    replies = obj.app.control.inspect(timeout=timeout, destination=destination).ping()
    if not replies:
        raise CeleryCommandException("No nodes replied within time constraint", EX_UNAVAILABLE)
    if json:
        obj.echo(dumps(replies))
    else:
        for node, reply in sorted(replies.items()):
            state, _body = obj.pretty(reply)
            obj.say_chat("->", f"{obj.style(f'{node}: ', fg='cyan', bold=True)}{state}")
    if not obj.quiet and not json:
        obj.echo(f"\n{len(replies)} {pluralize(len(replies), 'node')} online.")
