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
SELECT m.id, m.task_id, m.name, m.queue, m.group_id, m.trigger, m.options, r.state, c.id IS NOT NULL, w.pending, s.due,
       ARRAY(SELECT e.pred FROM pgtasks.edge e WHERE e.succ = m.id ORDER BY e.position),
       ARRAY(SELECT e.position FROM pgtasks.edge e WHERE e.succ = m.id ORDER BY e.position)
FROM part p
JOIN pgtasks.message m ON m.id = p.id
LEFT JOIN pgtasks.result r ON r.id = m.id
LEFT JOIN pgtasks.claim c ON c.id = m.id
LEFT JOIN pgtasks.waiting w ON w.id = m.id
LEFT JOIN pgtasks.scheduled s ON s.id = m.id
ORDER BY m.created_at, m.id

-- name: predecessors
-- What a task waited for, as far as it has ended: of a header that was enough for its body some may go on, and what comes
-- after the body does not wait for them. Relies on edge_pkey. In: id. Out: pred, position.
SELECT e.pred, e.position
FROM pgtasks.edge e CROSS JOIN LATERAL (SELECT FROM pgtasks.result r WHERE r.id = e.pred OFFSET 0) r
WHERE e.succ = %(id)s
ORDER BY e.position

-- name: lock_bodies
-- Lock what waits for a running task, since several tasks of a header may add to it at once: `join_chord`, which comes next in
-- the transaction, then sees what the others have added. Locks: waiting by id. In: the running task. Out: how many wait.
WITH body AS MATERIALIZED (
  SELECT w.id FROM pgtasks.edge e JOIN pgtasks.waiting w ON w.id = e.succ
  WHERE e.pred = %(id)s AND w.pending > 0
  ORDER BY w.id FOR UPDATE OF w
)
SELECT count(*) FROM body

-- name: restore
-- Give tasks that are about to be redriven the messages they had before these were made anew, and some of them the
-- predecessors they had; and cut off what then comes anew. `redrive` comes next in the transaction, which is to be given up
-- if that finds nothing. Relies on message_pkey, edge_pkey, edge_pred. Locks: message, edge.
-- In: messages, one array per column; the tasks whose edges are replaced, these as arrays; the tasks to be cut off.
-- Out: how many messages were changed.
WITH changed AS (
  UPDATE pgtasks.message m
  SET name = n.name, queue = n.queue, priority = n.priority, payload = n.payload, content_type = n.content_type,
      content_encoding = n.content_encoding, options = n.options, inputs = n.inputs, trigger = n.trigger
  FROM unnest(%(ids)b::uuid[], %(names)b::text[], %(queues)b::text[], %(priorities)b::smallint[], %(payloads)b::bytea[],
              %(content_types)b::text[], %(content_encodings)b::text[], %(options)b::bytea[], %(inputs)b::text[],
              %(triggers)b::text[])
       AS n(id, name, queue, priority, payload, content_type, content_encoding, options, inputs, trigger)
  WHERE m.id = n.id
  RETURNING m.id
),
link AS (
  SELECT * FROM unnest(%(succs)b::uuid[], %(preds)b::uuid[], %(positions)b::int[]) AS l(succ, pred, position)
),
linked AS (
  INSERT INTO pgtasks.edge (succ, pred, position) SELECT succ, pred, position FROM link
  ON CONFLICT (succ, position) DO UPDATE SET pred = excluded.pred
),
unlinked AS (
  DELETE FROM pgtasks.edge e
  WHERE (e.succ = ANY (%(relinked)b::uuid[])
         AND NOT EXISTS (SELECT FROM link l WHERE l.succ = e.succ AND l.position = e.position))
    OR (e.succ = ANY (%(cut)b::uuid[]) AND e.pred <> ALL (%(cut)b::uuid[]))
    OR (e.pred = ANY (%(cut)b::uuid[]) AND e.succ <> ALL (%(cut)b::uuid[] || %(relinked)b::uuid[]))
)
SELECT count(*) FROM changed

-- name: lock_inputs
-- Lock the results of tasks that have succeeded, so that nobody runs one of them again while a fork is made that does not wait
-- for them. Locks: result by id. In: ids. Out: those that have succeeded.
SELECT id FROM pgtasks.result WHERE id = ANY (%(ids)b::uuid[]) AND state = 'SUCCESS' ORDER BY id FOR KEY SHARE

-- name: redrive
-- Run again what failed in a canvas that has ended, and what could not run for that reason; what succeeded keeps its
-- result. Nothing is done while a task of it has not ended, or runs although it was ended from outside, since a settle under
-- way would not see what is put back. What was revoked while it was queued is still there, and moves. Runs after `hold`, in
-- one transaction. Deleting the results is the fence: of two redrives at once one finds nothing. Tasks that had expired run
-- this time: somebody wants them to. Locks: result, then ready.
-- A fork that was made at this moment does not wait for its inputs, and would count them: then nothing is done.
-- What follows a task that runs again, and ran although that had failed, has succeeded perhaps: it gets other inputs now.
-- In: ids of the canvas, of those that failed, and of what follows them. Out: how many run again.
WITH again AS (
  DELETE FROM pgtasks.result r
  WHERE (r.id = ANY (%(ids)b::uuid[]) AND r.state <> 'SUCCESS' OR r.id = ANY (%(followers)b::uuid[]))
    AND EXISTS (SELECT FROM pgtasks.result f WHERE f.id = ANY (%(ids)b::uuid[]) AND f.state <> 'SUCCESS')
    AND NOT EXISTS (
      SELECT FROM unnest(%(canvas)b::uuid[]) AS c(id)
      WHERE NOT EXISTS (SELECT FROM pgtasks.result d WHERE d.id = c.id))
    AND NOT EXISTS (SELECT FROM pgtasks.claim c WHERE c.id = ANY (%(canvas)b::uuid[]))
    AND NOT EXISTS (
      SELECT FROM pgtasks.edge e
      WHERE e.pred = ANY (%(ids)b::uuid[] || %(followers)b::uuid[]) AND e.succ <> ALL (%(canvas)b::uuid[])
        AND NOT EXISTS (SELECT FROM pgtasks.result d WHERE d.id = e.succ))
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
  -- With other inputs nothing that was remembered holds.
  DELETE FROM pgtasks.step
  WHERE run = ANY (ARRAY(SELECT id FROM again))
    AND (is_fatal OR EXISTS (SELECT FROM pgtasks.edge e WHERE e.succ = run AND e.pred IN (SELECT id FROM again)))
),
unlimited_in_time AS (
  UPDATE pgtasks.message SET expires = NULL WHERE id = ANY (ARRAY(SELECT id FROM again)) AND expires IS NOT NULL
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
SELECT id, name, payload, content_type, content_encoding, queue, priority, due, root, parent, group_id, options,
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
