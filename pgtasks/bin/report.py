"""`pgtasks report`: print what is useful to know in a bug report."""

from __future__ import annotations

import click

from pgtasks.bin.options import CeleryCommand, CLIContext


@click.command(cls=CeleryCommand)
@click.pass_obj
def report(obj: CLIContext, /) -> None:
    """Print what is useful to know in a bug report; passwords are masked."""
    obj.app.loader.import_default_modules()
    obj.echo(obj.app.bugreport())
