"""The physical layouts that `loadtest.layouts` compares: tables and statements, nothing else.

Every layout stores the same facts (a message of ~200 bytes, a stored result, who runs what, how often it was
handed out) and speaks the same three verbs. A *step* settles what finished and claims what is next; it is a
tuple of statements that travel in one round trip and commit together, the last of which returns the claimed
rows `(lease, rank, seq, id, delivery, retries, name, payload)`. Parameters are named and binary.

    A               one table; the state is updated in place, partial indexes
    E-claims        message + ready + one claim row per task in hand + result; settle and claim pipelined
    E-claims-fused  the same tables, settle and claim in one statement
    E-claims-bare   as fused; the fence alone keeps results unique, without ON CONFLICT
    E-lease         as E, but one lease row per worker with arrays, replaced at each step
    F8              as E-lease, one ready row per <= 8 tasks of one enqueue
"""

from __future__ import annotations

from dataclasses import dataclass

_UNIQUE = " ON CONFLICT DO NOTHING"

HOT = """WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
               autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off)"""


@dataclass(frozen=True, slots=True)
class Layout:
    """Tables and statements of one layout; `chunk` is how many tasks one ready row holds at most."""

    name: str
    tables: str
    enqueue_one: str
    enqueue_many: str
    step: tuple[str, ...]
    results: str = "SELECT count(*) FROM result"
    chunk: int = 1


# -- A: one table ------------------------------------------------------------------------------------------

_JOB = f"""
CREATE SEQUENCE seq;
CREATE TABLE job (
    id uuid PRIMARY KEY, name text NOT NULL, queue text NOT NULL, rank smallint NOT NULL,
    seq bigint NOT NULL DEFAULT nextval('seq'), state smallint NOT NULL DEFAULT 0,
    delivery smallint NOT NULL DEFAULT 0, retries smallint NOT NULL DEFAULT 0,
    worker uuid, created_at timestamptz NOT NULL DEFAULT now(), claimed_at timestamptz, done_at timestamptz,
    payload bytea NOT NULL, options bytea, value bytea
) {HOT};
CREATE INDEX job_ready ON job (queue, rank, seq) WHERE state = 0;
CREATE INDEX job_running ON job (worker) WHERE state = 1;
"""

_JOB_ONE = """
INSERT INTO job (id, name, queue, rank, payload)
VALUES (%(id)b, %(name)b, %(queue)b, %(rank)b, %(payload)b) ON CONFLICT DO NOTHING"""

_JOB_MANY = """
INSERT INTO job (id, name, queue, rank, payload)
SELECT t.id, %(name)b, %(queue)b, %(rank)b, t.payload
FROM unnest(%(ids)b::uuid[], %(payloads)b::bytea[]) t (id, payload) ON CONFLICT DO NOTHING"""

_JOB_SETTLE = """
UPDATE job SET state = 2, value = (%(values)b::bytea[])[array_position(%(ids)b::uuid[], id)], done_at = now()
WHERE id = ANY (%(ids)b::uuid[]) AND worker = %(worker)b AND state = 1
  AND delivery = (%(deliveries)b::smallint[])[array_position(%(ids)b::uuid[], id)]"""

_JOB_CLAIM = """
WITH picked AS MATERIALIZED (
    SELECT id FROM job
    WHERE queue = %(queue)b AND state = 0 AND (rank, seq) >= (%(hint_rank)b, %(hint_seq)b)
    ORDER BY rank, seq LIMIT %(limit)b FOR UPDATE SKIP LOCKED)
UPDATE job SET state = 1, worker = %(worker)b, delivery = delivery + 1, claimed_at = now()
FROM picked WHERE job.id = picked.id
RETURNING NULL::bigint, rank, seq, job.id, delivery, retries, name, payload"""

# -- E and F: immutable messages, hot ready rows, appended results -------------------------------------------

_MESSAGE_AND_RESULT = f"""
CREATE SEQUENCE seq;
CREATE TABLE message (
    id uuid PRIMARY KEY, name text NOT NULL, queue text NOT NULL, priority smallint NOT NULL,
    payload bytea NOT NULL, options bytea, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE ready (
    queue text NOT NULL, rank smallint NOT NULL, seq bigint NOT NULL DEFAULT nextval('seq'), {{handle}},
    delivery smallint NOT NULL DEFAULT 0, retries smallint NOT NULL DEFAULT 0,
    PRIMARY KEY (queue, rank, seq)) {HOT};
CREATE TABLE result (
    id uuid PRIMARY KEY, state smallint NOT NULL, worker uuid, done_at timestamptz NOT NULL DEFAULT now(),
    value bytea);
"""

_CLAIM_TABLE = f"""
CREATE TABLE claim (
    id uuid PRIMARY KEY, worker uuid NOT NULL, delivery smallint NOT NULL, retries smallint NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now()) {HOT};
"""

_LEASE_TABLE = f"""
CREATE TABLE lease (
    lease bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, worker uuid NOT NULL,
    ids uuid[] NOT NULL, deliveries smallint[] NOT NULL, retries smallint[] NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now()) {HOT};
"""

_MESSAGE_ONE = """
WITH message AS (
    INSERT INTO message (id, name, queue, priority, payload)
    VALUES (%(id)b, %(name)b, %(queue)b, -%(rank)b, %(payload)b) ON CONFLICT DO NOTHING RETURNING id)
"""

_MESSAGE_MANY = """
WITH message AS (
    INSERT INTO message (id, name, queue, priority, payload)
    SELECT t.id, %(name)b, %(queue)b, -%(rank)b, t.payload
    FROM unnest(%(ids)b::uuid[], %(payloads)b::bytea[]) t (id, payload) ON CONFLICT DO NOTHING RETURNING id)
"""

_READY = "INSERT INTO ready (queue, rank, id) SELECT %(queue)b, %(rank)b, id FROM message"

_READY_CHUNKS = """
INSERT INTO ready (queue, rank, ids)
SELECT %(queue)b, %(rank)b, array_agg(id ORDER BY n)
FROM (SELECT id, row_number() OVER () - 1 AS n FROM message) numbered GROUP BY n / 8 ORDER BY n / 8"""

# Deleting by ctid is safe because ready rows are never updated; a plain LIMIT subquery may run twice.
_TAKEN = """
picked AS MATERIALIZED (
    SELECT ctid FROM ready
    WHERE queue = %(queue)b AND (rank, seq) >= (%(hint_rank)b, %(hint_seq)b) {guard}
    ORDER BY rank, seq LIMIT %(limit)b FOR UPDATE SKIP LOCKED),
{taken} AS (
    DELETE FROM ready WHERE ctid = ANY (ARRAY(SELECT ctid FROM picked))
    RETURNING rank, seq, {handle}, (delivery + 1)::smallint AS delivery, retries)"""

_CLAIM_ROWS = """,
claimed AS (
    INSERT INTO claim (id, worker, delivery, retries)
    SELECT id, %(worker)b, delivery, retries FROM taken)
SELECT NULL::bigint, rank, seq, id, delivery, retries, name, payload
FROM taken JOIN message USING (id) ORDER BY rank, seq"""

# `id = ANY` rather than a join: the planner thinks this table empty, and joins an empty table by reading
# all of it, corpses included (measured: 4.6 ms per settle after 30,000 tasks without vacuum).
_SETTLED_CLAIMS = """
WITH ended AS (
    DELETE FROM claim
    WHERE id = ANY (%(ids)b::uuid[]) AND worker = %(worker)b
      AND delivery = (%(deliveries)b::smallint[])[array_position(%(ids)b::uuid[], id)]
    RETURNING id),
mine AS (
    SELECT f.id, f.value
    FROM unnest(%(ids)b::uuid[], %(values)b::bytea[]) f (id, value) JOIN ended USING (id))
"""

_RESULT_OF_MINE = """INSERT INTO result (id, state, worker, value)
SELECT id, 1, %(worker)b, value FROM mine ON CONFLICT DO NOTHING"""

# The lease row is replaced whole, so either its worker or a reaper gets it, never both.
_LEASE_STEP = (
    """
WITH fence AS (DELETE FROM lease WHERE lease = %(lease)b AND worker = %(worker)b RETURNING lease),
settled AS (
    INSERT INTO result (id, state, worker, value)
    SELECT f.id, 1, %(worker)b, f.value FROM unnest(%(ids)b::uuid[], %(values)b::bytea[]) f (id, value)
    WHERE EXISTS (SELECT FROM fence) ON CONFLICT DO NOTHING),"""
    + _TAKEN.replace("{guard}", "AND (%(lease)b = 0 OR EXISTS (SELECT FROM fence))")
    + """{tasks},
leased AS (
    INSERT INTO lease (worker, ids, deliveries, retries)
    SELECT %(worker)b, array_agg(id), array_agg(delivery), array_agg(retries)
    FROM (SELECT id, delivery, retries FROM taken
          UNION ALL
          SELECT * FROM unnest(%(kept_ids)b::uuid[], %(kept_deliveries)b::smallint[],
                               %(kept_retries)b::smallint[]) kept WHERE EXISTS (SELECT FROM fence)) hand
    HAVING count(*) > 0 RETURNING lease)
SELECT (SELECT lease FROM leased), rank, seq, id, delivery, retries, name, payload
FROM (SELECT 1) one LEFT JOIN (taken JOIN message USING (id)) ON true ORDER BY rank, seq"""
)

_UNCHUNK = """,
taken AS MATERIALIZED (SELECT rank, seq, unnest(ids) AS id, delivery, retries FROM chunk)"""

_TAKEN_ROWS = _TAKEN.format(guard="", taken="taken", handle="id")

_FUSED_CLAIM_STEP = _SETTLED_CLAIMS + ", settled AS (" + _RESULT_OF_MINE + ")," + _TAKEN_ROWS + _CLAIM_ROWS


def _e_layout(name: str, tables: str, step: tuple[str, ...]) -> Layout:
    return Layout(
        name,
        _MESSAGE_AND_RESULT.format(handle="id uuid NOT NULL") + tables,
        _MESSAGE_ONE + _READY,
        _MESSAGE_MANY + _READY,
        step,
    )


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "A",
            _JOB,
            _JOB_ONE,
            _JOB_MANY,
            (_JOB_SETTLE, _JOB_CLAIM),
            results="SELECT count(*) FROM job WHERE state = 2",
        ),
        _e_layout("E-claims", _CLAIM_TABLE, (_SETTLED_CLAIMS + _RESULT_OF_MINE, "WITH" + _TAKEN_ROWS + _CLAIM_ROWS)),
        _e_layout("E-claims-fused", _CLAIM_TABLE, (_FUSED_CLAIM_STEP,)),
        _e_layout("E-claims-bare", _CLAIM_TABLE, (_FUSED_CLAIM_STEP.replace(_UNIQUE, ""),)),
        _e_layout("E-lease", _LEASE_TABLE, (_LEASE_STEP.format(tasks="", taken="taken", handle="id"),)),
        Layout(
            "F8",
            _MESSAGE_AND_RESULT.format(handle="ids uuid[] NOT NULL") + _LEASE_TABLE,
            _MESSAGE_ONE + "INSERT INTO ready (queue, rank, ids) SELECT %(queue)b, %(rank)b, ARRAY[id] FROM message",
            _MESSAGE_MANY + _READY_CHUNKS,
            (_LEASE_STEP.format(tasks=_UNCHUNK, taken="chunk", handle="ids"),),
            chunk=8,
        ),
    )
}

# One task per statement, for the price of ON CONFLICT alone (idempotent enqueue by id).
ENQUEUE_IDEMPOTENT = _MESSAGE_ONE + _READY
ENQUEUE_PLAIN = ENQUEUE_IDEMPOTENT.replace(_UNIQUE, "")
