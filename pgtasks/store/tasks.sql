-- Statements on tasks: from the enqueue to the result. See migrations/0001_queue.sql for the tables.
--
-- A plan is made once per connection, perhaps while the tables are empty and known to be, and must serve them when they are
-- full. So rows of large tables are looked up, by = ANY or by LATERAL (... OFFSET 0), which the planner cannot turn into a
-- join: of a join with an empty table it makes one that reads all of it, up to a thousand times per statement.

-- name: enqueue_one
-- Add one task that may run at once: the statement behind a plain `.delay()`.
-- A second enqueue of the same id changes nothing, which makes it safe to resend when the answer to a commit was lost.
-- It wakes one idle worker of the queue, if there is one: NOTIFY takes a lock of the whole database at commit, so a busy
-- system sends none. Which one depends on the transaction, so a thousand enqueues in one cause one wake-up. A worker that
-- falls asleep at this very moment is missed, and looks again by itself a little later.
-- The word 'ready' says that there is nothing to look after but the queue.
-- In: one message. Out: nothing.
WITH added AS (
  INSERT INTO pgtasks.message (id, priority, root, parent, expires, name, queue, task_id, group_id,
                               content_type, content_encoding, options, payload, max_deliveries)
  VALUES (%(id)s, %(priority)s, %(root)s, %(parent)s,
          coalesce(%(expires)s::timestamptz, pgtasks.clock() + %(expires_in)s::float8 * interval '1 second'),
          %(name)s, %(queue)s, %(task_id)s, %(group_id)s,
          %(content_type)s, %(content_encoding)s, %(options)s, %(payload)s, %(max_deliveries)s)
  ON CONFLICT (id) DO NOTHING
  RETURNING id, queue, priority
),
now AS (
  INSERT INTO pgtasks.ready (id, queue, rank)
  SELECT id, queue, -priority FROM added
)
SELECT pg_notify('pgtasks_worker_' || i.worker, 'ready')
FROM (
  SELECT worker FROM pgtasks.idle WHERE queue = %(queue)s
  ORDER BY hashtextextended(worker::text, pg_current_xact_id()::text::bigint) LIMIT 1
) i
WHERE pg_notification_queue_usage() < 0.5

-- name: enqueue
-- Add any number of tasks, of any kind, with the edges between them, all or nothing.
-- Predecessors of the same call, and those named as running, have not ended yet; others must have, and are not waited for.
-- Edges of tasks that exist are not written.
-- The countdown of a task with predecessors counts from its release. It wakes idle workers as `enqueue_one` does, one per
-- task at most.
-- All of it may have been sent before, and then nothing changes. An edge between a task that was and one that was not, or
-- from one that was to a running task that is to wait for it, would never be counted down: it breaks
-- waiting_pending_not_negative, and nothing is sent.
-- Limited tasks that could run at once are held, and then let in as far as their flows allow; without `lets_in` by somebody
-- else, who finds what knocks: then no lock of a flow is taken. A role that may only send leaves it to others as well.
-- In: one array per column; edges as three arrays; limited tasks with their flows and keys. Out: nothing.
WITH item AS (
  SELECT *
  FROM unnest(%(ids)b::uuid[], %(names)b::text[], %(queues)b::text[], %(priorities)b::smallint[], %(payloads)b::bytea[],
              %(content_types)b::text[], %(content_encodings)b::text[], %(options)b::bytea[],
              %(dues)b::timestamptz[], %(countdowns)b::float8[], %(expires)b::timestamptz[], %(expires_in)b::float8[],
              %(roots)b::uuid[], %(parents)b::uuid[], %(group_ids)b::text[], %(task_ids)b::text[],
              %(max_deliveries)b::smallint[], %(inputs)b::text[], %(triggers)b::text[])
       WITH ORDINALITY
       AS i(id, name, queue, priority, payload, content_type, content_encoding, options, due, countdown, expires,
            expires_in, root, parent, group_id, task_id, max_deliveries, inputs, trigger, place)
),
link AS (
  SELECT * FROM unnest(%(succs)b::uuid[], %(preds)b::uuid[], %(positions)b::int[]) AS l(succ, pred, position)
),
bound AS (
  SELECT succ FROM link WHERE pred IN (SELECT id FROM item) OR pred = ANY (%(running)b::uuid[])
),
added AS (
  INSERT INTO pgtasks.message (id, priority, max_deliveries, has_successors, inputs, trigger, root, parent, due, countdown, expires,
                               name, queue, task_id, group_id, content_type, content_encoding, options, payload)
  SELECT id, priority, max_deliveries, id IN (SELECT pred FROM link), inputs, trigger, root, parent,
         CASE WHEN inputs IS NULL THEN coalesce(due, pgtasks.clock() + countdown * interval '1 second') ELSE due END,
         countdown,
         coalesce(expires, pgtasks.clock() + expires_in * interval '1 second'),
         name, queue, task_id, group_id, content_type, content_encoding, options, payload
  FROM item
  ORDER BY place
  ON CONFLICT (id) DO NOTHING
  RETURNING id, queue, priority, due
),
linked AS (
  INSERT INTO pgtasks.edge (succ, pred, position)
  SELECT l.succ, l.pred, l.position FROM link l JOIN added a ON a.id = l.succ
  RETURNING succ, pred
),
torn AS (
  SELECT succ FROM link
  WHERE pred IN (SELECT id FROM item)
    AND CASE WHEN succ IN (SELECT id FROM item) THEN (succ IN (SELECT id FROM added)) <> (pred IN (SELECT id FROM added))
             ELSE succ = ANY (%(running)b::uuid[]) AND pred NOT IN (SELECT id FROM added) END
),
held AS (
  INSERT INTO pgtasks.waiting (id, pending)
  SELECT succ, count(*) FROM linked
  WHERE pred IN (SELECT id FROM item) OR pred = ANY (%(running)b::uuid[])
  GROUP BY succ
  UNION ALL
  SELECT succ, -1 FROM torn
  RETURNING id
),
later AS (
  INSERT INTO pgtasks.scheduled (id, due, rank, queue)
  SELECT id, due, -priority, queue FROM added
  WHERE due > pgtasks.clock() AND id NOT IN (SELECT succ FROM bound)
  RETURNING id
),
now AS (
  INSERT INTO pgtasks.ready (id, queue, rank)
  SELECT a.id, a.queue, -a.priority
  -- An id that is twice in one call is one task.
  FROM added a JOIN (SELECT id, min(place) AS place FROM item GROUP BY id) i ON i.id = a.id
  WHERE (a.due IS NULL OR a.due <= pgtasks.clock()) AND a.id NOT IN (SELECT succ FROM bound)
    AND a.id NOT IN (SELECT unnest(%(limited)b::uuid[]))
  ORDER BY i.place
),
limited AS (
  INSERT INTO pgtasks.held (id, flow, key, rank, queue)
  SELECT a.id, l.flow, l.key, -a.priority, a.queue
  FROM added a
  JOIN unnest(%(limited)b::uuid[], %(flows)b::text[], %(flow_keys)b::text[]) WITH ORDINALITY AS l(id, flow, key, place)
    ON l.id = a.id
  WHERE (a.due IS NULL OR a.due <= pgtasks.clock()) AND a.id NOT IN (SELECT succ FROM bound)
  ORDER BY l.place
  RETURNING flow, key, rank, seq
),
came AS (
  SELECT flow, key, rank, min(seq) AS front, %(lets_in)s AND has_table_privilege('pgtasks.held', 'DELETE') AS is_let_in
  FROM limited GROUP BY flow, key, rank
),
knocked AS (
  INSERT INTO pgtasks.knock (flow, key, rank, front)
  SELECT flow, key, rank, front FROM came WHERE NOT is_let_in ORDER BY front RETURNING flow
)
SELECT pgtasks.let_in(flow, keys, ranks, fronts)::text
FROM (
  SELECT flow, array_agg(key) AS keys, array_agg(rank) AS ranks, array_agg(front) AS fronts
  FROM came WHERE is_let_in GROUP BY flow ORDER BY flow
) c
UNION ALL
SELECT pg_notify('pgtasks_worker_' || i.worker,
                 CASE WHEN EXISTS (SELECT FROM later) OR EXISTS (SELECT FROM knocked) THEN '' ELSE 'ready' END)::text
FROM (
  SELECT worker FROM pgtasks.idle WHERE queue = ANY (%(queues)b)
  GROUP BY worker
  ORDER BY hashtextextended(worker::text, pg_current_xact_id()::text::bigint) LIMIT cardinality(%(ids)b::uuid[])
) i
WHERE pg_notification_queue_usage() < 0.5

-- name: enqueue_line
-- Add a plain chain: each task waits for the one before it alone, and the first may run at once. It is what `enqueue` would do,
-- at two thirds of its price, since it enters only the tables that a chain needs.
-- Sent again, it changes nothing; with some of its tasks there and others not, the chain would stop between them: that breaks
-- waiting_pending_not_negative, and nothing is sent. If the first one is still under way somewhere, this one waits for it
-- and then fails on message_pkey, which counts as passing, so that it is sent once more. It wakes one idle worker.
-- Relies on message_pkey. In: one array per column, in order. Out: nothing.
WITH item AS (
  SELECT *
  FROM unnest(%(ids)b::uuid[], %(names)b::text[], %(queues)b::text[], %(priorities)b::smallint[], %(payloads)b::bytea[],
              %(content_types)b::text[], %(content_encodings)b::text[], %(options)b::bytea[],
              %(expires)b::timestamptz[], %(expires_in)b::float8[], %(roots)b::uuid[], %(parents)b::uuid[], %(group_ids)b::text[],
              %(task_ids)b::text[], %(max_deliveries)b::smallint[], %(inputs)b::text[])
       WITH ORDINALITY
       AS i(id, name, queue, priority, payload, content_type, content_encoding, options, expires, expires_in, root, parent,
            group_id, task_id, max_deliveries, inputs, place)
),
there AS (
  SELECT count(*) AS count FROM pgtasks.message WHERE id = ANY (%(ids)b::uuid[])
),
added AS (
  INSERT INTO pgtasks.message (id, priority, max_deliveries, has_successors, inputs, root, parent, expires, name, queue, task_id,
                               group_id, content_type, content_encoding, options, payload)
  SELECT id, priority, max_deliveries, place < cardinality(%(ids)b::uuid[]), inputs, root, parent,
         coalesce(expires, pgtasks.clock() + expires_in * interval '1 second'),
         name, queue, task_id, group_id, content_type, content_encoding, options, payload
  FROM item
  WHERE (SELECT count FROM there) = 0
  RETURNING id
),
fresh AS (
  -- Asked for by all that follows, so that it is message_pkey on which one that is sent twice at once fails.
  SELECT count(*) > 0 AS is_fresh FROM added
),
linked AS (
  INSERT INTO pgtasks.edge (succ, pred, position)
  SELECT id, (%(ids)b::uuid[])[place::int - 1], 0 FROM item WHERE place > 1 AND (SELECT is_fresh FROM fresh)
),
held AS (
  INSERT INTO pgtasks.waiting (id, pending)
  SELECT id, CASE WHEN (SELECT is_fresh FROM fresh) THEN 1 ELSE -1 END FROM item
  WHERE place > 1 AND ((SELECT is_fresh FROM fresh) OR (SELECT count FROM there) < cardinality(%(ids)b::uuid[]))
),
now AS (
  INSERT INTO pgtasks.ready (id, queue, rank)
  SELECT id, queue, -priority FROM item WHERE place = 1 AND (SELECT is_fresh FROM fresh)
)
SELECT pg_notify('pgtasks_worker_' || i.worker, 'ready')
FROM (
  SELECT worker FROM pgtasks.idle WHERE queue = (%(queues)b::text[])[1]
  ORDER BY hashtextextended(worker::text, pg_current_xact_id()::text::bigint) LIMIT 1
) i
WHERE pg_notification_queue_usage() < 0.5

-- name: enqueue_many
-- Add many calls of one task that may run at once, alike but for their ids, arguments and perhaps options: what a bulk
-- enqueue and a plain group send, about a thousand at a time. It wakes idle workers as `enqueue` does.
-- Sent again, it changes nothing. Not by ON CONFLICT, which inserts row by row and costs the server a third more: those
-- that are there are left out. If the first one is still under way somewhere, this one waits for it and then fails on
-- message_pkey, which counts as passing, so that it is sent once more. COPY would save 100 bytes of WAL per task and no
-- time, and has no way to be sent twice. Moments are asked for once, not per row. Those that are there are looked up by
-- = ANY: as an anti-join, planned while the table is empty, they would be looked for in all of it. Relies on message_pkey.
-- In: ids and payloads as arrays; options as an array, or none and one value for all; the rest once. Out: nothing.
WITH added AS (
  INSERT INTO pgtasks.message (id, created_at, priority, root, parent, expires, name, queue, group_id,
                               content_type, content_encoding, options, payload, max_deliveries)
  SELECT i.id, (SELECT pgtasks.clock()), %(priority)s::smallint, %(root)s::uuid, %(parent)s::uuid,
         (SELECT coalesce(%(expires)s::timestamptz, pgtasks.clock() + %(expires_in)s::float8 * interval '1 second')),
         %(name)s::text, %(queue)s::text, %(group_id)s::text,
         %(content_type)s::text, %(content_encoding)s::text, coalesce(i.options, %(options)s::bytea), i.payload,
         %(max_deliveries)s::smallint
  FROM unnest(%(ids)s::uuid[], %(payloads)s::bytea[], %(each_options)s::bytea[]) AS i(id, payload, options)
  WHERE i.id <> ALL (ARRAY(SELECT m.id FROM pgtasks.message m WHERE m.id = ANY (%(ids)s::uuid[])))
  RETURNING id
),
now AS (
  INSERT INTO pgtasks.ready (id, queue, rank)
  SELECT id, %(queue)s::text, -%(priority)s::smallint FROM added
)
SELECT pg_notify('pgtasks_worker_' || i.worker, 'ready')
FROM (
  SELECT worker FROM pgtasks.idle WHERE queue = %(queue)s::text
  GROUP BY worker
  ORDER BY hashtextextended(worker::text, pg_current_xact_id()::text::bigint) LIMIT cardinality(%(ids)s::uuid[])
) i
WHERE pg_notification_queue_usage() < 0.5

-- name: finish
-- Settle plain successes: those that nothing waits for but perhaps a caller, which are most. `settle` is for all other
-- outcomes. Deleting the claim is the fence: one that another worker took over, or that ended, does not match and stores
-- nothing. The claims are found by = ANY and not by a join: the planner takes this table for empty and would read all of its
-- index.
-- Whoever waits for one of the results is told as the statement commits; a batch is small enough for its ids to fit in a
-- notification, which may have 7,999 bytes. Who waits for one of them alone is told the result with it, where it is short, and
-- need not ask: a row of `Stored` as JSON. The channel has the name of the process, which only those know who may read results.
-- Relies on claim_pkey, result_pkey, waiter_pkey, message_pkey. Locks: claim.
-- In: worker, hostname, outcomes as arrays. Out: the number of outcomes that were really settled.
WITH outcome AS (
  SELECT * FROM unnest(%(ids)b::uuid[], %(values)b::bytea[], %(hidden)b::boolean[]) AS o(id, value, hidden)
),
ended AS (
  DELETE FROM pgtasks.claim
  WHERE id = ANY (%(ids)b::uuid[]) AND worker = %(worker)s
    AND delivery = (%(deliveries)b::int[])[array_position(%(ids)b::uuid[], id)]
  RETURNING id, claimed_at, retries, delivery
),
stored AS (
  INSERT INTO pgtasks.result (id, claimed_at, retries, delivery, hidden, state, worker, value)
  SELECT e.id, e.claimed_at, e.retries, e.delivery, o.hidden, 'SUCCESS', %(hostname)s, o.value
  FROM outcome o JOIN ended e ON e.id = o.id
  ON CONFLICT (id) DO NOTHING
  RETURNING id, done_at, retries, hidden, value
),
waiters AS (
  DELETE FROM pgtasks.waiter
  WHERE id = ANY (ARRAY(SELECT id FROM ended)) AND pg_notification_queue_usage() < 0.5
  RETURNING id, process
),
word AS (
  SELECT w.process, w.id,
         CASE WHEN octet_length(s.value) < 4000 AND NOT s.hidden
              THEN json_build_array(w.id, s.done_at, s.retries, %(hostname)s::text, m.task_id, m.name, m.queue,
                                    m.group_id, m.parent, encode(s.value, 'hex'))::text
         END AS said
  FROM waiters w LEFT JOIN stored s ON s.id = w.id
  LEFT JOIN LATERAL (SELECT * FROM pgtasks.message WHERE id = w.id OFFSET 0) m ON true
),
told AS (
  SELECT pg_notify('pgtasks_waiter_' || process,
                   CASE WHEN count(*) = 1 AND octet_length(min(said)) < 8000 THEN min(said) ELSE string_agg(id::text, ',') END)
  FROM word GROUP BY process
)
SELECT (SELECT count(*) FROM ended), (SELECT count(*) FROM told)

-- name: claim
-- Lease up to `limit` ready tasks: the most urgent first, then in the order of their return to the queue. A worker with
-- something to settle sends `finish` before it, in the same round trip and commit.
-- Each lane is a queue from a cursor (lo, seq) up to rank hi: the cursor keeps the scan off the dead entries that an old
-- snapshot holds back. A sweep is the same with the cursor at the start. Rows are locked and skipped in a materialised CTE, so
-- never more than asked are taken, then deleted by ctid, which is safe since ready rows are never updated. An unregistered
-- worker gets nothing.
-- With `may_lag` the commit does not wait for the disk: a crash of the server may undo such a claim, and the task
-- is ready again. What a worker reports under a claim that is gone is not taken; at-most-once tasks begin after `ack`,
-- whose commit makes the claim durable with it.
-- Relies on ready_pkey, message_pkey. Locks: ready.
-- In: worker, lanes as arrays, limit, may_lag. Out: one row per claim.
WITH lane AS (
  SELECT * FROM unnest(%(queues)b::text[], %(los)b::smallint[], %(seqs)b::bigint[], %(his)b::smallint[])
                AS l(queue, lo, seq, hi)
),
picked AS MATERIALIZED (
  SELECT r.at
  FROM lane CROSS JOIN LATERAL (
    SELECT ready.ctid AS at FROM pgtasks.ready
    WHERE ready.queue = lane.queue AND (ready.rank, ready.seq) >= (lane.lo, lane.seq) AND ready.rank <= lane.hi
    ORDER BY ready.rank, ready.seq
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
  ) r
  WHERE EXISTS (SELECT FROM pgtasks.worker WHERE id = %(worker)s)
  LIMIT %(limit)s
),
taken AS (
  DELETE FROM pgtasks.ready WHERE ctid = ANY (ARRAY(SELECT at FROM picked))
  RETURNING id, seq, rank, delivery, retries, losses
),
found AS MATERIALIZED (
  SELECT m.id, t.delivery + 1 AS delivery, t.retries, t.rank, t.seq, t.losses,
         CASE
           WHEN EXISTS (SELECT FROM pgtasks.revoked r WHERE r.id = t.id) THEN 'revoked'
           WHEN m.expires <= pgtasks.clock() THEN 'expired'
           WHEN t.losses >= coalesce(m.max_deliveries, %(max_deliveries)s) THEN 'lost'
           ELSE 'live'
         END AS fate,
         m.name, m.queue, m.content_type, m.content_encoding, m.payload, m.options, m.root, m.parent, m.group_id,
         m.task_id, m.due, m.expires, m.inputs, m.trigger, m.has_successors
  FROM taken t CROSS JOIN LATERAL (SELECT * FROM pgtasks.message WHERE id = t.id OFFSET 0) m
),
leased AS (
  -- The mark of a revoked task goes on in its claim, so that it comes back with the task should this worker die.
  INSERT INTO pgtasks.claim (id, worker, claimed_at, retries, delivery, losses, revoke_signal)
  SELECT id, %(worker)s, pgtasks.clock(), retries, delivery, losses, CASE WHEN fate = 'revoked' THEN '' END FROM found
),
unheld AS (
  DELETE FROM pgtasks.waiting WHERE id = ANY (ARRAY(SELECT id FROM found WHERE inputs IS NOT NULL))
),
unmarked AS (
  DELETE FROM pgtasks.revoked WHERE id = ANY (ARRAY(SELECT id FROM found WHERE fate = 'revoked'))
)
SELECT f.*, i.states, i.types, i.encodings, i.vals,
       CASE WHEN %(may_lag)s THEN set_config('synchronous_commit', 'off', true) END
FROM found f
LEFT JOIN LATERAL (
  SELECT array_agg(r.state ORDER BY e.position) AS states,
         array_agg(r.content_type ORDER BY e.position) AS types,
         array_agg(r.content_encoding ORDER BY e.position) AS encodings,
         array_agg(r.value ORDER BY e.position) AS vals
  FROM pgtasks.edge e CROSS JOIN LATERAL (SELECT * FROM pgtasks.result WHERE id = e.pred OFFSET 0) r
  -- Asked here and not in the join: most tasks have no inputs, and need not look for edges.
  WHERE e.succ = f.id AND f.inputs IN ('value', 'list')
) i ON true
ORDER BY f.rank, f.seq

-- name: settle
-- End claimed tasks in every way there is, with all that follows from it, in one statement:
--   done     the result is stored; what waits for it has one predecessor less, and is released at none left; after a
--            failure only where its trigger says so, and the tasks that can no longer run (`dead_*`) fail with it
--   again    scheduled anew as a retry; other arguments, when it asked for them, replace the message's
--   back     returned to the queue as it was, at once or after a delay
-- Only rows that were really ended count, so a duplicated completion changes nothing and nothing is released twice.
-- A success that comes too late, since the task was revoked or failed from outside while it ran, releases nobody: the task
-- goes back, marked as revoked, for a worker to fail what waits for it. So does a task that was revoked and is not over, at
-- once: its result is stored here, since no worker may have room for it for long.
-- A worker with nothing else to do (`room`) takes tasks that it alone releases, which saves a chain a round trip per link.
-- Limited tasks give up their places, to those who wait for them.
-- Locks: claim by id, then waiting by id, then flows by name. Relies on claim_pkey, result_pkey, edge_pred, waiting_pkey.
-- In: worker, hostname, arrays of outcomes and of dead tasks, the worker's queues and room. Out: one row per task taken, each
-- with the ids that were really ended, and in how many seconds the first is due of what it released and is not due yet, or 0;
-- one row of NULLs and these when none was taken.
WITH outcome AS (
  SELECT * FROM unnest(%(ids)b::uuid[], %(deliveries)b::int[], %(kinds)b::text[], %(states)b::text[],
                       %(values)b::bytea[], %(content_types)b::text[], %(content_encodings)b::text[],
                       %(tracebacks)b::bytea[], %(children)b::bytea[], %(hidden)b::boolean[],
                       %(dues)b::timestamptz[], %(delays)b::float8[], %(retries)b::int[], %(losses)b::smallint[])
                AS o(id, delivery, kind, state, value, content_type, content_encoding, traceback, children, hidden,
                     due, delay, next_retries, next_losses)
),
owned AS MATERIALIZED (
  SELECT id FROM pgtasks.claim
  WHERE id = ANY (%(ids)b::uuid[]) AND worker = %(worker)s
    AND delivery = (%(deliveries)b::int[])[array_position(%(ids)b::uuid[], id)]
  ORDER BY id
  FOR UPDATE
),
let_go AS (
  DELETE FROM pgtasks.claim WHERE id = ANY (ARRAY(SELECT id FROM owned))
  RETURNING id, claimed_at, retries, delivery, revoke_signal
),
ended AS MATERIALIZED (
  SELECT c.claimed_at, c.retries, c.revoke_signal, o.* FROM outcome o JOIN let_go c ON c.id = o.id
),
stored AS (
  INSERT INTO pgtasks.result (id, claimed_at, retries, delivery, hidden, state, worker, content_type, content_encoding,
                              value, traceback, children)
  SELECT id, claimed_at, retries, delivery, hidden, state, %(hostname)s, content_type, content_encoding,
         value, traceback, children
  FROM ended WHERE kind = 'done'
  ON CONFLICT (id) DO NOTHING
  RETURNING id, state
),
changed AS (
  UPDATE pgtasks.message m
  SET payload = n.payload, content_type = n.content_type, content_encoding = n.content_encoding, options = n.options,
      queue = n.queue, priority = n.priority, inputs = NULL,
      expires = coalesce(n.expires, pgtasks.clock() + n.expires_in * interval '1 second')
  FROM unnest(%(new_ids)b::uuid[], %(new_payloads)b::bytea[], %(new_content_types)b::text[],
              %(new_content_encodings)b::text[], %(new_options)b::bytea[], %(new_queues)b::text[],
              %(new_priorities)b::smallint[], %(new_expires)b::timestamptz[], %(new_expires_in)b::float8[])
       AS n(id, payload, content_type, content_encoding, options, queue, priority, expires, expires_in)
  WHERE m.id = n.id AND m.id IN (SELECT id FROM ended WHERE kind = 'again')
  RETURNING m.id, m.queue, m.priority
),
place AS MATERIALIZED (
  SELECT e.id, e.next_retries AS retries, e.next_losses AS losses, e.delivery, coalesce(c.queue, m.queue) AS queue,
         -coalesce(c.priority, m.priority) AS rank,
         CASE WHEN e.revoke_signal IS NULL THEN coalesce(e.due, pgtasks.clock() + e.delay * interval '1 second') END AS due
  FROM ended e CROSS JOIN LATERAL (SELECT * FROM pgtasks.message WHERE id = e.id OFFSET 0) m
  LEFT JOIN changed c ON c.id = e.id
  WHERE e.kind <> 'done'
),
again AS (
  INSERT INTO pgtasks.scheduled (id, due, retries, rank, delivery, losses, queue)
  SELECT id, due, retries, rank, delivery, losses, queue FROM place WHERE due > pgtasks.clock()
),
noted AS (
  INSERT INTO pgtasks.progress (id, state, worker, content_type, content_encoding, value, traceback, children)
  SELECT id, state, %(hostname)s, content_type, content_encoding, value, traceback, children
  FROM ended WHERE kind = 'again' AND NOT hidden
  ON CONFLICT (id) DO UPDATE
  SET at = pgtasks.clock(), state = excluded.state, worker = excluded.worker, content_type = excluded.content_type,
      content_encoding = excluded.content_encoding, value = excluded.value, traceback = excluded.traceback,
      children = excluded.children
),
doomed AS MATERIALIZED (
  SELECT d.id FROM unnest(%(dead_ids)b::uuid[], %(dead_preds)b::uuid[]) AS d(id, pred)
  WHERE d.pred IN (SELECT id FROM ended)
),
dead AS (
  DELETE FROM pgtasks.waiting WHERE id = ANY (ARRAY(SELECT id FROM doomed)) RETURNING id
),
failed AS (
  INSERT INTO pgtasks.result (id, state, hidden, worker, value, traceback, children)
  SELECT d.id, d.state, d.hidden, %(hostname)s, d.value, d.traceback, d.children
  FROM unnest(%(dead_ids)b::uuid[], %(dead_states)b::text[], %(dead_hidden)b::boolean[], %(dead_values)b::bytea[],
              %(dead_tracebacks)b::bytea[], %(dead_children)b::bytea[])
       AS d(id, state, hidden, value, traceback, children)
  WHERE d.id IN (SELECT id FROM dead)
  ON CONFLICT (id) DO NOTHING
  RETURNING id
),
succeeded AS MATERIALIZED (
  SELECT id FROM stored WHERE state = 'SUCCESS' AND id = ANY (%(preds)b::uuid[])
  UNION
  SELECT r.id FROM pgtasks.result r JOIN ended e ON e.id = r.id
  WHERE r.id = ANY (%(preds)b::uuid[]) AND e.kind = 'done' AND e.state = 'SUCCESS' AND r.state = 'SUCCESS'
),
overruled AS MATERIALIZED (
  SELECT id, delivery, retries FROM ended
  WHERE id = ANY (%(preds)b::uuid[]) AND kind = 'done' AND state = 'SUCCESS' AND id NOT IN (SELECT id FROM succeeded)
),
withdrawn AS (
  INSERT INTO pgtasks.result (id, state, value)
  SELECT id, 'REVOKED', convert_to(
    '{"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "pgtasks.exceptions"}', 'UTF8')
  FROM ended WHERE kind <> 'done' AND revoke_signal IS NOT NULL
  ON CONFLICT (id) DO NOTHING
  RETURNING id
),
marked AS (
  INSERT INTO pgtasks.revoked (id)
  SELECT id FROM overruled
  UNION
  SELECT id FROM ended WHERE kind <> 'done' AND revoke_signal IS NOT NULL
  ON CONFLICT (id) DO NOTHING
),
over AS MATERIALIZED (
  SELECT id, true AS is_success FROM succeeded
  UNION ALL
  -- Also where the end was there before, since the task was revoked.
  SELECT id, false FROM ended WHERE kind = 'done' AND state <> 'SUCCESS' AND id = ANY (%(preds)b::uuid[])
  UNION ALL
  SELECT id, false FROM failed
),
counted AS MATERIALIZED (
  SELECT e.succ AS id, count(*)::int AS n, coalesce(m.trigger, '') = 'any' AND bool_or(o.is_success) AS is_enough
  FROM over o CROSS JOIN LATERAL (SELECT * FROM pgtasks.edge WHERE pred = o.id OFFSET 0) e
  CROSS JOIN LATERAL (SELECT * FROM pgtasks.message WHERE id = e.succ OFFSET 0) m
  -- One statement can change a row once: what fails here is not released here.
  WHERE (o.is_success OR m.trigger IS NOT NULL) AND e.succ NOT IN (SELECT id FROM doomed)
  GROUP BY e.succ, m.trigger
),
locked AS MATERIALIZED (
  SELECT w.id, c.n, c.is_enough FROM pgtasks.waiting w JOIN counted c ON c.id = w.id
  WHERE w.id = ANY (ARRAY(SELECT id FROM counted)) AND w.pending > 0
  ORDER BY w.id FOR UPDATE OF w
),
lowered AS (
  UPDATE pgtasks.waiting w SET pending = CASE WHEN l.is_enough THEN 0 ELSE w.pending - l.n END
  FROM locked l WHERE w.id = l.id AND w.id = ANY (ARRAY(SELECT id FROM locked))
  RETURNING w.id, w.pending, w.delivery, l.n
),
freed AS MATERIALIZED (
  SELECT m.id, m.queue, m.priority, m.trigger, l.n, l.delivery,
         coalesce(m.due, pgtasks.clock() + m.countdown * interval '1 second') AS due
  FROM lowered l CROSS JOIN LATERAL (SELECT * FROM pgtasks.message WHERE id = l.id OFFSET 0) m
  WHERE l.pending = 0
),
mine AS MATERIALIZED (
  SELECT id, delivery + 1 AS delivery FROM freed
  WHERE (due IS NULL OR due <= pgtasks.clock()) AND queue = ANY (%(queues)b::text[]) AND trigger IS NULL
    -- Of another settle, whose lock on the row this one had to wait for, only the new count is seen here and not the
    -- results: the count from before gives that away. A claim, which begins later, sees them.
    AND n = (SELECT w.pending FROM pgtasks.waiting w WHERE w.id = freed.id)
  ORDER BY priority DESC, id LIMIT %(room)s
),
leased AS (
  INSERT INTO pgtasks.claim (id, worker, claimed_at, retries, delivery)
  SELECT id, %(worker)s, pgtasks.clock(), 0, delivery FROM mine
),
taken AS MATERIALIZED (
  SELECT m.id, mine.delivery, 0 AS retries, -m.priority AS rank, 0::bigint AS seq, 0::smallint AS losses,
         CASE WHEN m.expires <= pgtasks.clock() THEN 'expired' ELSE 'live' END AS fate,
         m.name, m.queue, m.content_type, m.content_encoding, m.payload, m.options, m.root, m.parent, m.group_id,
         m.task_id, m.due, m.expires, m.inputs, m.trigger, m.has_successors
  FROM mine CROSS JOIN LATERAL (SELECT * FROM pgtasks.message WHERE id = mine.id OFFSET 0) m
),
later AS (
  INSERT INTO pgtasks.scheduled (id, due, rank, delivery, queue)
  SELECT id, due, -priority, delivery, queue FROM freed WHERE due > pgtasks.clock()
),
returned AS (
  INSERT INTO pgtasks.ready (id, queue, rank, delivery, retries, losses)
  SELECT id, queue, rank, delivery, retries, losses FROM place WHERE due IS NULL OR due <= pgtasks.clock()
  UNION ALL
  SELECT id, queue, -priority, delivery, 0, 0 FROM freed
  WHERE (due IS NULL OR due <= pgtasks.clock()) AND id NOT IN (SELECT id FROM mine)
  UNION ALL
  SELECT o.id, m.queue, -m.priority, o.delivery, o.retries, 0
  FROM overruled o CROSS JOIN LATERAL (SELECT * FROM pgtasks.message WHERE id = o.id OFFSET 0) m
),
waiters AS (
  DELETE FROM pgtasks.waiter
  WHERE id = ANY (ARRAY(SELECT id FROM stored UNION ALL SELECT id FROM withdrawn) || %(dead_ids)b::uuid[])
    AND pg_notification_queue_usage() < 0.5
  RETURNING id, process
),
told AS (
  SELECT pg_notify('pgtasks_waiter_' || process, CASE WHEN count(*) <= 200 THEN string_agg(id::text, ',') ELSE '' END)
  FROM waiters GROUP BY process
),
roused AS (
  -- Workflow runs that made these tasks. Those of runs have successors, so that nobody else's end looks here.
  SELECT pgtasks.wake_for_tasks(a.run, a.tasks)
  FROM (
    SELECT run, array_agg(task) AS tasks FROM pgtasks.awaited
    WHERE task = ANY (ARRAY(
      SELECT id FROM ended WHERE kind = 'done' AND id = ANY (%(preds)b::uuid[]) UNION ALL SELECT id FROM failed))
    GROUP BY run ORDER BY run
  ) a
),
departed AS (
  SELECT pgtasks.leave_flow(ARRAY(SELECT id FROM ended WHERE id = ANY (%(limited)b::uuid[])))
  WHERE cardinality(%(limited)b::uuid[]) > 0
),
woken AS (
  SELECT pg_notify('pgtasks_worker_' || i.worker, '')
  FROM (
    SELECT worker FROM pgtasks.idle
    WHERE worker <> %(worker)s AND queue IN (SELECT queue FROM freed WHERE id NOT IN (SELECT id FROM mine))
    GROUP BY worker ORDER BY random() LIMIT (SELECT count(*) FROM freed)
  ) i
  WHERE pg_notification_queue_usage() < 0.5
)
SELECT t.*, i.states, i.types, i.encodings, i.vals, one.told, one.later_s, one.ended
FROM (
  SELECT ARRAY(SELECT id FROM ended) AS ended,
         (SELECT count(*) FROM told) + (SELECT count(*) FROM woken) + (SELECT count(*) FROM roused)
           + (SELECT count(*) FROM departed) AS told,
         (SELECT coalesce(min(extract(epoch FROM due - pgtasks.clock())), 0)::float8 FROM freed
          WHERE due > pgtasks.clock()) AS later_s
) one
LEFT JOIN taken t ON true
LEFT JOIN LATERAL (
  SELECT array_agg(v.state ORDER BY e.position) AS states,
         array_agg(v.content_type ORDER BY e.position) AS types,
         array_agg(v.content_encoding ORDER BY e.position) AS encodings,
         array_agg(v.value ORDER BY e.position) AS vals
  FROM pgtasks.edge e CROSS JOIN LATERAL (
    SELECT r.state, r.content_type, r.content_encoding, r.value FROM pgtasks.result r WHERE r.id = e.pred
    UNION ALL
    -- Results stored by this very statement are not in the table yet for it.
    SELECT n.state, n.content_type, n.content_encoding, n.value FROM ended n
    WHERE n.id = e.pred AND n.id IN (SELECT id FROM stored)
  ) v
  WHERE e.succ = t.id
) i ON t.inputs IN ('value', 'list')
ORDER BY t.rank, t.id

-- name: release
-- End successes that others wait for, release those that wait for nothing else, and take up to `room` of them: `settle` for
-- the one thing that a canvas does all the time, at half its price, since every table that a statement may write costs it
-- time whether it writes or not.
-- A result that is there already (the task was revoked while it ran) breaks result_pkey and nothing is done: such an outcome
-- is for `settle`.
-- When all that it releases is taken and nobody is told, the commit does not wait for the disk if `may_lag`: what the worker
-- settles next does, and comes later in the log. A crash of the server may undo the whole of it, and the claim is there
-- again; the worker, whose connection broke, disowns it (see `disown`). Tasks that run at most once are waited for.
-- Locks: claim, then waiting by id. Relies on claim_pkey, result_pkey, edge_pred, waiting_pkey, message_pkey.
-- In: worker, hostname, outcomes as arrays, the worker's queues, room, may_lag. Out: as of `settle`.
WITH outcome AS (
  SELECT * FROM unnest(%(ids)b::uuid[], %(values)b::bytea[], %(content_types)b::text[], %(content_encodings)b::text[],
                       %(children)b::bytea[], %(hidden)b::boolean[])
                AS o(id, value, content_type, content_encoding, children, hidden)
),
ended AS (
  DELETE FROM pgtasks.claim
  WHERE id = ANY (%(ids)b::uuid[]) AND worker = %(worker)s
    AND delivery = (%(deliveries)b::int[])[array_position(%(ids)b::uuid[], id)]
  RETURNING id, claimed_at, retries, delivery, acked
),
stored AS (
  INSERT INTO pgtasks.result (id, claimed_at, retries, delivery, hidden, state, worker, content_type, content_encoding,
                              value, children)
  SELECT e.id, e.claimed_at, e.retries, e.delivery, o.hidden, 'SUCCESS', %(hostname)s, o.content_type,
         o.content_encoding, o.value, o.children
  FROM outcome o JOIN ended e ON e.id = o.id
  RETURNING id
),
counted AS (
  SELECT e.succ AS id, count(*)::int AS n
  FROM stored s CROSS JOIN LATERAL (SELECT succ FROM pgtasks.edge WHERE pred = s.id OFFSET 0) e
  GROUP BY e.succ
),
locked AS MATERIALIZED (
  SELECT w.id, c.n FROM pgtasks.waiting w JOIN counted c ON c.id = w.id
  WHERE w.id = ANY (ARRAY(SELECT id FROM counted)) AND w.pending > 0
  ORDER BY w.id FOR UPDATE OF w
),
lowered AS (
  UPDATE pgtasks.waiting w
  SET pending = CASE WHEN (SELECT m.trigger FROM pgtasks.message m WHERE m.id = w.id) = 'any' THEN 0 ELSE w.pending - l.n END
  FROM locked l WHERE w.id = l.id AND w.id = ANY (ARRAY(SELECT id FROM locked))
  RETURNING w.id, w.pending, w.delivery, l.n
),
freed AS MATERIALIZED (
  SELECT m.id, m.queue, m.priority, l.n, l.delivery,
         coalesce(m.due, pgtasks.clock() + m.countdown * interval '1 second') AS due, m.trigger, m.name, m.content_type,
         m.content_encoding, m.payload, m.options, m.root, m.parent, m.group_id, m.task_id, m.due AS own_due, m.expires,
         m.inputs, m.has_successors
  FROM lowered l CROSS JOIN LATERAL (SELECT * FROM pgtasks.message WHERE id = l.id OFFSET 0) m
  WHERE l.pending = 0
),
mine AS MATERIALIZED (
  SELECT id, delivery + 1 AS delivery, 0 AS retries, -priority AS rank, 0::bigint AS seq, 0::smallint AS losses,
         CASE WHEN expires <= pgtasks.clock() THEN 'expired' ELSE 'live' END AS fate,
         name, queue, content_type, content_encoding, payload, options, root, parent, group_id, task_id, own_due, expires,
         inputs, trigger, has_successors
  FROM freed
  WHERE (due IS NULL OR due <= pgtasks.clock()) AND queue = ANY (%(queues)b::text[]) AND trigger IS NULL
    -- See `settle`: of another one's results only the count is known here.
    AND n = (SELECT w.pending FROM pgtasks.waiting w WHERE w.id = freed.id)
  ORDER BY priority DESC, id LIMIT %(room)s
),
leased AS (
  INSERT INTO pgtasks.claim (id, worker, claimed_at, retries, delivery)
  SELECT id, %(worker)s, pgtasks.clock(), 0, delivery FROM mine
),
later AS (
  INSERT INTO pgtasks.scheduled (id, due, rank, delivery, queue)
  SELECT id, due, -priority, delivery, queue FROM freed WHERE due > pgtasks.clock()
),
returned AS (
  INSERT INTO pgtasks.ready (id, queue, rank, delivery)
  SELECT id, queue, -priority, delivery FROM freed
  WHERE (due IS NULL OR due <= pgtasks.clock()) AND id NOT IN (SELECT id FROM mine)
),
waiters AS (
  DELETE FROM pgtasks.waiter
  WHERE id = ANY (ARRAY(SELECT id FROM stored)) AND pg_notification_queue_usage() < 0.5
  RETURNING id, process
),
told AS (
  SELECT pg_notify('pgtasks_waiter_' || process, CASE WHEN count(*) <= 200 THEN string_agg(id::text, ',') ELSE '' END)
  FROM waiters GROUP BY process
),
roused AS (
  SELECT pgtasks.wake_for_tasks(a.run, a.tasks)
  FROM (
    SELECT run, array_agg(task) AS tasks FROM pgtasks.awaited
    WHERE task = ANY (ARRAY(SELECT id FROM stored))
    GROUP BY run ORDER BY run
  ) a
),
woken AS (
  SELECT pg_notify('pgtasks_worker_' || i.worker, '')
  FROM (
    SELECT worker FROM pgtasks.idle
    WHERE worker <> %(worker)s AND queue IN (SELECT queue FROM freed WHERE id NOT IN (SELECT id FROM mine))
    GROUP BY worker ORDER BY random() LIMIT (SELECT count(*) FROM freed WHERE id NOT IN (SELECT id FROM mine))
  ) i
  WHERE pg_notification_queue_usage() < 0.5
)
SELECT t.*, i.states, i.types, i.encodings, i.vals, one.commit, one.later_s, one.ended
FROM (
  SELECT ended, CASE WHEN told + roused + woken >= 0 THEN later_s END AS later_s,  -- what nobody asks for is not done
         CASE WHEN %(may_lag)s AND told + roused + woken = 0 AND released = taken AND taken > 0 AND NOT acked
              THEN set_config('synchronous_commit', 'off', true) END AS commit
  FROM (
    SELECT ARRAY(SELECT id FROM ended) AS ended, (SELECT bool_or(acked) FROM ended) AS acked,
           (SELECT count(*) FROM told) AS told, (SELECT count(*) FROM roused) AS roused,
           (SELECT count(*) FROM woken) AS woken,
           (SELECT count(*) FROM freed) AS released, (SELECT count(*) FROM mine) AS taken,
           (SELECT coalesce(min(extract(epoch FROM due - pgtasks.clock())), 0)::float8 FROM freed
            WHERE due > pgtasks.clock()) AS later_s
  ) counts
) one
LEFT JOIN mine t ON true
LEFT JOIN LATERAL (
  SELECT array_agg(v.state ORDER BY e.position) AS states,
         array_agg(v.content_type ORDER BY e.position) AS types,
         array_agg(v.content_encoding ORDER BY e.position) AS encodings,
         array_agg(v.value ORDER BY e.position) AS vals
  FROM pgtasks.edge e CROSS JOIN LATERAL (
    SELECT r.state, r.content_type, r.content_encoding, r.value FROM pgtasks.result r WHERE r.id = e.pred
    UNION ALL
    -- Results stored by this very statement are not in the table yet for it.
    SELECT 'SUCCESS', n.content_type, n.content_encoding, n.value FROM outcome n
    WHERE n.id = e.pred AND n.id IN (SELECT id FROM stored)
  ) v
  WHERE e.succ = t.id
) i ON t.inputs IN ('value', 'list')
ORDER BY t.rank, t.id

-- name: pass_on
-- End a success and take the one task that waits for it alone, and for nothing else: `release` for the link of a chain, at
-- less than half its price, since it enters only the tables that a link needs. Where anything is out of the ordinary (other
-- successors, a trigger, a due time, a queue of others, somebody waiting for this very result, a claim that is not this
-- worker's any more) it changes nothing, and `release` is to be asked. Its commit waits for the disk as that of `release`.
-- Locks: claim, then waiting. Relies on claim_pkey, result_pkey, edge_pred, waiting_pkey, message_pkey, waiter_pkey, awaited_task.
-- In: worker, hostname, the outcome, the worker's queues, may_lag. Out: as of `release`, or no row.
WITH next AS MATERIALIZED (
  SELECT m.id, w.delivery + 1 AS delivery, -m.priority AS rank, m.name, m.queue, m.content_type, m.content_encoding, m.payload,
         m.options, m.root, m.parent, m.group_id, m.task_id, m.due, m.expires, m.inputs, m.trigger, m.has_successors
  FROM (SELECT succ FROM pgtasks.edge WHERE pred = %(id)s OFFSET 0) e
  CROSS JOIN LATERAL (SELECT delivery FROM pgtasks.waiting WHERE id = e.succ AND pending = 1 OFFSET 0) w
  CROSS JOIN LATERAL (SELECT * FROM pgtasks.message WHERE id = e.succ OFFSET 0) m
  WHERE m.queue = ANY (%(queues)s::text[])
    AND m.trigger IS NULL AND m.due IS NULL AND m.countdown IS NULL AND m.inputs IN ('value', 'none')
),
ended AS (
  DELETE FROM pgtasks.claim
  WHERE id = %(id)s AND worker = %(worker)s AND delivery = %(delivery)s
    AND (SELECT count(*) FROM next) = 1
    AND (SELECT count(*) FROM pgtasks.edge WHERE pred = %(id)s) = 1
    AND NOT EXISTS (SELECT FROM pgtasks.waiter WHERE id = %(id)s)
    AND NOT EXISTS (SELECT FROM pgtasks.awaited WHERE task = %(id)s)
  RETURNING id, claimed_at, retries, delivery, acked
),
stored AS (
  INSERT INTO pgtasks.result (id, claimed_at, retries, delivery, hidden, state, worker, content_type, content_encoding,
                              value, children)
  SELECT id, claimed_at, retries, delivery, %(hidden)s::boolean, 'SUCCESS', %(hostname)s, %(content_type)s::text,
         %(content_encoding)s::text, %(value)s::bytea, %(children)s::bytea
  FROM ended
  RETURNING id
),
lowered AS (
  UPDATE pgtasks.waiting SET pending = pending - 1
  WHERE id = (SELECT id FROM next) AND EXISTS (SELECT FROM stored) AND pending > 0
  RETURNING pending
),
leased AS (
  INSERT INTO pgtasks.claim (id, worker, claimed_at, retries, delivery)
  SELECT next.id, %(worker)s, pgtasks.clock(), 0, next.delivery FROM next JOIN lowered ON lowered.pending = 0
  RETURNING id
)
SELECT n.id, n.delivery, 0 AS retries, n.rank, 0::bigint AS seq, 0::smallint AS losses,
       CASE WHEN n.expires <= pgtasks.clock() THEN 'expired' ELSE 'live' END AS fate,
       n.name, n.queue, n.content_type, n.content_encoding, n.payload, n.options, n.root, n.parent, n.group_id, n.task_id,
       n.due, n.expires, n.inputs, n.trigger, n.has_successors,
       CASE WHEN n.inputs = 'value' THEN ARRAY['SUCCESS'] END,
       CASE WHEN n.inputs = 'value' THEN ARRAY[%(content_type)s::text] END,
       CASE WHEN n.inputs = 'value' THEN ARRAY[%(content_encoding)s::text] END,
       CASE WHEN n.inputs = 'value' THEN ARRAY[%(value)s::bytea] END,
       CASE WHEN %(may_lag)s AND NOT ended.acked AND n.id IS NOT NULL THEN set_config('synchronous_commit', 'off', true) END,
       0::bigint, ARRAY[ended.id]
FROM ended LEFT JOIN (next n JOIN leased USING (id)) ON true

-- name: replace
-- Let a claimed task go on as another call, perhaps with predecessors of its own: its row takes the new message and its
-- id, so what waits for it goes on waiting for it. Runs in one transaction with the `enqueue` of the tasks it now waits for.
-- The claim is the fence. In: worker, delivery, the new message, its predecessors in order. Out: 1 if it was ours.
WITH owned AS (
  DELETE FROM pgtasks.claim WHERE id = %(id)s AND worker = %(worker)s AND delivery = %(delivery)s
  RETURNING id, delivery
),
changed AS (
  UPDATE pgtasks.message m
  SET name = %(name)s, payload = %(payload)s, content_type = %(content_type)s, content_encoding = %(content_encoding)s,
      options = %(options)s, queue = %(queue)s, priority = %(priority)s, inputs = %(inputs)s, trigger = %(trigger)s,
      has_successors = m.has_successors OR %(has_successors)s,
      due = coalesce(%(due)s::timestamptz, CASE WHEN %(inputs)s::text IS NULL
                     THEN pgtasks.clock() + %(countdown)s::float8 * interval '1 second' END),
      countdown = %(countdown)s,
      expires = coalesce(%(expires)s::timestamptz, pgtasks.clock() + %(expires_in)s::float8 * interval '1 second')
  FROM owned WHERE m.id = owned.id
  RETURNING m.id, m.queue, m.priority, m.due, owned.delivery
),
unlinked AS (
  -- Without predecessors of its own it stays the child of those that called it.
  DELETE FROM pgtasks.edge
  WHERE succ IN (SELECT id FROM owned) AND position >= cardinality(%(preds)b::uuid[]) AND cardinality(%(preds)b::uuid[]) > 0
),
linked AS (
  INSERT INTO pgtasks.edge (succ, pred, position)
  SELECT o.id, p.pred, p.place - 1 FROM owned o, unnest(%(preds)b::uuid[]) WITH ORDINALITY AS p(pred, place)
  ON CONFLICT (succ, position) DO UPDATE SET pred = excluded.pred
  RETURNING succ
),
held AS (
  -- The row of a task that was released to the worker which now runs it is still there, at 0.
  INSERT INTO pgtasks.waiting (id, pending, delivery)
  SELECT l.succ, count(*), o.delivery FROM linked l JOIN owned o ON o.id = l.succ GROUP BY l.succ, o.delivery
  ON CONFLICT (id) DO UPDATE SET pending = excluded.pending, delivery = excluded.delivery
),
later AS (
  INSERT INTO pgtasks.scheduled (id, due, rank, delivery, queue)
  SELECT id, due, -priority, delivery, queue FROM changed
  WHERE due > pgtasks.clock() AND cardinality(%(preds)b::uuid[]) = 0
),
now AS (
  INSERT INTO pgtasks.ready (id, queue, rank, delivery)
  SELECT id, queue, -priority, delivery FROM changed
  WHERE (due IS NULL OR due <= pgtasks.clock()) AND cardinality(%(preds)b::uuid[]) = 0
)
SELECT count(*) FROM changed

-- name: join_chord
-- Have the tasks that wait for a running task wait for one more: it becomes the last of their inputs. The running task
-- itself has not ended, so none of them can have been released. A worker that lost it, whose claim is gone, changes nothing:
-- the body may have been released by then. Runs in one transaction with the `enqueue` of the new task.
-- Done twice, since an answer was lost, it counts once.
-- In: worker, delivery, the running task, the new one. Out: how many tasks wait for it now.
WITH body AS MATERIALIZED (
  SELECT w.id FROM pgtasks.edge e JOIN pgtasks.waiting w ON w.id = e.succ
  WHERE e.pred = %(id)s AND w.pending > 0
    AND EXISTS (SELECT FROM pgtasks.claim c WHERE c.id = %(id)s AND c.worker = %(worker)s AND c.delivery = %(delivery)s)
    AND NOT EXISTS (SELECT FROM pgtasks.edge d WHERE d.succ = w.id AND d.pred = %(member)s)
  ORDER BY w.id FOR UPDATE OF w
),
raised AS (
  UPDATE pgtasks.waiting SET pending = pending + 1 WHERE id IN (SELECT id FROM body) RETURNING id
),
linked AS (
  INSERT INTO pgtasks.edge (succ, pred, position)
  SELECT b.id, %(member)s, (SELECT max(position) + 1 FROM pgtasks.edge e WHERE e.succ = b.id) FROM body b
  RETURNING succ
)
SELECT count(*) FROM raised

-- name: ack
-- Note that at-most-once tasks are about to begin: after a crash they fail instead of running twice.
-- In: worker, ids, deliveries. Out: the ids that may begin.
UPDATE pgtasks.claim c SET acked = true
FROM unnest(%(ids)b::uuid[], %(deliveries)b::int[]) AS a(id, delivery)
WHERE c.id = ANY (%(ids)b::uuid[]) AND c.id = a.id AND c.worker = %(worker)s AND c.delivery = a.delivery
RETURNING c.id

-- name: charge
-- Count the loss of a worker in advance, for tasks that were lost once and are about to begin again: if this worker dies
-- too, `reap` need not know which of its tasks had begun.
-- In: worker, ids, deliveries, what they have lost with this time. Out: the ids that may begin.
UPDATE pgtasks.claim c SET losses = a.losses
FROM unnest(%(ids)b::uuid[], %(deliveries)b::int[], %(losses)b::smallint[]) AS a(id, delivery, losses)
WHERE c.id = ANY (%(ids)b::uuid[]) AND c.id = a.id AND c.worker = %(worker)s AND c.delivery = a.delivery
RETURNING c.id

-- name: mark
-- Record the state of a task that has not ended: STARTED, or a user's own. With a worker, only while that worker holds
-- the claim; without one it is anybody's word. A task that has ended keeps its result.
-- In: id, state, value; worker and delivery or NULL. Out: 1 if it was recorded.
WITH noted AS (
  INSERT INTO pgtasks.progress (id, state, worker, content_type, content_encoding, value, traceback, children)
  SELECT %(id)s, %(state)s, %(hostname)s, %(content_type)s, %(content_encoding)s, %(value)s, %(traceback)s, %(children)s
  WHERE NOT EXISTS (SELECT FROM pgtasks.result WHERE id = %(id)s AND NOT hidden)
    AND (%(worker)s::uuid IS NULL OR EXISTS (
      SELECT FROM pgtasks.claim WHERE id = %(id)s AND worker = %(worker)s AND delivery = %(delivery)s))
  ON CONFLICT (id) DO UPDATE
  SET at = pgtasks.clock(), state = excluded.state, worker = excluded.worker, content_type = excluded.content_type,
      content_encoding = excluded.content_encoding, value = excluded.value, traceback = excluded.traceback,
      children = excluded.children
  RETURNING 1
)
SELECT count(*) FROM noted

-- name: store
-- Store the end of a task from outside a worker, as `backend.store_result` and `mark_as_failure` do; the first end wins.
-- In: id, state, value. Out: 1 if it was stored.
WITH stored AS (
  INSERT INTO pgtasks.result (id, state, worker, content_type, content_encoding, value, traceback, children)
  VALUES (%(id)s, %(state)s, %(hostname)s, %(content_type)s, %(content_encoding)s, %(value)s, %(traceback)s, %(children)s)
  ON CONFLICT (id) DO NOTHING
  RETURNING 1
)
SELECT count(*) FROM stored

-- name: describe
-- Write down how a task was called that was never sent, as an eager one: whoever reads its result may ask. It is in no
-- queue, and nothing waits for it. Of a task that was sent nothing changes.
-- In: the call. Out: nothing.
INSERT INTO pgtasks.message (id, root, parent, name, queue, task_id, group_id, content_type, content_encoding, options, payload)
VALUES (%(id)s, %(root)s, %(parent)s, %(name)s, %(queue)s, %(task_id)s, %(group_id)s, %(content_type)s, %(content_encoding)s,
        %(options)s, %(payload)s)
ON CONFLICT (id) DO NOTHING

-- name: hold
-- Lock the results of some tasks and of those that wait for them, and their rows in the ready queue, so that nobody runs any
-- of them again, or takes one that was revoked, before the statement that comes next in the transaction has done so.
-- The queue has no index by id: it is searched. Locks: result by id, then ready. In: ids. Out: how many rows.
WITH ended AS MATERIALIZED (
  SELECT id FROM pgtasks.result
  WHERE id = ANY (%(ids)b::uuid[] || ARRAY(SELECT e.succ FROM pgtasks.edge e WHERE e.pred = ANY (%(ids)b::uuid[])))
  ORDER BY id FOR UPDATE
),
queued AS MATERIALIZED (
  SELECT id FROM pgtasks.ready WHERE id = ANY (%(ids)b::uuid[]) FOR UPDATE
)
SELECT (SELECT count(*) FROM ended) + (SELECT count(*) FROM queued)

-- name: clear
-- Remove every trace of those of some tasks that have ended, so that they can be sent anew under their ids.
-- One that others still wait for, tasks or a workflow, stays: its second end would count for them once more. So do those wait
-- whose end came from outside, for what comes after them to be told. One whose own end came from outside stays while a worker
-- has it. A revoked one may still be in the ready queue.
-- What followed one and is over keeps its edge, to nothing: it is no part of the canvas that is sent now.
-- Runs after `hold`, in one transaction. Relies on edge_pred, awaited_task.
-- In: ids. Out: how many were removed.
WITH gone AS (
  DELETE FROM pgtasks.result r
  WHERE r.id = ANY (%(ids)b::uuid[])
    AND NOT EXISTS (SELECT FROM pgtasks.claim c WHERE c.id = r.id)
    AND NOT EXISTS (
      SELECT FROM pgtasks.edge e
      WHERE e.pred = r.id
        AND (NOT EXISTS (SELECT FROM pgtasks.result s WHERE s.id = e.succ)
             OR EXISTS (SELECT FROM pgtasks.waiting w WHERE w.id = e.succ AND w.pending > 0)))
    AND NOT EXISTS (
      SELECT FROM pgtasks.awaited a
      WHERE a.task = r.id AND NOT EXISTS (SELECT FROM pgtasks.result s WHERE s.id = a.run))
  RETURNING r.id
),
messages AS (DELETE FROM pgtasks.message WHERE id IN (SELECT id FROM gone)),
readies AS (DELETE FROM pgtasks.ready WHERE id IN (SELECT id FROM gone)),
dues AS (DELETE FROM pgtasks.scheduled WHERE id IN (SELECT id FROM gone)),
places AS (DELETE FROM pgtasks.held WHERE id IN (SELECT id FROM gone)),
marks AS (DELETE FROM pgtasks.revoked WHERE id IN (SELECT id FROM gone)),
states AS (DELETE FROM pgtasks.progress WHERE id IN (SELECT id FROM gone)),
holds AS (DELETE FROM pgtasks.waiting WHERE id IN (SELECT id FROM gone)),
edges AS (DELETE FROM pgtasks.edge WHERE succ IN (SELECT id FROM gone)),
loose AS (
  UPDATE pgtasks.edge SET pred = gen_random_uuid()
  WHERE pred IN (SELECT id FROM gone) AND succ NOT IN (SELECT id FROM gone)
),
steps AS (DELETE FROM pgtasks.step WHERE run IN (SELECT id FROM gone)),
signals AS (DELETE FROM pgtasks.signal WHERE run IN (SELECT id FROM gone)),
waits AS (DELETE FROM pgtasks.awaited WHERE run IN (SELECT id FROM gone))
SELECT count(*) FROM gone

-- name: revoke
-- Revoke tasks; `pgtasks.revoke` in the migration 0008 says how. In: ids, the encoded TaskRevokedError, a signal's name or
-- nothing. Out: workers to tell.
SELECT pgtasks.revoke(%(ids)b::uuid[], %(value)s::bytea, %(signal)s::text)

-- name: revoke_at_commit
-- Revoke tasks when the caller's transaction commits: until then it holds no lock that a worker could want.
-- In: ids, a signal's name or nothing. Out: nothing.
INSERT INTO pgtasks.cancelling (id, signal) SELECT DISTINCT i, %(signal)s::text FROM unnest(%(ids)b::uuid[]) AS i
ON CONFLICT (id) DO NOTHING

-- name: fell
-- Note that of all tasks that some others wait for, this one was the first to fail. A task that fails again, since its
-- worker died before that was stored, is still the first; one that succeeds then never was.
-- Locks: waiting by id. In: id, ids of the tasks that wait. Out: those of them for which it is so.
WITH felled AS MATERIALIZED (
  SELECT id FROM pgtasks.waiting WHERE id = ANY (%(ids)b::uuid[]) ORDER BY id FOR UPDATE
)
UPDATE pgtasks.waiting SET felled_by = %(pred)s
WHERE id = ANY (ARRAY(SELECT id FROM felled))
  AND (coalesce(felled_by, %(pred)s) = %(pred)s
       OR EXISTS (SELECT FROM pgtasks.result r WHERE r.id = felled_by AND r.state = 'SUCCESS' OFFSET 0))
RETURNING id

-- name: sweep_revoked
-- Forget revocations of tasks that were not sent within a day.
DELETE FROM pgtasks.revoked r
WHERE r.at < pgtasks.clock() - interval '1 day' AND NOT EXISTS (SELECT FROM pgtasks.message m WHERE m.id = r.id)

-- name: purge
-- Take up to `limit` waiting tasks of some queues out of them; they end REVOKED. Those that others wait for stay, marked,
-- for a worker to settle what follows. Repeat until it says 0.
-- In: queues, the encoded TaskRevokedError, limit. Out: how many.
WITH picked AS MATERIALIZED (
  SELECT r.ctid AS at FROM pgtasks.ready r
  WHERE r.queue = ANY (%(queues)b) AND NOT EXISTS (SELECT FROM pgtasks.revoked k WHERE k.id = r.id)
  ORDER BY r.queue, r.rank, r.seq LIMIT %(limit)s FOR UPDATE OF r SKIP LOCKED
),
unready AS (
  DELETE FROM pgtasks.ready WHERE ctid = ANY (ARRAY(SELECT at FROM picked))
  RETURNING id, queue, rank, delivery, retries, losses
),
due AS MATERIALIZED (
  -- Suspended runs have begun: they are not what waits in the queue.
  SELECT id FROM pgtasks.scheduled WHERE queue = ANY (%(queues)b) AND NOT is_suspended ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
),
unscheduled AS (
  DELETE FROM pgtasks.scheduled WHERE id = ANY (ARRAY(SELECT id FROM due))
  RETURNING id, queue, rank, delivery, retries, losses
),
limited AS MATERIALIZED (
  SELECT id FROM pgtasks.held WHERE queue = ANY (%(queues)b) LIMIT %(limit)s FOR UPDATE SKIP LOCKED
),
unlimited AS (
  DELETE FROM pgtasks.held WHERE id = ANY (ARRAY(SELECT id FROM limited))
  RETURNING id, queue, rank, delivery, retries, losses
),
gone AS MATERIALIZED (
  SELECT g.*, m.has_successors
  FROM (SELECT * FROM unready UNION ALL SELECT * FROM unscheduled UNION ALL SELECT * FROM unlimited) g JOIN pgtasks.message m ON m.id = g.id
),
ended AS (
  INSERT INTO pgtasks.result (id, state, value) SELECT id, 'REVOKED', %(value)s::bytea FROM gone
  ON CONFLICT (id) DO NOTHING
),
marked AS (
  INSERT INTO pgtasks.revoked (id) SELECT id FROM gone WHERE has_successors ON CONFLICT (id) DO NOTHING
),
kept AS (
  INSERT INTO pgtasks.ready (id, queue, rank, delivery, retries, losses)
  SELECT id, queue, rank, delivery, retries, losses FROM gone WHERE has_successors
)
SELECT count(*) FROM gone

-- name: lengths
-- How many tasks wait in some queues, ready and scheduled.
-- In: queues. Out: queue, ready, scheduled.
SELECT q.queue, (SELECT count(*) FROM pgtasks.ready r WHERE r.queue = q.queue),
       (SELECT count(*) FROM pgtasks.scheduled s WHERE s.queue = q.queue)
FROM unnest(%(queues)b::text[]) AS q(queue)

-- name: expire
-- Remove tasks whose result is older than `age`, up to `limit` of them: retention in bounded steps, newest never touched.
-- A task that others still wait for, a workflow among them, stays until they have ended. Relies on result_done_at,
-- awaited_task.
-- In: age in seconds, limit. Out: how many.
WITH old AS MATERIALIZED (
  SELECT r.id FROM pgtasks.result r
  WHERE r.done_at < pgtasks.clock() - %(age)s::float8 * interval '1 second'
    AND NOT EXISTS (
      SELECT FROM pgtasks.edge e
      WHERE e.pred = r.id AND NOT EXISTS (SELECT FROM pgtasks.result s WHERE s.id = e.succ))
    AND NOT EXISTS (
      SELECT FROM pgtasks.awaited a
      WHERE a.task = r.id AND NOT EXISTS (SELECT FROM pgtasks.result s WHERE s.id = a.run))
  LIMIT %(limit)s
  FOR UPDATE OF r SKIP LOCKED
),
results AS (DELETE FROM pgtasks.result WHERE id = ANY (ARRAY(SELECT id FROM old)) RETURNING id),
messages AS (DELETE FROM pgtasks.message WHERE id = ANY (ARRAY(SELECT id FROM old))),
holds AS (DELETE FROM pgtasks.waiting WHERE id = ANY (ARRAY(SELECT id FROM old))),
states AS (DELETE FROM pgtasks.progress WHERE id = ANY (ARRAY(SELECT id FROM old))),
edges AS (DELETE FROM pgtasks.edge WHERE succ = ANY (ARRAY(SELECT id FROM old))),
steps AS (DELETE FROM pgtasks.step WHERE run = ANY (ARRAY(SELECT id FROM old))),
signals AS (DELETE FROM pgtasks.signal WHERE run = ANY (ARRAY(SELECT id FROM old))),
waits AS (DELETE FROM pgtasks.awaited WHERE run = ANY (ARRAY(SELECT id FROM old))),
divergences AS (DELETE FROM pgtasks.divergence WHERE run = ANY (ARRAY(SELECT id FROM old)))
SELECT count(*) FROM results
