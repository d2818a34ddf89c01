-- Statements for monitoring systems: figures that say whether all is well.

-- name: figures
-- What a dashboard wants to know, each as name, label, value: how much is ready and scheduled per queue, how long the oldest
-- has waited, who works, and what keeps the database from cleaning up behind itself. It counts what waits.
-- Relies on ready_pkey, scheduled_pkey. Out: metric, label, value.
SELECT 'queue_length', queue, ready::float8 FROM pgtasks.queues
UNION ALL
SELECT 'queue_scheduled', queue, scheduled::float8 FROM pgtasks.queues
UNION ALL
SELECT 'queue_oldest_seconds', queue, extract(epoch FROM pgtasks.clock() - oldest)::float8
FROM pgtasks.queues WHERE oldest IS NOT NULL
UNION ALL
SELECT 'worker_up', hostname, bool_or(is_alive)::int::float8 FROM pgtasks.workers GROUP BY hostname
UNION ALL
SELECT 'worker_tasks_active', hostname, sum(claimed)::float8 FROM pgtasks.workers WHERE is_alive GROUP BY hostname
UNION ALL
SELECT 'worker_slots', hostname, sum(concurrency)::float8 FROM pgtasks.workers WHERE is_alive GROUP BY hostname
UNION ALL
SELECT 'queue_consumers', queue, count(*)::float8 FROM pgtasks.workers w, unnest(w.queues) AS q(queue)
WHERE w.is_alive GROUP BY queue
UNION ALL
SELECT 'stuck', why, count(*)::float8 FROM pgtasks.stuck GROUP BY why
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
