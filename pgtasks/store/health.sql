-- Statements for monitoring systems: figures that say whether all is well.

-- name: figures
-- What a dashboard wants to know, each as name, label, value: how much is ready and scheduled per queue, how long the oldest
-- has waited, who works, and what keeps the database from cleaning up behind itself. It counts what waits.
-- Relies on ready_pkey, scheduled_pkey. Out: metric, label, value.
WITH queue AS MATERIALIZED (SELECT * FROM pgtasks.queues),
consumer AS MATERIALIZED (
  SELECT q.queue, count(*) AS consumers, sum(w.concurrency) AS slots FROM pgtasks.workers w, unnest(w.queues) AS q(queue) WHERE w.is_alive GROUP BY q.queue
),
stuck AS (
  -- As in the view of this name, whose first reason is one for whole queues: counted without reading their tasks.
  SELECT 'no live worker consumes this queue' AS why, sum(ready)::bigint AS tasks FROM queue
  WHERE ready > 0 AND queue NOT IN (SELECT queue FROM consumer)
  UNION ALL
  SELECT 'its worker is gone; a live worker will take it over', count(*) FROM pgtasks.claim c
  WHERE NOT EXISTS (
    SELECT FROM pgtasks.worker w WHERE w.id = c.worker AND w.heartbeat_at + w.lease > pgtasks.clock())
  UNION ALL
  SELECT 'its due time passed and no worker moved it', count(*) FROM pgtasks.scheduled s
  WHERE s.due < pgtasks.clock() - interval '1 minute'
)
SELECT 'queue_length', queue, ready::float8 FROM queue
UNION ALL
SELECT 'queue_scheduled', queue, scheduled::float8 FROM queue
UNION ALL
SELECT 'queue_oldest_seconds', queue, extract(epoch FROM pgtasks.clock() - oldest)::float8
FROM queue WHERE oldest IS NOT NULL
UNION ALL
SELECT 'worker_up', hostname, bool_or(is_alive)::int::float8 FROM pgtasks.workers GROUP BY hostname
UNION ALL
SELECT 'worker_tasks_active', hostname, sum(claimed)::float8 FROM pgtasks.workers WHERE is_alive GROUP BY hostname
UNION ALL
SELECT 'worker_slots', hostname, sum(concurrency)::float8 FROM pgtasks.workers WHERE is_alive GROUP BY hostname
UNION ALL
SELECT 'queue_consumers', queue, consumers::float8 FROM consumer
UNION ALL
SELECT 'queue_workers', queue, consumers::float8 FROM consumer
UNION ALL
SELECT 'queue_slots', queue, slots::float8 FROM consumer
UNION ALL
SELECT 'stuck', why, tasks::float8 FROM stuck WHERE tasks > 0
UNION ALL
SELECT 'schedule_late_seconds', name, greatest(extract(epoch FROM pgtasks.clock() - next_run_at), 0)::float8
FROM pgtasks.schedules WHERE NOT is_paused AND next_run_at IS NOT NULL
UNION ALL
SELECT 'dead_rows', relname, n_dead_tup::float8 FROM pg_stat_user_tables WHERE schemaname = 'pgtasks'
UNION ALL
SELECT 'oldest_transaction_seconds', '', coalesce(extract(epoch FROM max(now() - xact_start)), 0)::float8
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
UNION ALL
SELECT 'notification_queue_usage', '', pg_notification_queue_usage()

-- name: place
-- Which database this is, of which server: two connections that give the same lead to the same place, also when one of them
-- goes by a pooler, another address or another name. Out: the database's oid, when the server was started.
SELECT oid::bigint, pg_postmaster_start_time() FROM pg_database WHERE datname = current_database()

-- name: set_clock
-- Set the clock of this session; NULL sets it going again. A rollback undoes it. For tests.
SELECT set_config('pgtasks.now', coalesce(%(now)s::timestamptz::text, ''), false)

-- name: clock
-- What time it is, by the one clock.
SELECT pgtasks.clock()
