-- Statements on whole canvases: the tasks that edges connect.

-- name: graph
-- Every task that is connected with one, directly or not, with where it stands. Relies on edge_pred, edge_pkey.
-- In: id. Out: `GraphNode`, oldest first.
WITH RECURSIVE part AS (
  SELECT %(id)s::uuid AS id
  UNION
  SELECT n.id FROM part p CROSS JOIN LATERAL (
    SELECT e.succ AS id FROM pgtasks.edge e WHERE e.pred = p.id
    UNION ALL
    SELECT e.pred FROM pgtasks.edge e WHERE e.succ = p.id
  ) n
)
SELECT m.id, m.task_id, m.name, m.queue, m.group_id, r.state, c.id IS NOT NULL, w.pending, s.due,
       ARRAY(SELECT e.pred FROM pgtasks.edge e WHERE e.succ = m.id ORDER BY e.position),
       ARRAY(SELECT e.position FROM pgtasks.edge e WHERE e.succ = m.id ORDER BY e.position)
FROM part p
JOIN pgtasks.message m ON m.id = p.id
LEFT JOIN pgtasks.result r ON r.id = m.id
LEFT JOIN pgtasks.claim c ON c.id = m.id
LEFT JOIN pgtasks.waiting w ON w.id = m.id
LEFT JOIN pgtasks.scheduled s ON s.id = m.id
ORDER BY m.created_at, m.id

-- name: redrive
-- Run again what failed in a canvas that has ended, and what could not run for that reason; what succeeded keeps its
-- result. Nothing is done while a task of it has not ended, or runs although it was ended from outside, since a settle under
-- way would not see what is put back. What was revoked while it was queued is still there, and moves. Runs after `hold`, in
-- one transaction. Deleting the results is the fence: of two redrives at once one finds nothing. Locks: result, then ready.
-- In: ids of the canvas, ids of those to run again. Out: how many run again.
WITH again AS (
  DELETE FROM pgtasks.result r
  WHERE r.id = ANY (%(ids)b::uuid[]) AND r.state <> 'SUCCESS'
    AND NOT EXISTS (
      SELECT FROM unnest(%(canvas)b::uuid[]) AS c(id)
      WHERE NOT EXISTS (SELECT FROM pgtasks.result d WHERE d.id = c.id))
    AND NOT EXISTS (SELECT FROM pgtasks.claim c WHERE c.id = ANY (%(canvas)b::uuid[]))
  RETURNING r.id, r.delivery
),
unready AS (
  DELETE FROM pgtasks.ready WHERE id = ANY (ARRAY(SELECT id FROM again)) RETURNING id, delivery
),
unscheduled AS (
  DELETE FROM pgtasks.scheduled WHERE id = ANY (ARRAY(SELECT id FROM again)) RETURNING id, delivery
),
unlimited AS (
  DELETE FROM pgtasks.held WHERE id = ANY (ARRAY(SELECT id FROM again)) RETURNING id, delivery
),
forgotten AS (
  DELETE FROM pgtasks.progress WHERE id = ANY (ARRAY(SELECT id FROM again))
),
unmarked AS (
  DELETE FROM pgtasks.revoked WHERE id = ANY (ARRAY(SELECT id FROM again))
),
steps AS (
  DELETE FROM pgtasks.step WHERE run = ANY (ARRAY(SELECT id FROM again)) AND is_fatal
),
counted AS MATERIALIZED (
  -- What was handed out and came back before it ended goes on with its delivery: no two may be alike.
  SELECT a.id, greatest(a.delivery, (
           SELECT max(delivery) FROM (TABLE unready UNION ALL TABLE unscheduled UNION ALL TABLE unlimited) q WHERE q.id = a.id)
         ) AS delivery,
         count(e.pred) FILTER (WHERE e.pred IN (SELECT id FROM again)) AS pending
  FROM again a LEFT JOIN pgtasks.edge e ON e.succ = a.id
  GROUP BY a.id, a.delivery
),
held AS (
  INSERT INTO pgtasks.waiting (id, pending, delivery) SELECT id, pending, delivery FROM counted WHERE pending > 0
  ON CONFLICT (id) DO UPDATE SET pending = excluded.pending, delivery = excluded.delivery
),
returned AS (
  INSERT INTO pgtasks.ready (id, queue, rank, delivery)
  SELECT m.id, m.queue, -m.priority, c.delivery FROM counted c JOIN pgtasks.message m ON m.id = c.id WHERE c.pending = 0
  RETURNING queue
),
woken AS (
  SELECT pg_notify('pgtasks_worker_' || i.worker, '')
  FROM (SELECT worker FROM pgtasks.idle WHERE queue IN (SELECT queue FROM returned) GROUP BY worker) i
  WHERE pg_notification_queue_usage() < 0.5
)
SELECT count(*), (SELECT count(*) FROM woken) FROM again

-- name: undoable
-- What a canvas must undo: nothing, unless one of its ends has not succeeded; else those of its tasks with undos that have,
-- the last success first. All of them have ended: the asking task waited for that. Of several that were settled by one
-- statement the last in the canvas comes first. Hidden results count, for they are those of ignore_result.
-- In: the asking task, how many of its predecessors, the first ones, have undos, the positions of the ends.
-- Out: whether it has failed; position and result of each task to undo, or one row of NULLs.
SELECT f.has_failed, p.position, p.content_type, p.content_encoding, p.value
FROM (
  SELECT EXISTS (
    SELECT FROM pgtasks.edge e JOIN pgtasks.result r ON r.id = e.pred
    WHERE e.succ = %(id)s AND e.position = ANY (%(ends)b::int[]) AND r.state <> 'SUCCESS') AS has_failed
) f
LEFT JOIN (
  SELECT e.position, r.done_at, r.content_type, r.content_encoding, r.value
  FROM pgtasks.edge e JOIN pgtasks.result r ON r.id = e.pred
  WHERE e.succ = %(id)s AND e.position < %(undos)s AND r.state = 'SUCCESS'
) p ON f.has_failed
ORDER BY p.done_at DESC, p.position DESC

-- name: messages
-- The messages of some tasks, to copy them. In: ids. Out: columns of `message`.
SELECT id, name, payload, content_type, content_encoding, queue, priority, due, expires, root, parent, group_id, options,
       max_deliveries, inputs, trigger
FROM pgtasks.message WHERE id = ANY (%(ids)b::uuid[])

-- name: successors
-- Every task that directly or indirectly waits for one task, the nearest first, with what its error handlers need.
-- In: id. Out: `Successor`.
WITH RECURSIVE below AS (
  SELECT e.succ AS id, e.pred, 1 AS depth FROM pgtasks.edge e WHERE e.pred = %(id)s
  UNION
  SELECT e.succ, e.pred, b.depth + 1 FROM below b JOIN pgtasks.edge e ON e.pred = b.id
)
SELECT DISTINCT ON (b.depth, m.id) m.id, b.pred, m.task_id, m.name, m.inputs, m.trigger, m.content_type, m.content_encoding,
       m.payload, m.options, b.depth
FROM below b JOIN pgtasks.message m ON m.id = b.id
WHERE NOT EXISTS (SELECT FROM pgtasks.result r WHERE r.id = m.id)
ORDER BY b.depth, m.id
