"""`pgtasks doctor`: say what is wrong with an installation, and what to do."""

from __future__ import annotations

import json
import sys
from collections import Counter

import click
import psycopg

from pgtasks.bin.options import CeleryCommand, CLIContext, json_option
from pgtasks.diagnosis import Diagnosis, Finding, examine, status_of
from pgtasks.diagnosis.finding import GRAVITIES, many
from pgtasks.store import faults
from pgtasks.store.doctor import LIMIT
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
        diagnosis = examine(url, known)
    except psycopg.Error as error:
        raise faults.translate(error, url) from error
    if as_json:
        obj.echo(json.dumps(_facts(mask_url(url), diagnosis)))
    else:
        _tell(obj, mask_url(url), diagnosis)
    sys.exit(status_of(diagnosis.findings))


def _facts(database: str, diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "database": database,
        "server": diagnosis.server,
        "standing": diagnosis.standing and diagnosis.standing._asdict(),
        "findings": [finding._asdict() for finding in diagnosis.findings],
    }


def _tell(obj: CLIContext, database: str, diagnosis: Diagnosis) -> None:
    """How bad it is, then how it stands, then each finding with what to do."""
    findings = diagnosis.findings
    counts = Counter(each.gravity for each in findings)
    verdict = ", ".join(
        obj.style(f"{counts[gravity]} {gravity}", fg=_COLOURS[gravity]) for gravity in GRAVITIES if counts[gravity]
    )
    obj.echo(f"{verdict or obj.style('All is well', fg='green')}: {database}")
    obj.echo(f"Postgres {diagnosis.server}{_standing(diagnosis)}.")
    for each in findings:
        _tell_one(obj, each)


def _standing(diagnosis: Diagnosis) -> str:
    standing = diagnosis.standing
    if standing is None:
        return ""
    oldest = "" if standing.oldest_s is None else f" (one for {max(standing.oldest_s, 0):.0f} s)"
    return (
        f"; {_counted(standing.alive, 'worker')} with {_counted(standing.slots, 'slot')};"
        f" tasks: {many(standing.ready, LIMIT)} ready{oldest},"
        f" {many(standing.claimed, LIMIT)} with workers, {many(standing.scheduled, LIMIT)} scheduled"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _tell_one(obj: CLIContext, finding: Finding) -> None:
    obj.echo(f"\n{obj.style(finding.gravity, fg=_COLOURS[finding.gravity])}: {finding.name}: {finding.found}")
    obj.echo(f"    {finding.why}\n    -> {finding.advice}")
