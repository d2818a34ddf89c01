"""`pgtasks doctor`: say what is wrong with an installation, and what to do."""

from __future__ import annotations

import json
import sys

import click
import psycopg

from pgtasks.bin.options import CeleryCommand, CLIContext, json_option
from pgtasks.diagnosis import examine, status_of
from pgtasks.store import faults
from pgtasks.utils.text import mask_url

_COLOURS = {"broken": "red", "risky": "yellow", "note": "cyan"}


@click.command(cls=CeleryCommand)
@json_option
@click.pass_obj
def doctor(obj: CLIContext, /, as_json: bool) -> None:
    """Say what is wrong with the database and the work in it, the worst first, and what to do.

    It writes nothing. With -A it also knows which tasks there are. The exit status is 0 when all is well, 1 when something will
    go wrong one day, 2 when something is broken.
    """
    url = obj.app.database.url
    known = frozenset(obj.app.tasks) if obj.given_app is not None else frozenset()
    try:
        findings = examine(url, known)
    except psycopg.Error as error:
        raise faults.translate(error, url) from error
    if as_json:
        facts = {"database": mask_url(url), "findings": [finding._asdict() for finding in findings]}
        obj.echo(json.dumps(facts))
    else:
        for each in findings:
            obj.echo(f"{obj.style(each.gravity, fg=_COLOURS[each.gravity])}: {each.name}: {each.found}")
            obj.echo(f"    {each.why}\n    {each.advice}")
        obj.echo(f"{mask_url(url)}: {len(findings) or 'no'} finding{'s' if len(findings) != 1 else ''}.")
    sys.exit(status_of(findings))
