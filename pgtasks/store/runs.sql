-- Statements on workflow runs for those who look after them: find, show, run again, copy. See migrations/0005_workflows.sql.

-- name: find
-- Runs by name, state and age, the newest first. Ended ones are found by the time at which they ended (result_failed,
-- result_done_at), others by where they are: suspended ones (scheduled_suspended), claimed and ready ones among the tables that
-- hold only what has not ended. A table that can have none of the states that are asked for is not read.
-- In: names, states or NULL, since or NULL, limit. Out: `Found`.
WITH place AS (
  SELECT r.id, r.state, r.done_at AS at FROM pgtasks.result r
  WHERE r.done_at >= coalesce(%(since)s::timestamptz, '-infinity') AND r.state <> 'FAILURE'
    AND (%(states)s::text[] IS NULL OR r.state = ANY (%(states)s::text[])) AND %(states)s::text[] IS DISTINCT FROM '{FAILURE}'
  UNION ALL
  SELECT r.id, 'FAILURE', r.done_at FROM pgtasks.result r
  WHERE r.done_at >= coalesce(%(since)s::timestamptz, '-infinity') AND r.state = 'FAILURE'
    AND (%(states)s::text[] IS NULL OR 'FAILURE' = ANY (%(states)s::text[]))
  UNION ALL
  SELECT c.id, 'STARTED', c.claimed_at FROM pgtasks.claim c
  WHERE %(states)s::text[] IS NULL OR 'STARTED' = ANY (%(states)s::text[])
  UNION ALL
  SELECT s.id, 'SUSPENDED', NULL FROM pgtasks.scheduled s
  WHERE s.is_suspended AND (%(states)s::text[] IS NULL OR 'SUSPENDED' = ANY (%(states)s::text[]))
  UNION ALL
  SELECT s.id, 'SCHEDULED', NULL FROM pgtasks.scheduled s
  WHERE NOT s.is_suspended AND (%(states)s::text[] IS NULL OR 'SCHEDULED' = ANY (%(states)s::text[]))
  UNION ALL
  SELECT y.id, 'READY', NULL FROM pgtasks.ready y
  WHERE (%(states)s::text[] IS NULL OR 'READY' = ANY (%(states)s::text[]))
    AND NOT EXISTS (SELECT FROM pgtasks.result r WHERE r.id = y.id)
)
SELECT m.id, m.task_id, m.name, m.queue, p.state, m.created_at, p.at,
       ARRAY(SELECT coalesce(s.source, s.name) FROM pgtasks.step s
             WHERE p.state = 'SUSPENDED' AND s.run = m.id AND s.state = 'PENDING'
               AND (s.due IS NULL OR s.due > pgtasks.clock()) ORDER BY s.seq)
FROM place p JOIN pgtasks.message m ON m.id = p.id
WHERE m.name = ANY (%(names)b::text[])
  AND (%(states)s::text[] IS NULL OR p.state = ANY (%(states)s::text[]))
  AND coalesce(p.at, m.created_at) >= coalesce(%(since)s::timestamptz, '-infinity')
ORDER BY m.created_at DESC, m.id DESC
LIMIT %(limit)s

-- name: look
-- One run, with where it stands. In: run. Out: `Sight`.
SELECT m.id, m.task_id, m.name, m.queue, m.created_at,
       CASE WHEN r.id IS NOT NULL THEN r.state WHEN c.id IS NOT NULL THEN 'STARTED'
            WHEN s.is_suspended THEN 'SUSPENDED' WHEN s.id IS NOT NULL THEN 'SCHEDULED' ELSE 'READY' END,
       r.done_at, CASE WHEN s.due < '9999-01-01' THEN s.due END, coalesce(r.delivery, c.delivery, s.delivery, 0),
       m.content_type, m.content_encoding, m.payload, m.options, pgtasks.clock()
FROM pgtasks.message m
LEFT JOIN pgtasks.result r ON r.id = m.id
LEFT JOIN pgtasks.claim c ON c.id = m.id
LEFT JOIN pgtasks.scheduled s ON s.id = m.id
WHERE m.id = %(run)s

-- name: history
-- The steps of a run as people see them. In: run. Out: `Line`.
SELECT seq, name, ordinal, kind, state, at, due, took, attempts, delivery, source, content_type, content_encoding, value
FROM pgtasks.step WHERE run = %(run)s ORDER BY seq, name, ordinal

-- name: redrive
-- Run failed runs again, from the step that failed; with them the failed tasks whose errors they stumbled over, and those
-- that these did. A run that was undone stays: what it had done is gone. Deleting the result is the fence.
-- Locks: result by id, then inserts only. In: ids, whether they themselves run again or only what they stumbled over.
-- Out: ids of those that run again.
WITH RECURSIVE broken AS (
  SELECT id, 0 AS depth FROM unnest(%(ids)b::uuid[]) AS g(id)
  UNION
  SELECT s.source::uuid, b.depth + 1
  FROM broken b JOIN pgtasks.step s ON s.run = b.id AND s.is_fatal AND s.kind = 'get'
),
locked AS MATERIALIZED (
  SELECT r.id FROM pgtasks.result r
  WHERE r.id IN (SELECT id FROM broken WHERE depth > 0 OR %(with_self)s) AND r.state <> 'SUCCESS'
    AND NOT EXISTS (SELECT FROM pgtasks.step s WHERE s.run = r.id AND s.kind = 'undo')
  ORDER BY r.id FOR UPDATE
),
again AS (
  DELETE FROM pgtasks.result WHERE id = ANY (ARRAY(SELECT id FROM locked)) RETURNING id, delivery
),
forgotten AS (
  DELETE FROM pgtasks.step WHERE run = ANY (ARRAY(SELECT id FROM locked)) AND is_fatal
),
states AS (
  DELETE FROM pgtasks.progress WHERE id = ANY (ARRAY(SELECT id FROM locked))
),
unmarked AS (
  DELETE FROM pgtasks.revoked WHERE id = ANY (ARRAY(SELECT id FROM locked))
),
awaiting AS (
  UPDATE pgtasks.awaited SET wanted = 0 WHERE task = ANY (ARRAY(SELECT id FROM locked)) AND wanted < 0
),
returned AS (
  INSERT INTO pgtasks.ready (id, queue, rank, delivery)
  SELECT m.id, m.queue, -m.priority, greatest(a.delivery, 1) FROM again a JOIN pgtasks.message m ON m.id = a.id
  RETURNING id, queue
),
woken AS (
  SELECT pg_notify('pgtasks_worker_' || i.worker, 'ready')
  FROM (SELECT worker FROM pgtasks.idle WHERE queue IN (SELECT queue FROM returned) GROUP BY worker) i
  WHERE pg_notification_queue_usage() < 0.5
)
SELECT id, (SELECT count(*) FROM woken) FROM returned ORDER BY id

-- name: fork
-- Copy a run under a new id, with what it remembers before one of its steps: the copy goes on from there. Signals that were
-- used at that step or later are there for it again. Tasks that it has made are not made again.
-- In: run, new id, seq of the first step that is not copied. Out: 1 if the run is known.
WITH original AS (
  SELECT * FROM pgtasks.message WHERE id = %(run)s
),
copied AS (
  INSERT INTO pgtasks.message (id, priority, max_deliveries, root, parent, name, queue, content_type, content_encoding,
                               options, payload)
  SELECT %(copy)s, priority, max_deliveries, coalesce(root, id), id, name, queue, content_type, content_encoding, options, payload
  FROM original
  ON CONFLICT (id) DO NOTHING
  RETURNING id, queue, priority
),
steps AS (
  INSERT INTO pgtasks.step (run, at, due, took, ordinal, seq, delivery, attempts, kind, name, state, source, content_type,
                            content_encoding, value)
  SELECT c.id, s.at, s.due, s.took, s.ordinal, s.seq, s.delivery, s.attempts, s.kind, s.name, s.state, s.source, s.content_type,
         s.content_encoding, s.value
  FROM copied c, pgtasks.step s
  WHERE s.run = %(run)s AND s.seq < %(seq)s AND NOT s.is_fatal AND s.kind <> 'undo'
),
signals AS (
  INSERT INTO pgtasks.signal (run, at, name, key, content_type, content_encoding, value)
  SELECT c.id, g.at, g.name, g.key, g.content_type, g.content_encoding, g.value
  FROM copied c, pgtasks.signal g
  WHERE g.run = %(run)s AND NOT EXISTS (
    -- Those taken before the release that notes by whom have no name of a wait.
    SELECT FROM pgtasks.step s
    WHERE s.run = g.run AND s.ordinal = g.ordinal AND s.name = coalesce(g.taken_by, s.name) AND s.source = g.name
      AND s.seq < %(seq)s)
  ORDER BY g.seq
),
tasks AS (
  INSERT INTO pgtasks.awaited (run, task)
  SELECT DISTINCT c.id, s.source::uuid FROM copied c, pgtasks.step s
  WHERE s.run = %(run)s AND s.seq < %(seq)s AND s.kind = 'child' AND s.source IS NOT NULL
),
ready AS (
  INSERT INTO pgtasks.ready (id, queue, rank, delivery) SELECT id, queue, -priority, 1 FROM copied
  RETURNING queue
),
woken AS (
  SELECT pg_notify('pgtasks_worker_' || i.worker, 'ready')
  FROM (SELECT worker FROM pgtasks.idle WHERE queue IN (SELECT queue FROM ready) LIMIT 1) i
)
SELECT count(*), (SELECT count(*) FROM woken) FROM copied

-- name: rewind
-- Have a run that has ended, or is suspended, go on from one of its steps: what it remembers from there on goes, and signals
-- used there are there again. One that a worker holds, or that waits for one, stays. Locks: result, scheduled, then steps.
-- In: run, seq of the first step that is forgotten. Out: 1 if it goes on.
WITH ended AS (
  DELETE FROM pgtasks.result WHERE id = %(run)s RETURNING id, delivery
),
suspended AS (
  DELETE FROM pgtasks.scheduled WHERE id = %(run)s AND is_suspended RETURNING id, delivery
),
free AS (
  SELECT id, delivery FROM ended UNION ALL SELECT id, delivery FROM suspended
),
forgotten AS (
  DELETE FROM pgtasks.step s USING free f
  WHERE s.run = f.id AND (s.seq >= %(seq)s OR s.is_fatal OR s.kind = 'undo')
  RETURNING s.name, s.ordinal, s.source
),
reopened AS (
  UPDATE pgtasks.signal g SET ordinal = NULL, taken_by = NULL
  WHERE g.run = %(run)s AND EXISTS (
    SELECT FROM forgotten f
    WHERE f.ordinal = g.ordinal AND f.name = coalesce(g.taken_by, f.name) AND f.source = g.name)
),
unmarked AS (
  DELETE FROM pgtasks.revoked WHERE id IN (SELECT id FROM free)
),
returned AS (
  INSERT INTO pgtasks.ready (id, queue, rank, delivery)
  SELECT m.id, m.queue, -m.priority, greatest(f.delivery, 1) FROM free f JOIN pgtasks.message m ON m.id = f.id
  RETURNING queue
),
woken AS (
  SELECT pg_notify('pgtasks_worker_' || i.worker, 'ready')
  FROM (SELECT worker FROM pgtasks.idle WHERE queue IN (SELECT queue FROM returned) LIMIT 1) i
)
SELECT count(*), (SELECT count(*) FROM woken) FROM returned
