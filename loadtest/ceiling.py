"""What the database could do: our own statements, run by pgbench, with no Python between them.

The statements are read from `pgtasks/store/tasks.sql`, and run as pgtasks runs them: prepared, with generic plans and
the session settings of its connections. Ids are made by the server. A client of the drain carries the ids that one
statement has claimed to the next, which settles them. To let pgbench have them, the rows of the answer are aggregated
by the server instead of sent one by one: a little less work than pgtasks asks for, so the ceiling is rather too high.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from pgtasks.store.sql import load
from pgtasks.store.tasks import Lane

#: Session settings of pgtasks' connections; see `pgtasks.store.database`.
_SESSION = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off"
_PARAMETER = re.compile(r"%\((\w+)\)[sbt]")
_STATEMENTS = load("tasks")

_WORKER_PREFIX = "00000000-0000-4000-8000-"

#: Where each client begins: an id of its own, the start of the queue.
_FIRST_CLAIM = """\\if :has_begun = 0
SELECT '{worker_prefix}' || lpad(:client_id::text, 12, '0') AS worker \\gset
\\set rank {first_rank}
\\set seq 0
\\set batch {batch}
\\set has_begun 1
\\endif
"""


class PgbenchFailed(Exception):
    """pgbench said that something went wrong, and what."""


@dataclass(frozen=True, slots=True)
class Call:
    """A task to enqueue: what pgtasks sent for one like it."""

    name: str
    queue: str
    payload: bytes
    options: bytes


@dataclass(frozen=True, slots=True)
class Pgbench:
    """Runs scripts by the pgbench program on one database."""

    program: Path
    url: str

    def run(self, script: str, clients: int, transactions: int) -> None:
        """Have each client run the script so many times; raises PgbenchFailed."""
        parts = urlsplit(self.url)
        host = parts.hostname or parse_qs(parts.query).get("host", [""])[0]
        environ = {**os.environ, "PGOPTIONS": _SESSION, "PGHOST": host, "PGUSER": parts.username or ""}
        if parts.password:
            environ["PGPASSWORD"] = parts.password
        if parts.port:
            environ["PGPORT"] = str(parts.port)
        with TemporaryDirectory() as directory:
            path = Path(directory, "script.sql")
            path.write_text(script)
            said = subprocess.run(
                [
                    *(str(self.program), "-n", "-M", "prepared", "-f", str(path), "-D", "has_begun=0"),
                    # Nothing to settle at first.
                    *("-D", "ids={}", "-D", "deliveries={}"),
                    *("-c", str(clients), "-j", str(min(clients, 2)), "-t", str(transactions), parts.path.lstrip("/")),
                ],
                capture_output=True,
                text=True,
                env=environ,
            )
        if said.returncode or "aborted" in said.stderr or "aborted" in said.stdout:
            raise PgbenchFailed(f"pgbench ended with status {said.returncode}:\n{said.stderr[-2000:]}")


def worker_of(client: int) -> UUID:
    """The id under which a client of `drain` claims; it must be registered."""
    return UUID(f"{_WORKER_PREFIX}{client:012}")


def enqueue_one(call: Call) -> str:
    """A script that enqueues one plain task, as `.delay()` does."""
    given = {
        **dict.fromkeys(("root", "parent", "expires", "expires_in", "task_id", "group_id"), "NULL"),
        **dict.fromkeys(("content_type", "content_encoding", "max_deliveries"), "NULL"),
        "id": "uuidv7()",
        "priority": "0",
        "name": _text(call.name),
        "queue": _text(call.queue),
        "options": _bytes(call.options),
        "payload": _bytes(call.payload),
    }
    return _filled("enqueue_one", given)


def enqueue_many(call: Call, count: int) -> str:
    """A script that enqueues many plain tasks in one statement, as a group does."""
    each = {
        **dict.fromkeys(("dues", "expires"), "NULL::timestamptz"),
        **dict.fromkeys(("countdowns", "expires_in"), "NULL::float8"),
        **dict.fromkeys(("roots", "parents"), "NULL::uuid"),
        **dict.fromkeys(("content_types", "content_encodings", "group_ids", "task_ids"), "NULL::text"),
        **dict.fromkeys(("inputs", "triggers"), "NULL::text"),
        "max_deliveries": "NULL::smallint",
        "names": f"{_text(call.name)}::text",
        "queues": f"{_text(call.queue)}::text",
        "priorities": "0::smallint",
        "payloads": f"{_bytes(call.payload)}",
        "options": f"{_bytes(call.options)}",
    }
    given = {name: f"array_fill({value}, ARRAY[{count}])" for name, value in each.items()}
    given["ids"] = f"ARRAY(SELECT uuidv7() FROM generate_series(1, {count}))"
    given |= dict.fromkeys(("succs", "preds", "positions"), "'{}'")
    return _filled("enqueue", given)


def drain(queue: str, batch: int, value: bytes = b"12345") -> str:
    """A script that settles what the last one claimed and claims the next batch, as a worker does."""
    given = {
        "worker": ":worker::uuid",
        "hostname": "'pgbench@ceiling'::text",
        "ids": ":ids",
        "deliveries": ":deliveries",
        "values": f"array_fill({_bytes(value)}, ARRAY[cardinality(:ids::uuid[])])",
        "hidden": "array_fill(false, ARRAY[cardinality(:ids::uuid[])])",
        "limit": ":batch::bigint",
        "max_deliveries": "5",
        "queues": f"ARRAY[{_text(queue)}]",
        "los": "ARRAY[:rank::int]",
        "seqs": "ARRAY[:seq::bigint]",
        "his": f"ARRAY[{Lane(queue).last_rank}]",
    }
    statement = _filled("claim", given).removesuffix(";\n")
    body, final = statement.rsplit("\nSELECT f.*", 1)
    return (
        _FIRST_CLAIM.format(worker_prefix=_WORKER_PREFIX, first_rank=Lane(queue).rank, batch=batch)
        + f"{body},\nanswer AS (\nSELECT f.*{final}\n)\n"
        + "SELECT coalesce(array_agg(id) FILTER (WHERE id IS NOT NULL), '{}') AS ids,\n"
        + "       coalesce(array_agg(delivery) FILTER (WHERE id IS NOT NULL), '{}') AS deliveries,\n"
        + "       coalesce(max(seq), :seq::bigint) AS seq, coalesce(max(rank), :rank::int) AS rank,\n"
        + "       sum(octet_length(payload)) AS bytes, max(told) AS told, max(ended) AS ended\nFROM answer \\gset\n"
    )


def _filled(name: str, given: Mapping[str, str]) -> str:
    """One of our statements with SQL in the place of its parameters."""
    lines = [line for line in _STATEMENTS[name].sql.splitlines() if not line.lstrip().startswith("--")]
    return _PARAMETER.sub(lambda found: f"({given[found[1]]})", "\n".join(lines)) + ";\n"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _bytes(value: bytes) -> str:
    return f"'\\x{value.hex()}'::bytea"
