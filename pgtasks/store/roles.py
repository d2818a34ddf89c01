"""Who may do what: the rights of database roles, as statements for an administrator to run.

    producer   sends tasks, reads results       a web application
    worker     runs tasks, and all else         workers, beat, the commands that look after tasks
    observer   reads the views                  dashboards, people on call

They are plain grants: no function runs with the rights of another one, and no row is hidden, so a producer that may read
results may read all of them. What a role had in the schema before is taken from it first. A migration that adds tables is
followed by the same statements once more, but for workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg import sql

__all__ = ("KINDS", "statements")

_VIEWS = (
    *("tasks", "queues", "workers", "schedules", "runs", "steps", "signals", "divergences", "edges"),
    *("flows", "held_tasks", "stuck", "failures", "suspended"),
)

#: What each kind may do: a right, and on what.
KINDS: Mapping[str, Sequence[tuple[str, str]]] = {
    "producer": (
        # Programs look first whether the schema fits them.
        ("SELECT", "migration"),
        # A call: `RETURNING` and `ON CONFLICT` read what they insert.
        ("SELECT, INSERT", "message, waiting, edge, ready, scheduled"),
        # A call under limits is held; that a producer may not take it from there leaves it to the workers to let it in.
        ("SELECT, INSERT", "held, knock"),
        ("USAGE", "ready_seq"),
        ("SELECT", "flow, idle, claim"),
        ("SELECT, INSERT, UPDATE, DELETE", "unique_key"),
        # The event task-sent.
        ("SELECT", "listener"),
        ("INSERT", "event"),
        # Results.
        ("SELECT", "result, progress"),
        ("SELECT, INSERT, DELETE", "waiter"),
        ("SELECT, INSERT, UPDATE", "saved_group"),
    ),
    "worker": (
        ("SELECT, INSERT, UPDATE, DELETE", "ALL TABLES"),
        ("USAGE, SELECT", "ALL SEQUENCES"),
    ),
    "observer": (
        ("SELECT", ", ".join(_VIEWS)),
        ("SELECT", "migration"),
        # What `pgtasks top` shows of what runs and has ended: no arguments, no results.
        ("SELECT (id, name, task_id)", "message"),
        ("SELECT (id, worker, claimed_at)", "claim"),
        ("SELECT (id, state, done_at, claimed_at)", "result"),
        ("SELECT (id, hostname, heartbeat_at, lease)", "worker"),
        ("SELECT (due)", "scheduled"),
    ),
}


def statements(kind: str, role: str) -> str:
    """The statements that make `role`, which exists, a producer, a worker or an observer, and nothing more."""
    name = sql.Identifier(role).as_string(None)
    lines = [f"REVOKE ALL ON ALL {what} IN SCHEMA pgtasks FROM {name};" for what in ("TABLES", "SEQUENCES")]
    lines.append(f"GRANT USAGE ON SCHEMA pgtasks TO {name};")
    lines.extend(_granting(rights, places, name) for rights, places in KINDS[kind])
    if kind == "worker":
        lines.append(f"REVOKE INSERT, UPDATE, DELETE ON pgtasks.migration FROM {name};")
        lines.extend(
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA pgtasks GRANT {rights} ON {places.removeprefix('ALL ')} TO {name};"
            for rights, places in KINDS[kind]
        )
    lines.append(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgtasks TO {name};")
    return "\n".join(lines) + "\n"


def _granting(rights: str, places: str, name: str) -> str:
    if places.startswith("ALL "):
        return f"GRANT {rights} ON {places} IN SCHEMA pgtasks TO {name};"
    kind = "SEQUENCE " if rights == "USAGE" else ""
    return f"GRANT {rights} ON {kind}{', '.join(f'pgtasks.{place}' for place in places.split(', '))} TO {name};"
