"""The server and the way to it: does it keep what it has promised, is there room, do its settings get in the way?"""

from __future__ import annotations

import time
from collections.abc import Mapping

from pgtasks.diagnosis.finding import Finding, Findings, ask
from pgtasks.store import doctor
from pgtasks.store.database import OwnConnection
from pgtasks.store.migrate import OLDEST_SERVER

__all__ = ("capacity", "connection", "defaults", "durability", "settings")

#: Of the two billion after which a database stops taking writes.
WRAPAROUND_AGE = 1_200_000_000
SKEW_S = 2.0


def durability(facts: Mapping[str, str]) -> Findings:
    """Does the server take writes, and is what it has acknowledged still there after a crash?"""
    if facts["is_standby"] == "true":
        yield Finding(
            "broken", "standby", "this server is a standby, and takes no writes", "No task can be sent or run here.",
            "Name all hosts in the URL, and target_session_attrs=read-write.",
        )  # fmt: skip
    for name in ("fsync", "full_page_writes"):
        if facts[name] != "on":
            yield Finding(
                "broken", name, f"{name} = {facts[name]}",
                "After a crash of the machine the database may be corrupt, and tasks gone.",
                f"Set {name} = on, and reload.",
            )  # fmt: skip
    yield from _replication(facts)


def _replication(facts: Mapping[str, str]) -> Findings:
    """Does a commit wait for the disk, and for a standby?"""
    commit, names = facts["synchronous_commit"], facts["synchronous_standby_names"]
    if commit == "off":
        yield Finding(
            "risky", "synchronous_commit", "synchronous_commit = off",
            "Tasks that .delay() has acknowledged in the last moments are lost when the server crashes.",
            "Set synchronous_commit = on: for the server, the database and this role.",
        )  # fmt: skip
    elif names and commit != "local" and facts["standbys_sync"] == "0" and facts["is_standby"] != "true":
        yield Finding(
            "broken", "no synchronous standby", f"synchronous_standby_names = {names!r}, and none of them is there",
            "Commits wait until one is: nothing is sent and nothing ends.",
            "Bring a standby back, or name others and reload.",
        )  # fmt: skip
    if int(facts["standbys"]) and (not names or commit in ("off", "local")):
        yield Finding(
            "note", "asynchronous replication",
            f"{facts['standbys']} standbys, and no commit waits for one:"
            f" synchronous_standby_names = {names!r}, synchronous_commit = {commit}",
            "A failover loses the last moments: acknowledged tasks may be gone, ended ones may run again.",
            "Set synchronous_standby_names, and synchronous_commit = on, if your tasks are worth it.",
        )  # fmt: skip


def capacity(facts: Mapping[str, str]) -> Findings:
    """Is there room for one more connection, and for notifications?"""
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


def settings(conn: OwnConnection, facts: Mapping[str, str]) -> Findings:
    """Version, age, cleaning up, and who is asking."""
    version = int(facts["server_version_num"])
    if version < OLDEST_SERVER:
        yield Finding(
            "broken", "server version", f"Postgres {version // 10000}",
            "pgtasks is written for Postgres 14 and newer.", "Upgrade the server.",
        )  # fmt: skip
    if int(facts["database_age"]) > WRAPAROUND_AGE:
        yield Finding(
            "broken", "wraparound", f"the database is {int(facts['database_age']):,} transactions old",
            "At about two billion Postgres takes no writes.",
            "End whatever holds an old state, if anything is named here, and run VACUUM (FREEZE).",
        )  # fmt: skip
    if facts["autovacuum"] != "on" or facts["track_counts"] != "on":
        yield Finding(
            "risky", "autovacuum", f"autovacuum = {facts['autovacuum']}, track_counts = {facts['track_counts']}",
            "Queues are rows that come and go; unless dead ones are removed, claims become slow and the disk fills.",
            "Set autovacuum = on and track_counts = on, and reload.",
        )  # fmt: skip
    if conn.is_pooled and facts["jit"] == "on":
        yield Finding(
            "note", "jit", "jit = on, behind a pooler",
            "A plan that looks expensive is compiled, for tens of milliseconds; elsewhere pgtasks switches it off.",
            f"ALTER ROLE {conn.info.user} SET jit = off.",
        )  # fmt: skip
    if facts["is_superuser"] == "true" and not _is_private(facts):
        yield Finding(
            "note", "superuser", f"the role {conn.info.user!r} is a superuser",
            "Whoever gets hold of its password has the whole server.",
            "Let workers and producers connect as a role with what `pgtasks db sql --grant ROLE` prints.",
        )  # fmt: skip
    if facts["sees_all"] != "true":
        yield Finding(
            "note", "hidden sessions", f"the role {conn.info.user!r} does not see what others' sessions do",
            "Old transactions of other roles are not found here.",
            f"GRANT pg_monitor TO {conn.info.user}, or ask as another role.",
        )  # fmt: skip


def _is_private(facts: Mapping[str, str]) -> bool:
    """Does nobody reach it but programs of the account that it runs as? So it is with those that pgtasks starts itself."""
    return facts["listen_addresses"] == "" and facts["unix_socket_permissions"] == "0700"


def connection(conn: OwnConnection) -> Findings:
    """A pooler, a network, and two clocks."""
    if conn.is_pooled:
        yield Finding(
            "note", "pooler", "a pooler in transaction mode stands between, so LISTEN does not work",
            "Workers and waiting programs look by themselves: a task may begin up to a second later.",
            "For quick wake-ups give pgtasks a URL that leads to Postgres directly.",
        )  # fmt: skip
    facts = ask(conn, doctor.way())
    if not facts.is_encrypted and not facts.is_local:
        yield Finding(
            "risky", "no TLS", "the connection crosses a network unencrypted",
            "Arguments and results of tasks can be read on the way.", "Add sslmode=verify-full to the URL.",
        )  # fmt: skip
    began_at = time.time()
    server_s = ask(conn, doctor.way()).clock_s
    ended_at = time.time()
    skew = server_s - (began_at + ended_at) / 2
    if abs(skew) > SKEW_S + (ended_at - began_at):
        yield Finding(
            "risky", "clock skew", f"the server's clock is {skew:+.1f} s from this machine's",
            "An ETA that a caller computes is off by as much; countdowns and leases use the server's clock.",
            "Synchronise the clocks of both machines (NTP).",
        )  # fmt: skip


_TIMEOUTS = {
    "statement_timeout": "Statements of pgtasks that take longer are cancelled and sent again, for ever.",
    "transaction_timeout": "A transactional task that takes longer is rolled back and runs again.",
    "idle_session_timeout": "Connections that listen, or wait for the next task, are cut again and again.",
}


def defaults(conn: OwnConnection) -> Findings:
    """What sessions of this role begin with, and pgtasks' own suffer from."""
    for name, value, whose in ask(conn, doctor.defaults()):
        advice = f"ALTER ROLE {conn.info.user} SET {name} ="
        if name in _TIMEOUTS and value != "0":
            yield Finding(
                "risky", name, f"{name} = {int(value) / 1000:g} s, set for {whose}", _TIMEOUTS[name], f"{advice} 0."
            )
        elif name == "default_transaction_read_only" and value == "on":
            yield Finding(
                "broken", "read only", f"{name} = on, set for {whose}", "No task can be sent or run.", f"{advice} off."
            )
        elif name == "default_transaction_isolation" and value != "read committed":
            yield Finding(
                "risky", name, f"{name} = {value!r}, set for {whose}",
                "Behind a pooler pgtasks refuses to work with it; your own transactions with conn= may fail.",
                f"{advice} 'read committed'.",
            )  # fmt: skip
