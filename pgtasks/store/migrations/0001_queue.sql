-- The queue: messages, where each stands, what came of it, who works.
--
-- Why this shape: a message is written once; what changes often is small, inserted and deleted, never updated
-- (docs/decisions/0001-physical-layout.md has the figures). No foreign keys and no triggers on the hot path.
-- Every table can be distributed by `bucket`, which is 0 on a single Postgres.
-- Locks: creates only. The first release: there is no previous one.

-- The one clock. `SET pgtasks.now = '2030-01-01 00:00Z'` moves it for a session, which is how tests travel in time.
CREATE FUNCTION pgtasks.clock() RETURNS timestamptz
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN coalesce(nullif(current_setting('pgtasks.now', true), '')::timestamptz, statement_timestamp());

-- Bytes as text, for people: NULL where they are not JSON in plain UTF-8, or too large to be read by anyone.
CREATE FUNCTION pgtasks.readable(body bytea, content_type text, content_encoding text) RETURNS text
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN CASE
    WHEN octet_length(body) > 100000 THEN NULL
    WHEN coalesce(content_type, 'application/json') <> 'application/json' THEN NULL
    WHEN coalesce(content_encoding, 'utf-8') <> 'utf-8' THEN NULL
    ELSE encode(body, 'escape')
  END;

-- What to run. Immutable, but for a retry that asks for other arguments.
-- A content type of NULL means application/json in utf-8. inputs says how a task with predecessors takes their
-- results; trigger when it runs: NULL once all have succeeded, all_done once all have ended, any once one has succeeded.
CREATE TABLE pgtasks.message (
  id uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  bucket smallint NOT NULL DEFAULT 0,
  priority smallint NOT NULL DEFAULT 0,
  max_deliveries smallint,
  has_successors boolean NOT NULL DEFAULT false,
  inputs text COLLATE "C",
  trigger text COLLATE "C",
  root uuid,
  parent uuid,
  due timestamptz,
  expires timestamptz,
  countdown float8,
  name text COLLATE "C" NOT NULL,
  queue text COLLATE "C" NOT NULL,
  task_id text,
  group_id text,
  content_type text COLLATE "C",
  content_encoding text COLLATE "C",
  options bytea,
  payload bytea NOT NULL,
  CONSTRAINT message_pkey PRIMARY KEY (id),
  CONSTRAINT message_inputs_known CHECK (inputs IN ('none', 'value', 'list')),
  CONSTRAINT message_trigger_known CHECK (trigger IN ('all_done', 'any'))
) WITH (autovacuum_vacuum_insert_scale_factor = 0.2);

-- The order of ready rows. Every return to the queue takes a fresh number, so it lands ahead of the claimers' cursors.
CREATE SEQUENCE pgtasks.ready_seq;

-- Tasks that may run now. rank is minus the priority, so the key's order is the order of work.
-- Rows are inserted and deleted, never updated: the claim deletes by ctid.
CREATE TABLE pgtasks.ready (
  id uuid NOT NULL,
  seq bigint NOT NULL DEFAULT nextval('pgtasks.ready_seq'),
  retries int NOT NULL DEFAULT 0,
  bucket smallint NOT NULL DEFAULT 0,
  delivery int NOT NULL DEFAULT 0,
  rank smallint NOT NULL,
  losses smallint NOT NULL DEFAULT 0,
  queue text COLLATE "C" NOT NULL,
  CONSTRAINT ready_pkey PRIMARY KEY (queue, rank, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

-- Tasks with a due time ahead: ETA, countdown, retries, redeliveries after a crash.
CREATE TABLE pgtasks.scheduled (
  id uuid NOT NULL,
  due timestamptz NOT NULL,
  retries int NOT NULL DEFAULT 0,
  bucket smallint NOT NULL DEFAULT 0,
  delivery int NOT NULL DEFAULT 0,
  rank smallint NOT NULL,
  losses smallint NOT NULL DEFAULT 0,
  queue text COLLATE "C" NOT NULL,
  CONSTRAINT scheduled_pkey PRIMARY KEY (id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
CREATE INDEX scheduled_due ON pgtasks.scheduled (due);

-- Tasks of a canvas with predecessors that have not ended. The row stays at 0 until the task is claimed: a settle that
-- deleted it would lose the count of another one that waits for its lock. A task that was handed out before it became
-- one that waits, by being replaced, goes on with its delivery.
CREATE TABLE pgtasks.waiting (
  id uuid NOT NULL,
  pending int NOT NULL,
  delivery int NOT NULL DEFAULT 0,
  bucket smallint NOT NULL DEFAULT 0,
  CONSTRAINT waiting_pkey PRIMARY KEY (id),
  CONSTRAINT waiting_pending_not_negative CHECK (pending >= 0)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

-- Who waits for whom. A successor reads its predecessors' results in the order of `position`.
CREATE TABLE pgtasks.edge (
  succ uuid NOT NULL,
  pred uuid NOT NULL,
  position int NOT NULL,
  bucket smallint NOT NULL DEFAULT 0,
  CONSTRAINT edge_pkey PRIMARY KEY (succ, position)
);
CREATE INDEX edge_pred ON pgtasks.edge (pred);

-- Tasks in the hands of a worker: inserted by the claim, deleted by the settle, which is the fence.
-- delivery counts how often a task was handed out and never goes back, so (worker, delivery) names one claim for ever.
-- losses counts the deliveries that ended with the death of a worker or child: what task_max_deliveries bounds.
-- acked: the task is at most once (acks_late=False) and may have begun, so it must not be handed out again.
-- revoke_signal: somebody revoked it; '' lets a running task finish, a signal's name kills it.
CREATE TABLE pgtasks.claim (
  id uuid NOT NULL,
  worker uuid NOT NULL,
  claimed_at timestamptz NOT NULL,
  retries int NOT NULL,
  delivery int NOT NULL,
  bucket smallint NOT NULL DEFAULT 0,
  losses smallint NOT NULL DEFAULT 0,
  acked boolean NOT NULL DEFAULT false,
  revoke_signal text,
  CONSTRAINT claim_pkey PRIMARY KEY (id)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
CREATE INDEX claim_revoked ON pgtasks.claim (worker) WHERE revoke_signal IS NOT NULL;

-- How tasks ended. Append only; the primary key is what makes a second completion impossible.
CREATE TABLE pgtasks.result (
  id uuid NOT NULL,
  done_at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  claimed_at timestamptz,
  retries int NOT NULL DEFAULT 0,
  delivery int NOT NULL DEFAULT 0,
  bucket smallint NOT NULL DEFAULT 0,
  hidden boolean NOT NULL DEFAULT false,
  state text COLLATE "C" NOT NULL,
  worker text COLLATE "C",
  content_type text COLLATE "C",
  content_encoding text COLLATE "C",
  value bytea,
  traceback bytea,
  children bytea,
  CONSTRAINT result_pkey PRIMARY KEY (id)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.2);
CREATE INDEX result_done_at ON pgtasks.result USING brin (done_at) WITH (pages_per_range = 32, autosummarize = on);

-- The newest state of a task that has not ended: STARTED, RETRY, or the user's own. Written only when asked for.
CREATE TABLE pgtasks.progress (
  id uuid NOT NULL,
  at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  bucket smallint NOT NULL DEFAULT 0,
  state text NOT NULL,
  worker text,
  content_type text COLLATE "C",
  content_encoding text COLLATE "C",
  value bytea,
  traceback bytea,
  children bytea,
  CONSTRAINT progress_pkey PRIMARY KEY (id)
) WITH (fillfactor = 70);

-- Ready tasks that were revoked: the claim drops them. Normally empty.
CREATE TABLE pgtasks.revoked (
  id uuid NOT NULL,
  at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  bucket smallint NOT NULL DEFAULT 0,
  CONSTRAINT revoked_pkey PRIMARY KEY (id)
);

-- Saved group results: GroupResult.save() and restore().
CREATE TABLE pgtasks.saved_group (
  id text NOT NULL,
  saved_at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  bucket smallint NOT NULL DEFAULT 0,
  members bytea NOT NULL,
  CONSTRAINT saved_group_pkey PRIMARY KEY (id)
);

-- One row per worker process; its heartbeat is the lease on everything it claimed.
CREATE TABLE pgtasks.worker (
  id uuid NOT NULL,
  heartbeat_at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  started_at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  lease interval NOT NULL,
  pid int NOT NULL,
  concurrency int NOT NULL,
  bucket smallint NOT NULL DEFAULT 0,
  is_stopping boolean NOT NULL DEFAULT false,
  hostname text NOT NULL,
  machine text NOT NULL,
  pool text NOT NULL,
  version text NOT NULL,
  queues text[] NOT NULL,
  CONSTRAINT worker_pkey PRIMARY KEY (id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Workers with nothing to do, per queue: whom an enqueue wakes. Only hints, so it need not survive a crash.
CREATE UNLOGGED TABLE pgtasks.idle (
  queue text COLLATE "C" NOT NULL,
  worker uuid NOT NULL,
  CONSTRAINT idle_pkey PRIMARY KEY (queue, worker)
);

-- Processes that wait for a result: whom a settle tells. Only hints as well.
CREATE UNLOGGED TABLE pgtasks.waiter (
  id uuid NOT NULL,
  process uuid NOT NULL,
  since timestamptz NOT NULL DEFAULT pgtasks.clock(),
  CONSTRAINT waiter_pkey PRIMARY KEY (id, process)
);

-- One row per task, wherever it stands. Payloads are decoded for reading only, and only where they are JSON.
CREATE VIEW pgtasks.tasks AS
SELECT m.id, m.task_id, m.name, m.queue, m.priority,
       CASE
         WHEN r.id IS NOT NULL THEN r.state
         WHEN c.id IS NOT NULL THEN coalesce(p.state, 'STARTED')
         WHEN s.id IS NOT NULL THEN coalesce(p.state, 'SCHEDULED')
         WHEN w.pending > 0 THEN 'WAITING'
         ELSE coalesce(p.state, 'READY')
       END AS state,
       m.created_at, coalesce(s.due, m.due) AS due, m.expires,
       coalesce(r.claimed_at, c.claimed_at) AS claimed_at, r.done_at,
       coalesce(r.retries, c.retries, s.retries, 0) AS retries,
       coalesce(r.delivery, c.delivery, s.delivery, 0) AS delivery,
       coalesce(r.worker, k.hostname) AS worker,
       w.pending, m.root, m.parent, m.group_id,
       pgtasks.readable(m.payload, m.content_type, m.content_encoding) AS payload,
       pgtasks.readable(r.value, r.content_type, r.content_encoding) AS result,
       pgtasks.readable(r.traceback, NULL, NULL) AS traceback
FROM pgtasks.message m
LEFT JOIN pgtasks.result r ON r.id = m.id
LEFT JOIN pgtasks.claim c ON c.id = m.id
LEFT JOIN pgtasks.worker k ON k.id = c.worker
LEFT JOIN pgtasks.scheduled s ON s.id = m.id
LEFT JOIN pgtasks.waiting w ON w.id = m.id
LEFT JOIN pgtasks.progress p ON p.id = m.id;

-- How much waits in each queue, and for how long.
CREATE VIEW pgtasks.queues AS
SELECT queue, sum(ready)::bigint AS ready, sum(scheduled)::bigint AS scheduled, min(oldest) AS oldest
FROM (
  SELECT r.queue, count(*) AS ready, 0 AS scheduled, min(m.created_at) AS oldest
  FROM pgtasks.ready r JOIN pgtasks.message m ON m.id = r.id GROUP BY r.queue
  UNION ALL
  SELECT queue, 0, count(*), NULL FROM pgtasks.scheduled GROUP BY queue
) q
GROUP BY queue;

-- Who works, on how much, and whether its lease still holds.
CREATE VIEW pgtasks.workers AS
SELECT w.id, w.hostname, w.machine, w.pid, w.pool, w.concurrency, w.queues, w.version, w.started_at, w.heartbeat_at,
       w.heartbeat_at + w.lease > pgtasks.clock() AS is_alive, w.is_stopping,
       (SELECT count(*) FROM pgtasks.claim c WHERE c.worker = w.id) AS claimed
FROM pgtasks.worker w;

-- The canvas: which task waits for which, and how far that has come.
CREATE VIEW pgtasks.edges AS
SELECT e.pred, pm.name AS pred_name, e.succ, sm.name AS succ_name, e.position, r.state AS pred_state
FROM pgtasks.edge e
JOIN pgtasks.message pm ON pm.id = e.pred
JOIN pgtasks.message sm ON sm.id = e.succ
LEFT JOIN pgtasks.result r ON r.id = e.pred;

-- What should move and does not: no worker consumes the queue, the worker is gone, or the due time passed.
CREATE VIEW pgtasks.stuck AS
SELECT m.id, m.name, m.queue, 'no live worker consumes this queue' AS why, m.created_at AS since
FROM pgtasks.ready r JOIN pgtasks.message m ON m.id = r.id
WHERE NOT EXISTS (
  SELECT FROM pgtasks.worker w WHERE r.queue = ANY (w.queues) AND w.heartbeat_at + w.lease > pgtasks.clock())
UNION ALL
SELECT m.id, m.name, m.queue, 'its worker is gone; a live worker will take it over', c.claimed_at
FROM pgtasks.claim c JOIN pgtasks.message m ON m.id = c.id
WHERE NOT EXISTS (
  SELECT FROM pgtasks.worker w WHERE w.id = c.worker AND w.heartbeat_at + w.lease > pgtasks.clock())
UNION ALL
SELECT m.id, m.name, m.queue, 'its due time passed and no worker moved it', s.due
FROM pgtasks.scheduled s JOIN pgtasks.message m ON m.id = s.id
WHERE s.due < pgtasks.clock() - interval '1 minute';
