"""`pgtasks purge`: delete all waiting tasks of queues."""

from __future__ import annotations

import json

import click

from pgtasks.app import control
from pgtasks.bin.options import COMMA_SEPARATED_LIST, CeleryCommand, CLIContext, json_option, option
from pgtasks.utils.text import pluralize


@click.command(cls=CeleryCommand)
@option("-f", "--force", is_flag=True, heading="Purging Options", help="Do not ask for confirmation.")
@option(
    "-Q", "--queues", type=COMMA_SEPARATED_LIST, heading="Purging Options",
    help="Queues to purge, separated by commas. Default: all that the app declares.",
)  # fmt: skip
@option(
    "-X", "--exclude-queues", type=COMMA_SEPARATED_LIST, heading="Purging Options",
    help="Queues to leave alone, separated by commas.",
)  # fmt: skip
@json_option
@click.pass_obj
def purge(
    obj: CLIContext, /, force: bool, queues: list[str] | None, exclude_queues: list[str] | None, as_json: bool
) -> None:
    """Delete all waiting tasks of queues.

    This cannot be undone. Tasks that a worker has already claimed still run; all others end as REVOKED.
    """
    names = sorted({*(queues or obj.app.amqp.queues)} - {*(exclude_queues or ())})
    if not names:
        return
    headline = pluralize(len(names), "queue")
    if not force:
        click.confirm(
            f"{obj.style('WARNING', fg='red')}: This will remove all tasks from {headline}: "
            f"{', '.join(names)}.\n         There is no undo for this operation!\n\n(to skip this prompt "
            "use the -f option)\nAre you sure you want to delete all tasks?",
            abort=True,
        )
    count = control.purge(obj.app, names)
    if as_json:
        obj.echo(json.dumps({"purged": count, "queues": names}))
    elif count:
        messages = pluralize(count, "message")
        obj.echo(f"Purged {count} {messages} from {len(names)} known task {headline}.")
    else:
        obj.echo(f"No messages purged from {len(names)} {headline}.")
