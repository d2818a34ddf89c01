"""What is wrong with an installation: facts of `store/doctor.sql`, judged.

Each judge takes facts and gives findings: what was found with its value, why that matters, what to do. `broken` loses work or
stops it, `risky` will one day, `note` is good to know. A healthy installation has none but notes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import psycopg

from pgtasks.exceptions import SchemaError
from pgtasks.store import doctor, migrate
from pgtasks.store.database import OwnConnection, connect
from pgtasks.store.sql import Query

__all__ = ("Finding", "examine", "status_of")

Gravity = Literal["broken", "risky", "note"]
_GRAVITIES: tuple[Gravity, ...] = ("broken", "risky", "note")

OLDEST_SERVER = 140000
LONG_S = 600.0
MANY_TRANSACTIONS = 10_000_000
#: Of the two billion after which a database stops taking writes.
WRAPAROUND_AGE = 1_200_000_000
SKEW_S = 2.0
#: Dead rows beyond which a table is slow, when they are more than what lives.
DEAD_ROWS = 50_000


class Finding(NamedTuple):
    """One thing that is wrong."""

    gravity: Gravity
    name: str
    found: str
    why: str
    advice: str


Findings = Iterator[Finding]


def examine(url: str, known_tasks: frozenset[str] = frozenset()) -> list[Finding]:
    """Look at an installation; gives what is wrong, the worst first. Raises what psycopg raises when it does not answer.

    `known_tasks` are the names that the app has; without them no name is called unknown.
    """
    with connect(url) as conn:
        found = [*_connection(conn), *_server(conn), *_defaults(conn)]
        with suppress(psycopg.errors.InsufficientPrivilege):
            found += _horizons(conn)
        problem = _schema(conn)
        if problem is None:
            for look in (_rights, _tables, _work, _fleet):
                found += _if_allowed(look, conn)
            found += _names(conn, known_tasks)
        else:
            found.append(problem)
    return sorted(found, key=lambda finding: _GRAVITIES.index(finding.gravity))


def status_of(findings: list[Finding]) -> int:
    """The exit status: 2 when something is broken, 1 when something is risky, else 0."""
    gravities = {finding.gravity for finding in findings}
    return 2 if "broken" in gravities else 1 if "risky" in gravities else 0


def _if_allowed(look: Callable[[OwnConnection], Findings], conn: OwnConnection) -> list[Finding]:
    try:
        return list(look(conn))
    except psycopg.errors.InsufficientPrivilege as error:
        reason = str(error.diag.message_primary)
        return [Finding("note", "not looked at", reason, "This role may not read it.", "Ask as the schema's owner.")]


def _ask(conn: OwnConnection, query: Query[Any]) -> Any:
    return conn.run(query)


# -- the connection


def _connection(conn: OwnConnection) -> Findings:
    if conn.is_pooled:
        yield Finding(
            "note", "pooler", "a pooler in transaction mode stands between, so LISTEN does not work",
            "Workers and waiting programs look by themselves: a task may begin up to a second later.",
            "For quick wake-ups give pgtasks a URL that leads to Postgres directly.",
        )  # fmt: skip
        return
    began_at = time.time()
    (server_s,) = conn.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone() or (began_at,)
    ended_at = time.time()
    skew = server_s - (began_at + ended_at) / 2
    if abs(skew) > SKEW_S + (ended_at - began_at):
        yield Finding(
            "risky", "clock skew", f"the server's clock is {skew:+.1f} s from this machine's",
            "An ETA that a caller computes is off by as much; countdowns and leases use the server's clock.",
            "Synchronise the clocks of both machines (NTP).",
        )  # fmt: skip


# -- the server


def _server(conn: OwnConnection) -> Findings:
    facts: Mapping[str, str] = _ask(conn, doctor.server())
    version = int(facts["server_version_num"])
    if version < OLDEST_SERVER:
        yield Finding(
            "broken", "server version", f"Postgres {version // 10000}",
            "pgtasks is written for Postgres 14 and newer.", "Upgrade the server.",
        )  # fmt: skip
    yield from _durability(facts)
    yield from _capacity(facts)
    if facts["autovacuum"] != "on" or facts["track_counts"] != "on":
        yield Finding(
            "risky", "autovacuum", f"autovacuum = {facts['autovacuum']}, track_counts = {facts['track_counts']}",
            "Queues are rows that come and go; unless dead ones are removed, claims become slow and the disk fills.",
            "Set autovacuum = on and track_counts = on, and reload.",
        )  # fmt: skip
    if facts["tls"] == "false" and facts["is_local"] == "false":
        yield Finding(
            "risky", "no TLS", "the connection crosses a network unencrypted",
            "Arguments and results of tasks can be read on the way.", "Add sslmode=verify-full to the URL.",
        )  # fmt: skip
    if int(facts["database_age"]) > WRAPAROUND_AGE:
        yield Finding(
            "broken", "wraparound", f"the database is {int(facts['database_age']):,} transactions old",
            "At about two billion Postgres takes no writes.",
            "Find who holds vacuum back, below, end that, and run VACUUM (FREEZE).",
        )  # fmt: skip
    if facts["is_superuser"] == "true":
        yield Finding(
            "note", "superuser", "this role is a superuser",
            "Whoever gets hold of its password has the whole server.",
            "Let workers and producers connect as a role with what `pgtasks db sql --grant` prints.",
        )  # fmt: skip


def _durability(facts: Mapping[str, str]) -> Findings:
    for name in ("fsync", "full_page_writes"):
        if facts[name] != "on":
            yield Finding(
                "broken", name, f"{name} = {facts[name]}",
                "After a crash of the machine the database may be corrupt, and tasks gone.",
                f"Set {name} = on, and reload.",
            )  # fmt: skip
    if facts["is_standby"] == "true":
        yield Finding(
            "broken", "standby", "this server is a standby, and takes no writes", "No task can be sent or run here.",
            "Name all hosts in the URL, and target_session_attrs=read-write.",
        )  # fmt: skip
    commit = facts["synchronous_commit"]
    if commit == "off":
        yield Finding(
            "risky", "synchronous_commit", "synchronous_commit = off",
            "Tasks that .delay() has acknowledged in the last moments are lost when the server crashes.",
            "Set synchronous_commit = on.",
        )  # fmt: skip
    elif facts["synchronous_standby_names"] and facts["standbys_sync"] == "0":
        yield Finding(
            "broken", "no synchronous standby", f"synchronous_standby_names = {facts['synchronous_standby_names']!r},"
            " and none of them is there", "Commits wait until one is.", "Bring a standby back.",
        )  # fmt: skip
    elif int(facts["standbys"]) and not facts["synchronous_standby_names"]:
        yield Finding(
            "note", "asynchronous replication", f"{facts['standbys']} standbys, none of them synchronous",
            "A failover loses the last moments: acknowledged tasks may be gone, ended ones may run again.",
            "Set synchronous_standby_names, if your tasks are worth it.",
        )  # fmt: skip


def _capacity(facts: Mapping[str, str]) -> Findings:
    usable = int(facts["max_connections"]) - int(facts["superuser_reserved_connections"])
    used = int(facts["connections"])
    if used > 0.8 * usable:
        yield Finding(
            "risky", "connections", f"{used} of {usable} connections are in use",
            "The next worker or program that starts may be refused.",
            "Raise max_connections, or put PgBouncer in between.",
        )  # fmt: skip
    usage = float(facts["notification_queue"])
    if usage > 0.1:
        yield Finding(
            "risky", "notification queue", f"{usage:.0%} of the notification queue is in use",
            "A session that listens is in a transaction and does not read; from half on nobody is woken any more.",
            "Find it in pg_stat_activity: state 'idle in transaction', with LISTEN among its statements.",
        )  # fmt: skip


_TIMEOUTS = {
    "statement_timeout": "Statements of pgtasks that take longer are cancelled and sent again, for ever.",
    "transaction_timeout": "A transactional task that takes longer is rolled back and runs again.",
    "idle_session_timeout": "Connections that listen, or wait for the next task, are cut again and again.",
}


def _defaults(conn: OwnConnection) -> Findings:
    for name, value, whose in _ask(conn, doctor.defaults()):
        if name in _TIMEOUTS and value not in ("0", "0ms"):
            yield Finding(
                "risky", name, f"{name} = {value}, set for {whose}", _TIMEOUTS[name],
                f"ALTER ROLE of pgtasks SET {name} = 0.",
            )  # fmt: skip
        elif name == "default_transaction_isolation" and value != "read committed":
            yield Finding(
                "risky", name, f"{name} = {value!r}, set for {whose}",
                "Behind a pooler pgtasks refuses to work with it; your own transactions with conn= may fail.",
                f"ALTER ROLE of pgtasks SET {name} = 'read committed'.",
            )  # fmt: skip
        elif name == "synchronous_commit" and value == "off":
            yield Finding(
                "risky", name, f"{name} = off, set for {whose}", "Acknowledged tasks are lost when the server crashes.",
                f"ALTER ROLE of pgtasks RESET {name}.",
            )  # fmt: skip


def _horizons(conn: OwnConnection) -> Findings:
    advice = {
        "session": "End it with pg_terminate_backend, and give that role an idle_in_transaction_session_timeout.",
        "prepared": "COMMIT PREPARED or ROLLBACK PREPARED it.",
        "slot": "Bring its consumer back, or drop it with pg_drop_replication_slot.",
        "standby": "Look at its queries; hot_standby_feedback passes their age on.",
    }
    for each in _ask(conn, doctor.horizons()):
        if (each.seconds or 0) > LONG_S or (each.transactions or 0) > MANY_TRANSACTIONS or "inactive" in each.who:
            since = f"for {each.seconds:.0f} s" if each.seconds is not None else f"over {each.transactions} transactions"
            yield Finding(
                "risky", f"old {each.kind}", f"{each.who} holds an old state {since}",
                "Dead rows cannot be removed meanwhile: tables grow, and claims become slow.", advice[each.kind],
            )  # fmt: skip


# -- the schema and what is in it


def _schema(conn: OwnConnection) -> Finding | None:
    try:
        migrate.check(conn)
    except SchemaError as error:
        why = "This release cannot work with it."
        return Finding("broken", "schema", str(error), why, "Run `pgtasks db upgrade`, as its owner.")
    return None


def _rights(conn: OwnConnection) -> Findings:
    rights = _ask(conn, doctor.rights())
    if rights["lacks"]:
        yield Finding(
            "risky", "rights", f"the role {conn.info.user!r} lacks {_short(rights['lacks'])}",
            "As a worker or a producer it will be refused; for one that only looks this is right.",
            f"`pgtasks db sql --grant {conn.info.user}` prints what it needs.",
        )  # fmt: skip
    if rights["everybody"]:
        yield Finding(
            "risky", "rights of everybody", f"everybody may write to {_short(rights['everybody'])}",
            "Who can write a task can have any registered code run with any arguments.",
            "REVOKE ALL ON ALL TABLES IN SCHEMA pgtasks FROM PUBLIC.",
        )  # fmt: skip


def _tables(conn: OwnConnection) -> Findings:
    for table in _ask(conn, doctor.tables()):
        if table.is_unvacuumed:
            yield Finding(
                "risky", "autovacuum of a table", f"autovacuum is switched off for pgtasks.{table.name}",
                "Its dead rows stay, and claims become slow.", f"ALTER TABLE pgtasks.{table.name} RESET (autovacuum_enabled).",
            )  # fmt: skip
        if table.dead > DEAD_ROWS and table.dead > table.live:
            yield Finding(
                "risky", "dead rows", f"pgtasks.{table.name} has {table.dead:,} dead rows beside {table.live:,}"
                f" ({table.size // 1024**2} MB)", "Claims read past them.",
                "Look for what holds vacuum back, above; then VACUUM it.",
            )  # fmt: skip
    for name in _ask(conn, doctor.invalid_indexes()):
        yield Finding(
            "risky", "invalid index", f"pgtasks.{name} was left behind by a build that failed",
            "Each write pays for it, and no read uses it.", f"REINDEX INDEX CONCURRENTLY pgtasks.{name}.",
        )  # fmt: skip


def _work(conn: OwnConnection) -> Findings:
    for why, queue, count, seconds in _ask(conn, doctor.stuck()):
        if (seconds or 0) > 60:
            yield Finding(
                "risky", "stuck", f"{count} tasks of queue {queue!r}: {why}, since {seconds:.0f} s",
                "Nobody works on them.", f"Start a worker with -Q {queue}, or look at those that run.",
            )  # fmt: skip
    for what, count, example in _ask(conn, doctor.orphans()):
        if count:
            yield Finding(
                "broken", "orphans", f"{_many(count)} tasks, {example} among them: each {what}",
                "No transition of pgtasks leaves this behind: rows were removed by hand, or a restore was partial.",
                f"Look at {example} in the view pgtasks.tasks, and revoke it or send it again.",
            )  # fmt: skip
    ((count, example),) = _ask(conn, doctor.sleepers())
    if count:
        yield Finding(
            "broken", "sleepers", f"{_many(count)} suspended runs, {example} among them, wait for nothing",
            "Nothing will ever wake them.", f"`pgtasks workflow show {example}`, then redrive it.",
        )  # fmt: skip
    for name, seconds in _ask(conn, doctor.late()):
        yield Finding(
            "risky", "late schedule", f"{name} should have run {seconds:.0f} s ago", "No scheduler runs.",
            "Start `pgtasks beat`, or a worker with -B.",
        )  # fmt: skip


def _fleet(conn: OwnConnection) -> Findings:
    fleet = _ask(conn, doctor.fleet())
    if ", " in fleet.versions:
        yield Finding(
            "note", "versions", f"workers run {fleet.versions}", "That is meant for the time of an upgrade only.",
            "Restart those that are behind.",
        )  # fmt: skip
    facts = _ask(conn, doctor.server())
    usable = int(facts["max_connections"]) - int(facts["superuser_reserved_connections"])
    most = 2 * fleet.alive + fleet.slots
    if most > usable:
        yield Finding(
            "risky", "max_connections", f"{fleet.alive} workers with {fleet.slots} slots may need {most} connections, and"
            f" {usable} can be had", "Tasks that call tasks or ask for results will be refused when all are busy.",
            "Raise max_connections, lower the concurrency, or put PgBouncer in between.",
        )  # fmt: skip


def _names(conn: OwnConnection, known: frozenset[str]) -> Findings:
    if not known:
        return
    with suppress(psycopg.errors.InsufficientPrivilege):
        for name, count in _ask(conn, doctor.names()).items():
            if name not in known:
                yield Finding(
                    "risky", "unknown task", f"{_many(count)} tasks {name!r} wait, and this app has no such task",
                    "A worker of this app fails them with NotRegistered.",
                    "Is its module in imports= or autodiscovered? Tasks of other apps want queues of their own.",
                )  # fmt: skip


def _many(count: int) -> str:
    return f"{count} or more" if count >= doctor.LIMIT else str(count)


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:160]}..."
