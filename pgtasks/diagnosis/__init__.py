"""What is wrong with an installation: facts of `store/doctor.sql`, judged.

Each judge takes facts and gives findings. `server` judges the server and the way to it, `housekeeping` what keeps it from
cleaning up and fills its disk, `work` the schema and what is in it. A healthy installation has none but notes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import psycopg

from pgtasks.diagnosis import housekeeping, server, work
from pgtasks.diagnosis.finding import GRAVITIES, Finding, Findings, ask
from pgtasks.store import doctor
from pgtasks.store.database import OwnConnection, connect

__all__ = ("Diagnosis", "Finding", "examine", "status_of")


class Diagnosis(NamedTuple):
    """What was seen, and what is wrong with it, the worst first."""

    #: The server's version, as it says it.
    server: str
    #: Workers and tasks; None where the schema cannot be used.
    standing: doctor.Standing | None
    findings: list[Finding]


def examine(url: str, known_tasks: frozenset[str] = frozenset()) -> Diagnosis:
    """Look at an installation. Raises what psycopg raises when it does not answer.

    `known_tasks` are the names that the app has; without them no name is called unknown.
    """
    with connect(url) as conn:
        facts: Mapping[str, str] = ask(conn, doctor.server())
        problem = work.schema(conn)
        standing = None
        # Of findings of the same gravity those come first that an earlier look has found.
        found = [*server.durability(facts)]
        if problem is None:
            standing = _if_allowed(lambda: ask(conn, doctor.standing()), found)
            found += _all_of_the_work(conn, standing, known_tasks)
        else:
            found.append(problem)
        for look in (housekeeping.disk, server.defaults, housekeeping.horizons, housekeeping.wal):
            found += _findings(look, conn)
        found += [*server.capacity(facts), *server.settings(conn, facts), *server.connection(conn)]
    found.sort(key=lambda finding: GRAVITIES.index(finding.gravity))
    return Diagnosis(facts["server_version"], standing, found)


def status_of(findings: list[Finding]) -> int:
    """The exit status: 2 when something is broken, 1 when something is risky, else 0."""
    gravities = {finding.gravity for finding in findings}
    return 2 if "broken" in gravities else 1 if "risky" in gravities else 0


def _all_of_the_work(
    conn: OwnConnection, standing: doctor.Standing | None, known_tasks: frozenset[str]
) -> list[Finding]:
    found = []
    if standing is not None:
        found += [*work.workers(standing)]
    found += _findings(lambda conn: work.stuck(conn, has_workers=standing is None or standing.alive > 0), conn)
    for look in (work.leftovers, work.rights, work.tables, work.fleet):
        found += _findings(look, conn)
    return found + _findings(lambda conn: work.names(conn, known_tasks), conn)


def _findings(look: Callable[[OwnConnection], Findings], conn: OwnConnection) -> list[Finding]:
    found: list[Finding] = []
    return _if_allowed(lambda: list(look(conn)), found) or found


def _if_allowed(look: Callable[[], Any], found: list[Finding]) -> Any:
    """What a look gives; None, and a note among the findings, when the role may not look there."""
    try:
        return look()
    except psycopg.errors.InsufficientPrivilege as error:
        reason = str(error.diag.message_primary)
        advice = "Ask as the schema's owner, or as a member of pg_monitor."
        found.append(Finding("note", "not looked at", reason, "This role may not read it.", advice))
        return None
