"""What the database could do: our own statements, run by pgbench, with no Python between them.

The statements and their values are those of the verbs of `pgtasks.store.tasks`. They are run as pgtasks runs them:
prepared, with generic plans and the session settings of its connections. Ids are made by the server. A client of the
drain carries the ids that one statement has claimed to the next, which settles them: what a worker sends as two statements
in one round trip, pgbench, which cannot, sends as one. To let it have the ids, the rows of the answer are aggregated by
the server instead of sent one by one. Both is a little less work than pgtasks asks for, so the ceiling is rather too high.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from pgtasks.message import Message, new_ids
from pgtasks.store import tasks
from pgtasks.store.arrays import Array
from pgtasks.store.sql import Statement, load

#: Session settings of pgtasks' connections; see `pgtasks.store.database`.
_SESSION = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off"
_PARAMETER = re.compile(r"%\((\w+)\)[sb]")

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

#: Where each client begins: a run that it holds.
_FIRST_STEP = """\\if :has_begun = 0
SELECT '{prefix}' || lpad(:client_id::text, 12, '0') AS run \\gset
INSERT INTO pgtasks.claim (id, worker, claimed_at, retries, delivery)
VALUES ((:run)::uuid, (:run)::uuid, now(), 0, 1) ON CONFLICT (id) DO NOTHING;
\\set ordinal 0
\\set has_begun 1
\\endif
\\set ordinal :ordinal + 1
"""


#: For servers before 18, which do not make ids that begin with the time. Takes them about 3 us more than theirs takes 18.
UUIDV7 = """
CREATE FUNCTION uuidv7() RETURNS uuid LANGUAGE sql VOLATILE AS $$
  SELECT encode(overlay(uuid_send(gen_random_uuid()) PLACING
    substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6), 'hex')::uuid
$$
"""


class PgbenchFailed(Exception):
    """pgbench said that something went wrong, and what."""


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


def enqueue_one(message: Message) -> str:
    """A script that enqueues one plain task, as `.delay()` does."""
    query = tasks.enqueue([message])
    given = {name: _literal(value) for name, value in query.values.items()}
    return _filled(query.statement, {**given, "id": "uuidv7()"}) + ";\n"


def enqueue_many(message: Message, count: int) -> str:
    """A script that enqueues many plain tasks in one statement, as a group and `delay_many` do."""
    query = tasks.enqueue_many(message, new_ids(1), [message.payload])
    # The arrays are in the wire format, for which pgbench has no use.
    given = {name: _literal(value) for name, value in query.values.items() if not isinstance(value, Array)} | {
        "ids": f"ARRAY(SELECT uuidv7() FROM generate_series(1, {count}))",
        "payloads": f"array_fill({_literal(message.payload)}, ARRAY[{count}])",
        "each_options": f"array_fill({_literal(message.options)}, ARRAY[{count}])",
    }
    script = _filled(query.statement, given)
    # How many there are is known; pgbench would make the ids once more to count them.
    return script.replace(f"cardinality(({given['ids']})::uuid[])", str(count)) + ";\n"


def step() -> str:
    """A script that records one step of a workflow after the other, each client for a run of its own."""
    place = {"run": "(:run)::uuid", "worker": "(:run)::uuid", "delivery": "1", "ordinal": ":ordinal", "seq": ":ordinal"}
    said = {"name": "step", "kind": "step", "state": "SUCCESS", "attempts": 1, "took": 0.001, "value": b"12345"}
    statement = load("workflows")["remember"]
    given = {name: place.get(name) or _literal(said.get(name)) for name in statement.names}
    return _FIRST_STEP.format(prefix=_WORKER_PREFIX) + _filled(statement, given) + ";\n"


def drain(queue: str, batch: int, value: bytes = b"12345") -> str:
    """A script that settles what the last one claimed and claims the next batch, as a worker does."""
    finish = tasks.finish(worker_of(0), "pgbench@ceiling", [])
    claim = tasks.claim(worker_of(0), [tasks.Lane(queue)], batch, max_deliveries=5, may_lag=False)
    given = {name: _literal(each) for name, each in (finish.values | claim.values).items()} | {
        "worker": ":worker::uuid",
        "ids": ":ids",
        "deliveries": ":deliveries",
        "values": f"array_fill({_literal(value)}, ARRAY[cardinality(:ids::uuid[])])",
        "hidden": "array_fill(false, ARRAY[cardinality(:ids::uuid[])])",
        # Parameters, as they are for pgtasks: a plan for one number would not be the same.
        "limit": ":batch::bigint",
        "los": "ARRAY[:rank::int]",
        "seqs": "ARRAY[:seq::bigint]",
    }
    settling, _ = _filled(finish.statement, given).rsplit("\nSELECT ", 1)
    claiming, final = _filled(claim.statement, given).removeprefix("WITH ").rsplit("\nSELECT f.*", 1)
    return (
        _FIRST_CLAIM.format(worker_prefix=_WORKER_PREFIX, first_rank=tasks.Lane(queue).rank, batch=batch)
        + f"{settling},\n{claiming},\nanswer AS (\nSELECT f.*{final}\n)\n"
        + "SELECT coalesce(array_agg(id) FILTER (WHERE id IS NOT NULL), '{}') AS ids,\n"
        + "       coalesce(array_agg(delivery) FILTER (WHERE id IS NOT NULL), '{}') AS deliveries,\n"
        + "       coalesce(max(seq), :seq::bigint) AS seq, coalesce(max(rank), :rank::int) AS rank,\n"
        + "       sum(octet_length(payload)) AS bytes, (SELECT count(*) FROM told) AS told,\n"
        + "       (SELECT count(*) FROM ended) AS ended\nFROM answer \\gset\n"
    )


def _filled(statement: Statement, given: Mapping[str, str]) -> str:
    """One of our statements with SQL in the place of its parameters."""
    lines = [line for line in statement.sql.splitlines() if not line.lstrip().startswith("--")]
    return _PARAMETER.sub(lambda found: f"({given[found[1]]})", "\n".join(lines))


def _literal(value: Any) -> str:
    """A value as SQL; an empty array has the type that the statement gives it."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return f"ARRAY[{', '.join(map(_literal, value))}]" if value else "'{}'"
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'::bytea"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return "'" + str(value).replace("'", "''") + "'"
