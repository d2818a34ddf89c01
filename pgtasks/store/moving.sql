-- Statements of the bridge to and from the brokers of Celery. See migrations/0009_bridge.sql for the tables.

-- name: durably
-- Have the commit of this transaction wait for the disk, where the server, the database or the role says that commits do not:
-- what is taken off another broker must be safe here. What waits for more, as for a standby, stays. In: nothing. Out: nothing.
SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'

-- name: set_aside
-- Keep messages that cannot be read, with the reason. One that is there already is left as it is, so that a batch may be
-- sent again. In: one array per column. Out: nothing.
INSERT INTO pgtasks.set_aside (id, priority, source, queue, reason, message)
SELECT * FROM unnest(%(ids)s::uuid[], %(priorities)s::smallint[], %(sources)s::text[], %(queues)s::text[],
                     %(reasons)s::text[], %(messages)s::bytea[])
ON CONFLICT (id) DO NOTHING

-- name: aside
-- What was set aside, the oldest first. Few rows, read whole. In: limit. Out: one row per message.
SELECT id, at, priority, source, queue, reason, message FROM pgtasks.set_aside ORDER BY at, id LIMIT %(limit)s

-- name: drop_aside
-- Forget messages that were set aside, since they were taken over now. Relies on set_aside_pkey. In: ids. Out: nothing.
DELETE FROM pgtasks.set_aside WHERE id = ANY (%(ids)s::uuid[])

-- name: owe
-- Remember tasks whose results go to the old result store too, in the transaction that enqueues them. Only those whose
-- message is there: what has ended and was removed since owes nothing. In: ids. Out: nothing.
INSERT INTO pgtasks.owed (id)
SELECT m.id FROM pgtasks.message m WHERE m.id = ANY (%(ids)s::uuid[])
ON CONFLICT (id) DO NOTHING

-- name: due_results
-- Results that are owed and there now. It probes result_pkey once for every task that is owed, so whoever asks waits, between
-- two questions, for a multiple of the time this took. In: limit. Out: what task meta is made of.
SELECT r.id, m.task_id, r.state, r.content_type, r.content_encoding, r.value, r.traceback, r.done_at, m.group_id, m.parent,
       r.hidden
FROM pgtasks.owed o
JOIN pgtasks.result r ON r.id = o.id
LEFT JOIN pgtasks.message m ON m.id = o.id
LIMIT %(limit)s

-- name: paid
-- Results that have reached the old store, and tasks that are gone, are owed no longer. Relies on owed_pkey, message_pkey.
-- In: ids. Out: nothing.
DELETE FROM pgtasks.owed WHERE id = ANY (%(ids)s::uuid[])

-- name: here
-- Which of some tasks are here, whether they have ended or not. Relies on message_pkey. In: ids. Out: ids.
SELECT id FROM pgtasks.message WHERE id = ANY (%(ids)s::uuid[])

-- name: depart
-- Take waiting tasks of some queues away, for another broker. They are published before the transaction of this statement is
-- committed: its row locks keep workers from them until then, and when the bridge dies all is as it was.
-- Tasks of a canvas stay, since only Postgres knows what waits for them, and so do workflows that have begun, whose steps are
-- here, and what was revoked. Relies on ready_pkey, scheduled_pkey, edge_pkey, edge_pred; it reads past what stays.
-- Locks: ready, scheduled, skipping what others have locked; then message.
-- In: queues, names that stay, limit. Out: the messages, how often they were tried, the most urgent first.
WITH ready AS MATERIALIZED (
  SELECT r.ctid AS place, r.id, r.retries, r.rank, r.seq
  FROM pgtasks.ready r
  WHERE r.queue = ANY (%(queues)s::text[])
    AND NOT EXISTS (SELECT FROM pgtasks.edge e WHERE e.succ = r.id)
    AND NOT EXISTS (SELECT FROM pgtasks.edge e WHERE e.pred = r.id)
    AND NOT EXISTS (SELECT FROM pgtasks.step s WHERE s.run = r.id)
    AND NOT EXISTS (SELECT FROM pgtasks.revoked v WHERE v.id = r.id)
    AND NOT EXISTS (SELECT FROM pgtasks.message m WHERE m.id = r.id AND m.name = ANY (%(staying)s::text[]))
  ORDER BY r.rank, r.seq LIMIT %(limit)s::int FOR UPDATE OF r SKIP LOCKED
),
scheduled AS MATERIALIZED (
  SELECT s.ctid AS place, s.id, s.retries, s.rank, s.due
  FROM pgtasks.scheduled s
  WHERE s.queue = ANY (%(queues)s::text[]) AND NOT s.is_suspended
    AND NOT EXISTS (SELECT FROM pgtasks.edge e WHERE e.succ = s.id)
    AND NOT EXISTS (SELECT FROM pgtasks.edge e WHERE e.pred = s.id)
    AND NOT EXISTS (SELECT FROM pgtasks.step t WHERE t.run = s.id)
    AND NOT EXISTS (SELECT FROM pgtasks.message m WHERE m.id = s.id AND m.name = ANY (%(staying)s::text[]))
  ORDER BY s.due LIMIT %(limit)s::int FOR UPDATE OF s SKIP LOCKED
),
waiting AS (
  SELECT id, retries, rank, seq, NULL::timestamptz AS due FROM ready
  UNION ALL
  SELECT id, retries, rank, NULL, due FROM scheduled
),
left_ready AS (
  DELETE FROM pgtasks.ready r USING ready w WHERE r.ctid = w.place RETURNING r.id
),
left_scheduled AS (
  DELETE FROM pgtasks.scheduled s USING scheduled w WHERE s.ctid = w.place RETURNING s.id
),
gone AS (
  SELECT id FROM left_ready UNION ALL SELECT id FROM left_scheduled
),
unmarked AS (
  DELETE FROM pgtasks.progress p USING gone g WHERE p.id = g.id
),
owing AS (
  DELETE FROM pgtasks.owed o USING gone g WHERE o.id = g.id
),
forgotten AS (
  DELETE FROM pgtasks.message m USING gone g WHERE m.id = g.id
  RETURNING m.*
)
SELECT m.id, m.task_id, m.name, m.queue, -w.rank, w.due, m.expires, w.retries, m.root, m.parent, m.group_id,
       m.content_type, m.content_encoding, m.options, m.payload
FROM waiting w JOIN forgotten m ON m.id = w.id
ORDER BY w.rank, w.seq, w.due

-- name: staying
-- How many waiting tasks of some queues another broker cannot run, and why. It counts what waits. In: queues, names that stay.
-- Out: why, count.
WITH open AS (
  SELECT id, false AS is_suspended FROM pgtasks.ready WHERE queue = ANY (%(queues)s::text[])
  UNION ALL
  SELECT id, is_suspended FROM pgtasks.scheduled WHERE queue = ANY (%(queues)s::text[])
),
judged AS (
  SELECT CASE
    WHEN EXISTS (SELECT FROM pgtasks.edge e WHERE e.succ = o.id OR e.pred = o.id) THEN 'part of a canvas'
    WHEN o.is_suspended OR EXISTS (SELECT FROM pgtasks.step s WHERE s.run = o.id)
      OR EXISTS (SELECT FROM pgtasks.message m WHERE m.id = o.id AND m.name = ANY (%(staying)s::text[])) THEN 'a workflow'
    WHEN EXISTS (SELECT FROM pgtasks.revoked v WHERE v.id = o.id) THEN 'revoked'
    ELSE 'waiting'
  END AS why
  FROM open o
)
SELECT why, count(*) FROM judged GROUP BY why
