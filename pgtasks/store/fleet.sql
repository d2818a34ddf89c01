-- Statements on workers: who lives, who is idle, whose work must be taken over.

-- name: enlist
-- Register a worker process. Its claims hold for as long as its heartbeat is younger than its lease.
INSERT INTO pgtasks.worker (id, hostname, machine, pid, pool, concurrency, queues, version, lease)
VALUES (%(id)s, %(hostname)s, %(machine)s, %(pid)s, %(pool)s, %(concurrency)s, %(queues)s, %(version)s,
        %(lease)s::float8 * interval '1 second')

-- name: tick
-- What a worker does about once a second, in one statement: renew its lease when asked to, move tasks that are due to the
-- ready queue, and look around. Any worker moves any queue's tasks. An idle tick writes nothing.
-- While an old snapshot holds vacuum back, whoever looks from the start of a queue, or of what is scheduled, walks over all
-- that is dead there: 0.4 s after a million tasks. So the lanes may begin at cursors (see `claim`), and `back` says how far in
-- the past, and ahead, a due time is looked for; then held tasks are known by their lanes, and by who knocked lately.
-- Relies on scheduled_due, claim_revoked, ready_pkey, lane_pkey, lane_opens_at, knock_pkey. Locks: worker row, then scheduled by due time.
-- In: worker, its queues, lanes as arrays, back in seconds or NULL, renew, limit. Out: is this worker still registered; how
-- many were moved; seconds to the next due task, 0 when as many were moved as may be, or to when a rate lets in what is held,
-- or NULL; is anything ready; ids and signals of its claims that were revoked; is there a letter for it; is any worker dead;
-- does anybody listen to events; is anything held; which of the queues are limited.
WITH renewed AS (
  UPDATE pgtasks.worker SET heartbeat_at = pgtasks.clock() WHERE id = %(worker)s AND %(renew)s RETURNING id
),
due AS MATERIALIZED (
  SELECT id FROM pgtasks.scheduled
  WHERE due <= pgtasks.clock()
    AND due >= coalesce(pgtasks.clock() - %(back)s::float8 * interval '1 second', '-infinity')
  ORDER BY due LIMIT %(limit)s FOR UPDATE SKIP LOCKED
),
moved AS (
  DELETE FROM pgtasks.scheduled WHERE id = ANY (ARRAY(SELECT id FROM due))
  RETURNING id, due, queue, rank, delivery, retries, losses
),
promoted AS (
  INSERT INTO pgtasks.ready (id, queue, rank, delivery, retries, losses)
  SELECT id, queue, rank, delivery, retries, losses FROM moved ORDER BY due
),
unwanted AS MATERIALIZED (
  SELECT id, revoke_signal FROM pgtasks.claim WHERE worker = %(worker)s AND revoke_signal IS NOT NULL
)
SELECT EXISTS (SELECT FROM renewed) OR (NOT %(renew)s AND EXISTS (SELECT FROM pgtasks.worker WHERE id = %(worker)s)),
       (SELECT count(*) FROM moved),
       CASE WHEN %(limit)s > 0 AND (SELECT count(*) FROM moved) = %(limit)s THEN 0 ELSE (SELECT extract(epoch FROM least(
          (SELECT min(due) FROM pgtasks.scheduled
           WHERE due > pgtasks.clock()
             AND due < coalesce(pgtasks.clock() + %(back)s::float8 * interval '1 second', 'infinity')),
          (SELECT min(l.opens_at) FROM pgtasks.flow f CROSS JOIN LATERAL (
             SELECT min(opens_at) AS opens_at FROM pgtasks.lane
             WHERE flow = f.name AND generation = f.generation AND opens_at > pgtasks.clock()) l),
          (SELECT min(opens_at) FROM pgtasks.flow WHERE opens_at > pgtasks.clock())) - pgtasks.clock())::float8) END,
       EXISTS (SELECT FROM unnest(%(lane_queues)b::text[], %(los)b::smallint[], %(seqs)b::bigint[], %(his)b::smallint[])
                           AS l(queue, lo, seq, hi)
               WHERE EXISTS (
                 SELECT FROM pgtasks.ready r
                 WHERE r.queue = l.queue AND (r.rank, r.seq) >= (l.lo, l.seq) AND r.rank <= l.hi OFFSET 0)),
       ARRAY(SELECT id FROM unwanted ORDER BY id),
       ARRAY(SELECT revoke_signal FROM unwanted ORDER BY id),
       EXISTS (SELECT FROM pgtasks.letter WHERE worker = %(worker)s),
       EXISTS (SELECT FROM pgtasks.worker WHERE heartbeat_at < pgtasks.clock() - lease),
       EXISTS (SELECT FROM pgtasks.listener WHERE seen_at > pgtasks.clock() - interval '15 seconds'),
       EXISTS (
         SELECT FROM pgtasks.flow f
         WHERE EXISTS (SELECT FROM pgtasks.lane l WHERE l.flow = f.name AND l.generation = f.generation OFFSET 0)
            OR EXISTS (SELECT FROM pgtasks.knock k
                       WHERE k.flow = f.name AND k.seq > (SELECT pg_sequence_last_value('pgtasks.knock_seq_seq') - 1000) OFFSET 0))
       OR %(back)s::float8 IS NULL AND EXISTS (SELECT FROM pgtasks.held),
       ARRAY(SELECT queue FROM pgtasks.queue_limit WHERE queue = ANY (%(queues)b::text[]) ORDER BY queue)

-- name: reap
-- Take the claims of dead workers back to their queues, up to `limit` a call, so that any live worker can go on with them.
-- A worker is dead when its heartbeat is older than its lease, by the database's clock; deleting its row is what tells it.
-- Claims without a worker row are orphans and go too. At-most-once tasks that may have begun get so many losses that
-- the next claim fails them instead of running them. Two reapers at once skip each other's rows.
-- Nobody knows which of the others had begun, so the first such loss is charged to all. From then on a worker charges a
-- task itself when that begins (`charge`), and the reaper leaves the count as it is.
-- Locks: worker rows, then claim by id. In: limit. Out: ids of dead workers, number of tasks returned.
WITH stale AS MATERIALIZED (
  SELECT id FROM pgtasks.worker WHERE heartbeat_at < pgtasks.clock() - lease ORDER BY id FOR UPDATE SKIP LOCKED
),
dead AS (
  DELETE FROM pgtasks.worker WHERE id = ANY (ARRAY(SELECT id FROM stale)) RETURNING id
),
unidled AS (
  DELETE FROM pgtasks.idle WHERE worker = ANY (ARRAY(SELECT id FROM stale))
),
picked AS MATERIALIZED (
  SELECT c.id FROM pgtasks.claim c
  WHERE c.worker = ANY (ARRAY(SELECT id FROM stale))
     OR NOT EXISTS (SELECT FROM pgtasks.worker w WHERE w.id = c.worker)
  ORDER BY c.id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
),
freed AS (
  DELETE FROM pgtasks.claim WHERE id = ANY (ARRAY(SELECT id FROM picked))
  RETURNING id, delivery, retries, losses, acked, revoke_signal
),
marked AS (
  INSERT INTO pgtasks.revoked (id) SELECT id FROM freed WHERE revoke_signal IS NOT NULL ON CONFLICT (id) DO NOTHING
),
returned AS (
  INSERT INTO pgtasks.ready (id, queue, rank, delivery, retries, losses)
  SELECT f.id, m.queue, -m.priority, f.delivery, f.retries, CASE WHEN f.acked THEN 32767 ELSE greatest(f.losses, 1) END
  FROM freed f JOIN pgtasks.message m ON m.id = f.id
  ORDER BY f.id
  RETURNING id
)
SELECT ARRAY(SELECT id FROM dead), (SELECT count(*) FROM returned)

-- name: discharge
-- Sign a worker off. Whatever it still holds goes back to the queue at once, not counted as lost.
-- In: worker. Out: how many tasks went back.
WITH gone AS (
  DELETE FROM pgtasks.worker WHERE id = %(worker)s
),
unidled AS (
  DELETE FROM pgtasks.idle WHERE worker = %(worker)s
),
freed AS (
  DELETE FROM pgtasks.claim WHERE worker = %(worker)s RETURNING id, delivery, retries, losses, acked, revoke_signal
),
marked AS (
  INSERT INTO pgtasks.revoked (id) SELECT id FROM freed WHERE revoke_signal IS NOT NULL ON CONFLICT (id) DO NOTHING
),
returned AS (
  INSERT INTO pgtasks.ready (id, queue, rank, delivery, retries, losses)
  SELECT f.id, m.queue, -m.priority, f.delivery, f.retries, CASE WHEN f.acked THEN 32767 ELSE f.losses END
  FROM freed f JOIN pgtasks.message m ON m.id = f.id
  RETURNING id
)
SELECT count(*) FROM returned

-- name: disown
-- Give back what a worker holds by the tables but does not know of: claims whose answer was lost on the way, and those of
-- tasks that it has settled in commits which a crash of the server, or a failover, has undone.
-- A newer delivery of a task that it knows is one of those: a retry that was claimed anew. What was claimed in the last
-- `spare` seconds is left alone: a child may have taken it, and be about to say so.
-- In: worker, the ids and deliveries it knows, `spare`. Out: how many tasks went back, which of those it knows are not its own,
-- since the same crash has undone their claims, and how many were left alone.
WITH known AS (
  SELECT * FROM unnest(%(ids)b::uuid[], %(deliveries)b::int[]) AS k(id, delivery)
),
unknown AS MATERIALIZED (
  SELECT id, claimed_at > pgtasks.clock() - %(spare)s::float8 * interval '1 second' AS is_young FROM pgtasks.claim
  WHERE worker = %(worker)s AND (id, delivery) NOT IN (SELECT * FROM known)
),
freed AS (
  DELETE FROM pgtasks.claim
  WHERE id = ANY (ARRAY(SELECT id FROM unknown WHERE NOT is_young)) AND worker = %(worker)s
    AND (id, delivery) NOT IN (SELECT * FROM known)
  RETURNING id, delivery, retries, losses, revoke_signal
),
marked AS (
  INSERT INTO pgtasks.revoked (id) SELECT id FROM freed WHERE revoke_signal IS NOT NULL ON CONFLICT (id) DO NOTHING
),
returned AS (
  INSERT INTO pgtasks.ready (id, queue, rank, delivery, retries, losses)
  SELECT f.id, m.queue, -m.priority, f.delivery, f.retries, f.losses
  FROM freed f JOIN pgtasks.message m ON m.id = f.id
  RETURNING id
)
SELECT (SELECT count(*) FROM returned), ARRAY(
  SELECT k.id FROM known k
  WHERE NOT EXISTS (
    SELECT FROM pgtasks.claim c WHERE c.id = k.id AND c.delivery = k.delivery AND c.worker = %(worker)s
  )
), (SELECT count(*) FROM unknown WHERE is_young)

-- name: idle
-- Declare that a worker has nothing to do, so that an enqueue wakes it. It must claim once more before it sleeps.
INSERT INTO pgtasks.idle (queue, worker) SELECT unnest(%(queues)b::text[]), %(worker)s ON CONFLICT DO NOTHING

-- name: busy
-- Declare that a worker has work for a while and need not be woken.
DELETE FROM pgtasks.idle WHERE worker = %(worker)s

-- name: nudge
-- Wake some workers by name, to look at what changed about their claims. In: workers.
SELECT pg_notify('pgtasks_worker_' || w, '') FROM unnest(%(workers)b::uuid[]) AS w WHERE pg_notification_queue_usage() < 0.5

-- name: watch
-- Declare that this process waits for some results, and look which have ended. One that is being settled at this moment
-- is seen by neither side; the waiter looks again by itself a little later.
-- In: process, ids. Out: the ids that have ended, and the time.
WITH declared AS (
  INSERT INTO pgtasks.waiter (id, process) SELECT unnest(%(ids)b::uuid[]), %(process)s ON CONFLICT DO NOTHING
)
SELECT ARRAY(SELECT id FROM pgtasks.result WHERE id = ANY (%(ids)b::uuid[])), pgtasks.clock()

-- name: unwatch
-- Declare that this process waits for some results no longer.
DELETE FROM pgtasks.waiter WHERE id = ANY (%(ids)b) AND process = %(process)s

-- name: tell
-- Tell the processes that wait for some results to look, when no settle told them. In: ids.
SELECT pg_notify('pgtasks_waiter_' || process, '')
FROM pgtasks.waiter WHERE id = ANY (%(ids)b::uuid[]) AND pg_notification_queue_usage() < 0.5
GROUP BY process

-- name: sweep_waiters
-- Forget waiters that were declared long ago: their process died, or will ask again.
DELETE FROM pgtasks.waiter WHERE since < pgtasks.clock() - interval '1 hour'

-- name: workers
-- The workers that are registered, with what a health check wants to know.
SELECT hostname, pid, pool, concurrency, queues, started_at, heartbeat_at, is_alive, is_stopping, claimed, version
FROM pgtasks.workers ORDER BY hostname

-- name: subscribe
-- Change which queues a worker consumes. It is not idle then, and must look before it says so again.
WITH changed AS (
  UPDATE pgtasks.worker SET queues = %(queues)b::text[] WHERE id = %(worker)s
)
DELETE FROM pgtasks.idle WHERE worker = %(worker)s

-- name: agenda
-- The tasks that are scheduled in the queues of a worker, as `claim` would give them, the next one first. Of the live
-- workers of a queue only one speaks for it, the one whose id is smallest, so that asking all names every task once.
-- In: worker, its queues, ids of tasks or NULL for all, limit.
SELECT s.id, s.delivery, s.retries, s.rank, s.losses, m.name, m.queue, m.content_type, m.content_encoding, m.payload,
       m.options, m.root, m.parent, m.group_id, m.task_id, s.due, m.expires, m.has_successors
FROM pgtasks.scheduled s JOIN pgtasks.message m ON m.id = s.id
WHERE s.queue = ANY (%(queues)b::text[])
  AND (%(ids)b::uuid[] IS NULL OR s.id = ANY (%(ids)b::uuid[]))
  AND NOT EXISTS (
    SELECT FROM pgtasks.worker w
    WHERE w.id < %(worker)s AND s.queue = ANY (w.queues) AND w.heartbeat_at + w.lease > pgtasks.clock()
      AND w.pool <> 'kombu')
ORDER BY s.due LIMIT %(limit)s
