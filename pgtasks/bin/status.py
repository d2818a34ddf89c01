"""`pgtasks status`: show the workers that are online."""

from __future__ import annotations

from functools import partial
from typing import Any

import click
from kombu.utils.json import dumps

from pgtasks.bin.options import COMMA_SEPARATED_LIST, CeleryCommand, CLIContext, option
from pgtasks.exceptions import CeleryCommandException
from pgtasks.platforms import EX_UNAVAILABLE
from pgtasks.store import fleet
from pgtasks.utils.text import pluralize

remote = partial(option, heading="Remote Control Options")


@click.command(cls=CeleryCommand)
@remote("-t", "--timeout", type=float, default=1.0, help="Not needed: the database answers for the workers.")
@remote("-d", "--destination", type=COMMA_SEPARATED_LIST, help="Show only these nodes, separated by commas.")
@remote("-j", "--json", is_flag=True, help="Print JSON, for programs to read.")
@click.pass_obj
def status(obj: CLIContext, /, destination: list[str] | None, json: bool, **_: Any) -> None:
    """Show the workers that are online; exits with status 69 when there is none.

    Online is who has renewed its lease in time. A worker that was killed is shown until its lease ends.
    """
    rows = obj.app.database.run(fleet.workers())
    online = sorted(
        {hostname for hostname, *_, is_alive, _is_stopping, _claimed, _version in rows if is_alive}
    )
    nodes = [name for name in online if destination is None or name in destination]
    if not nodes:
        raise CeleryCommandException("No nodes replied within time constraint", EX_UNAVAILABLE)
    if json:
        obj.echo(dumps({name: {"ok": "pong"} for name in nodes}))
        return
    for name in nodes:
        obj.say_chat("->", f"{obj.style(f'{name}: ', fg='cyan', bold=True)}{obj.OK}")
    if not obj.quiet:
        obj.echo(f"\n{len(nodes)} {pluralize(len(nodes), 'node')} online.")
