-- Looking at a long backlog: queues and workers are counted once, and no task's message is read for it.
--
-- Why: with 1,000,000 tasks ready the view of queues took 11 seconds, since it read the message of every one of them to know
-- which had come first; now it reads that of the first in each line, and takes 1. Monitors ask for it every few seconds.
-- The tables that hold hints and states of the moment are vacuumed as the queue's own: rows come and go as fast there.
-- Locks: ACCESS EXCLUSIVE on two views, SHARE UPDATE EXCLUSIVE on four tables, each for a moment. The previous release works
-- on without noticing.
-- works with: 0006

-- How much waits in each queue, and for how long: `oldest` is when the first in line came, of those of every priority.
CREATE OR REPLACE VIEW pgtasks.queues AS
WITH RECURSIVE line AS (
  -- Queues and ranks, each found by one look at the index behind the one before.
  (SELECT queue, rank FROM pgtasks.ready ORDER BY queue, rank LIMIT 1)
  UNION ALL
  SELECT n.queue, n.rank
  FROM line l CROSS JOIN LATERAL (
    SELECT r.queue, r.rank FROM pgtasks.ready r WHERE (r.queue, r.rank) > (l.queue, l.rank)
    ORDER BY r.queue, r.rank LIMIT 1
  ) n
),
head AS (
  SELECT l.queue, m.created_at
  FROM line l
  CROSS JOIN LATERAL (
    SELECT r.id FROM pgtasks.ready r WHERE r.queue = l.queue AND r.rank = l.rank ORDER BY r.seq LIMIT 1
  ) f
  JOIN pgtasks.message m ON m.id = f.id
)
SELECT queue, sum(ready)::bigint AS ready, sum(scheduled)::bigint AS scheduled, min(oldest) AS oldest,
       sum(held)::bigint AS held
FROM (
  SELECT queue, count(*) AS ready, 0 AS scheduled, 0 AS held, NULL::timestamptz AS oldest FROM pgtasks.ready GROUP BY queue
  UNION ALL
  SELECT queue, 0, 0, 0, created_at FROM head
  UNION ALL
  SELECT queue, 0, count(*), 0, NULL FROM pgtasks.scheduled GROUP BY queue
  UNION ALL
  SELECT queue, 0, 0, count(*), min(since) FROM pgtasks.held GROUP BY queue
) q
GROUP BY queue;

-- Who works, on how much, and whether its lease still holds.
CREATE OR REPLACE VIEW pgtasks.workers AS
SELECT w.id, w.hostname, w.machine, w.pid, w.pool, w.concurrency, w.queues, w.version, w.started_at, w.heartbeat_at,
       w.heartbeat_at + w.lease > pgtasks.clock() AS is_alive, w.is_stopping, coalesce(c.claimed, 0) AS claimed
FROM pgtasks.worker w
LEFT JOIN (SELECT worker, count(*) AS claimed FROM pgtasks.claim GROUP BY worker) c ON c.worker = w.id;

ALTER TABLE pgtasks.waiter SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
  autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
ALTER TABLE pgtasks.idle SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
  autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
ALTER TABLE pgtasks.progress SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
  autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
ALTER TABLE pgtasks.revoked SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
