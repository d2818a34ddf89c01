"""`pgtasks report`: print what a bug report should include."""

from __future__ import annotations

import click

from pgtasks.bin.options import CeleryCommand, CLIContext


@click.command(cls=CeleryCommand)
@click.pass_obj
def report(obj: CLIContext, /) -> None:
    """Print what a bug report should include; passwords are masked."""
    obj.app.loader.import_default_modules()
    obj.echo(obj.app.bugreport())
