"""The schema and the work in it: does it fit, does it move, is anything there that cannot be?"""

from __future__ import annotations

from psycopg.errors import InsufficientPrivilege

from pgtasks.diagnosis.finding import Finding, Findings, ask, many, megabytes, short
from pgtasks.exceptions import SchemaError, SchemaTooOld
from pgtasks.store import doctor, migrate
from pgtasks.store.database import OwnConnection

__all__ = ("fleet", "leftovers", "names", "rights", "schema", "stuck", "tables", "workers")

#: Work that has not moved for so long is stuck.
STUCK_S = 60
#: Dead rows beyond which a table is slow, when they are more than what lives.
DEAD_ROWS = 50_000


def schema(conn: OwnConnection) -> Finding | None:
    """Why this release cannot work here, if it cannot."""
    try:
        migrate.check(conn)
    except SchemaError as error:
        if isinstance(error.__cause__, InsufficientPrivilege):
            reason = str(error.__cause__.diag.message_primary)
            advice = f"`pgtasks db sql --grant {conn.info.user}` prints what it needs, for an administrator to run."
            return Finding("broken", "rights", f"the role {conn.info.user!r} is refused: {reason}",
                           "It can neither send tasks nor run them.", advice)  # fmt: skip
        advice = "Run `pgtasks db upgrade`, as its owner." if isinstance(error, SchemaTooOld) else "As it says there."
        return Finding("broken", "schema", str(error), "This release cannot work with it.", advice)
    return None


# -- work that does not move


def workers(standing: doctor.Standing) -> Findings:
    """Is there anybody to work?"""
    if not standing.alive and (standing.oldest_s or 0) > STUCK_S:
        yield Finding(
            "broken", "no worker", f"{many(standing.ready, doctor.LIMIT)} tasks are ready, one of them for"
            f" {standing.oldest_s:.0f} s, and no worker is alive", "Nothing is done.",
            "Start workers. If they seem to run, their logs say why they are not seen here.",
        )  # fmt: skip


def stuck(conn: OwnConnection, *, has_workers: bool) -> Findings:
    """Tasks and schedules that nobody moves."""
    for why, queue, count, seconds in ask(conn, doctor.stuck()):
        # Where there is no worker at all that was said.
        if (seconds or 0) > STUCK_S and (has_workers or not why.startswith("no live worker")):
            yield Finding(
                "risky", "stuck", f"{many(count, doctor.LIMIT)} tasks of queue {queue!r}: {why}, since {seconds:.0f} s",
                "Nobody works on them.", f"Start a worker with -Q {queue}, or look at those that run.",
            )  # fmt: skip
    for name, seconds in ask(conn, doctor.late()):
        yield Finding(
            "risky", "late schedule", f"{name} should have run {seconds:.0f} s ago", "No scheduler runs.",
            "Start `pgtasks beat`, or a worker with -B.",
        )  # fmt: skip


def leftovers(conn: OwnConnection) -> Findings:
    """What no transition can leave behind."""
    for what, count, example in ask(conn, doctor.orphans()):
        if count:
            yield Finding(
                "broken", "orphans", f"{many(count, doctor.LIMIT)} tasks, {example} among them: each {what}",
                "No transition of pgtasks leaves this behind: rows were removed by hand, or a restore was partial.",
                f"Look at {example} in the view pgtasks.tasks, and revoke it or send it again.",
            )  # fmt: skip
    ((count, example),) = ask(conn, doctor.sleepers())
    if count:
        yield Finding(
            "broken", "sleepers",
            f"{many(count, doctor.LIMIT)} suspended runs, {example} among them, wait for nothing",
            "Nothing will ever wake them.", f"`pgtasks workflow show {example}`, then redrive it.",
        )  # fmt: skip


def names(conn: OwnConnection, known: frozenset[str]) -> Findings:
    """Tasks that the app would not know."""
    if not known:
        return
    for name, count in ask(conn, doctor.names()).items():
        if name not in known:
            yield Finding(
                "risky", "unknown task", f"{many(count, doctor.LIMIT)} tasks {name!r} wait, and this app has no such task",
                "A worker of this app fails them with NotRegistered.",
                "Is its module in imports= or autodiscovered? Give the tasks of other apps their own queues.",
            )  # fmt: skip


def fleet(conn: OwnConnection) -> Findings:
    """Do the workers go together, and is there room for all their connections?"""
    found = ask(conn, doctor.fleet())
    if ", " in found.versions:
        yield Finding(
            "note", "versions", f"workers run {found.versions}", "That is meant for the time of an upgrade only.",
            "Restart those that are behind.",
        )  # fmt: skip
    most = 2 * found.alive + found.slots
    if most > found.usable_connections:
        yield Finding(
            "risky", "max_connections", f"{found.alive} workers with {found.slots} slots may need {most} connections,"
            f" and {found.usable_connections} can be had",
            "Tasks that call tasks or ask for results will be refused when all are busy.",
            "Raise max_connections, lower the concurrency, or put PgBouncer in between.",
        )  # fmt: skip


# -- the tables


def rights(conn: OwnConnection) -> Findings:
    """What this role lacks, and what everybody has."""
    found = ask(conn, doctor.rights())
    if found["lacks"]:
        yield Finding(
            "risky", "rights", f"the role {conn.info.user!r} lacks {short(found['lacks'])}",
            "As a worker or a producer it will be refused; for one that only looks this is right.",
            f"`pgtasks db sql --grant {conn.info.user}` prints what it needs.",
        )  # fmt: skip
    if found["everybody"]:
        yield Finding(
            "risky", "rights of everybody", f"everybody may write to {short(found['everybody'])}",
            "Who can write a task can have any registered code run with any arguments.",
            "REVOKE ALL ON ALL TABLES IN SCHEMA pgtasks FROM PUBLIC.",
        )  # fmt: skip


def tables(conn: OwnConnection) -> Findings:
    """Are they kept, are they cleaned, are their indexes used?"""
    for table in ask(conn, doctor.tables()):
        if table.is_unlogged and table.name not in doctor.MAY_BE_LOST:
            yield Finding(
                "broken", "unlogged table", f"pgtasks.{table.name} is unlogged",
                "A crash of the server empties it, and a standby has nothing of it.",
                f"ALTER TABLE pgtasks.{table.name} SET LOGGED.",
            )  # fmt: skip
        if table.is_unvacuumed:
            yield Finding(
                "risky", "autovacuum of a table", f"autovacuum is switched off for pgtasks.{table.name}",
                "Its dead rows stay, and claims become slow.",
                f"ALTER TABLE pgtasks.{table.name} RESET (autovacuum_enabled).",
            )  # fmt: skip
        if table.dead > DEAD_ROWS and table.dead > table.live:
            yield Finding(
                "risky", "dead rows", f"pgtasks.{table.name} has {table.dead:,} dead rows beside {table.live:,}"
                f" ({megabytes(table.size)})", "Claims read past them.",
                "End whatever holds an old state, if anything is named here; then VACUUM it.",
            )  # fmt: skip
    for name in ask(conn, doctor.invalid_indexes()):
        yield Finding(
            "risky", "invalid index", f"pgtasks.{name} was left behind by a build that failed",
            "Each write pays for it, and no read uses it.", f"REINDEX INDEX CONCURRENTLY pgtasks.{name}.",
        )  # fmt: skip
