-- Statements of `pgtasks doctor`: facts about an installation. They read catalogs and small tables, write nothing and take no
-- locks that anybody waits for; each is bounded, whatever the backlog. What the facts mean is said in doctor.py.

-- name: server
-- Settings and states of the server and of this session. In: nothing. Out: one row of name and value, as text, each.
SELECT name, setting FROM pg_settings
WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'synchronous_standby_names', 'server_version_num',
               'max_connections', 'superuser_reserved_connections', 'autovacuum', 'track_counts', 'hot_standby_feedback',
               'zero_damaged_pages', 'ignore_checksum_failure', 'max_prepared_transactions', 'wal_level', 'ssl')
UNION ALL SELECT 'is_standby', pg_is_in_recovery()::text
UNION ALL SELECT 'standbys', count(*)::text FROM pg_stat_replication
UNION ALL SELECT 'standbys_sync', count(*)::text FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')
UNION ALL SELECT 'connections', count(*)::text FROM pg_stat_activity WHERE backend_type = 'client backend'
UNION ALL SELECT 'tls', coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)::text
UNION ALL SELECT 'is_local', (inet_client_addr() IS NULL OR inet_client_addr() <<= '127.0.0.0/8'::inet
                              OR inet_client_addr() = '::1'::inet)::text
UNION ALL SELECT 'notification_queue', pg_notification_queue_usage()::text
UNION ALL SELECT 'clock', extract(epoch FROM clock_timestamp())::text
UNION ALL SELECT 'database_age', age(datfrozenxid)::text FROM pg_database WHERE datname = current_database()
UNION ALL SELECT 'database_size', pg_database_size(current_database())::text
UNION ALL SELECT 'is_superuser', rolsuper::text FROM pg_roles WHERE rolname = current_user

-- name: defaults
-- What the role and the database set for new sessions, which pgtasks' own sessions override or suffer from.
-- In: nothing. Out: name, value, of what.
SELECT split_part(entry, '=', 1), substr(entry, strpos(entry, '=') + 1),
       CASE WHEN s.setrole = 0 THEN 'the database' ELSE 'the role' END
FROM pg_db_role_setting s, unnest(s.setconfig) AS c(entry)
WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND s.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = current_user))
UNION ALL
SELECT name, reset_val, 'the server' FROM pg_settings
WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'lock_timeout', 'transaction_timeout',
               'idle_session_timeout') AND reset_val <> '0'

-- name: horizons
-- Who keeps dead rows from being removed, and for how long or over how many transactions: sessions with an old snapshot,
-- prepared transactions, replication slots, standbys. In: nothing. Out: kind, who, seconds or NULL, transactions.
SELECT 'session', concat('pid ', pid, ' of ', usename, ', ', state), extract(epoch FROM now() - xact_start)::float8,
       age(backend_xmin)::bigint
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type = 'client backend'
UNION ALL
SELECT 'prepared', concat(gid, ' of ', owner), extract(epoch FROM now() - prepared)::float8, age(transaction)::bigint
FROM pg_prepared_xacts WHERE database = current_database()
UNION ALL
SELECT 'slot', concat(slot_name, CASE WHEN active THEN '' ELSE ', inactive' END), NULL,
       greatest(age(xmin), age(catalog_xmin))::bigint
FROM pg_replication_slots WHERE xmin IS NOT NULL OR catalog_xmin IS NOT NULL
UNION ALL
SELECT 'standby', concat(application_name, ' at ', client_addr), NULL, age(backend_xmin)::bigint
FROM pg_stat_replication WHERE backend_xmin IS NOT NULL

-- name: tables
-- Our tables: rows and dead rows as the statistics have them, bytes, whether autovacuum is off for it, and its age.
-- In: nothing. Out: one row per table.
SELECT c.relname, coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0), pg_table_size(c.oid),
       coalesce('autovacuum_enabled=off' = ANY (c.reloptions) OR 'autovacuum_enabled=false' = ANY (c.reloptions), false),
       age(c.relfrozenxid)::bigint, coalesce(array_to_string(c.reloptions, ','), '')
FROM pg_class c LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
WHERE c.relnamespace = to_regnamespace('pgtasks') AND c.relkind = 'r'

-- name: invalid_indexes
-- Indexes of ours that a failed build has left behind: they cost, and nothing uses them. In: nothing. Out: names.
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = to_regnamespace('pgtasks') AND NOT (i.indisvalid AND i.indisready)

-- name: stuck
-- Work that does not move, by the view for monitors. A queue nobody consumes may be meant; it is counted all the same. It stops
-- counting at the limit. In: limit. Out: why, queue, how many, the oldest's seconds.
SELECT why, queue, count(*), extract(epoch FROM pgtasks.clock() - min(since))::float8
FROM (SELECT why, queue, since FROM pgtasks.stuck LIMIT %(limit)s) s GROUP BY why, queue ORDER BY count(*) DESC

-- name: orphans
-- Rows that no transition can leave behind: what waits for nobody that has not ended, claims and places in a queue whose message
-- is gone, and runs that sleep with nothing to wake them. It stops looking at the limit, in each table.
-- Relies on edge_pkey, message_pkey, result_pkey. In: limit. Out: what, how many, an example.
SELECT 'waits, and all that it waits for has ended', count(*), min(id::text) FROM (
  SELECT w.id FROM pgtasks.waiting w
  WHERE w.pending > 0
    AND NOT EXISTS (SELECT FROM pgtasks.edge e WHERE e.succ = w.id
                    AND NOT EXISTS (SELECT FROM pgtasks.result r WHERE r.id = e.pred))
    AND NOT EXISTS (SELECT FROM pgtasks.result r WHERE r.id = w.id)
  LIMIT %(limit)s) a
UNION ALL
SELECT 'is claimed, and its message is gone', count(*), min(id::text) FROM (
  SELECT c.id FROM pgtasks.claim c WHERE NOT EXISTS (SELECT FROM pgtasks.message m WHERE m.id = c.id) LIMIT %(limit)s) b
UNION ALL
SELECT 'is scheduled, and its message is gone', count(*), min(id::text) FROM (
  SELECT s.id FROM pgtasks.scheduled s WHERE NOT EXISTS (SELECT FROM pgtasks.message m WHERE m.id = s.id)
  LIMIT %(limit)s) c
UNION ALL
SELECT 'is claimed, and has ended', count(*), min(id::text) FROM (
  SELECT c.id FROM pgtasks.claim c WHERE EXISTS (SELECT FROM pgtasks.result r WHERE r.id = c.id) LIMIT %(limit)s) d

-- name: sleepers
-- Suspended runs that are due when the calendar ends, so that only an event wakes them, and that wait for no event: for no
-- task, and in no step. Relies on scheduled_suspended, awaited_pkey, step_pkey. In: limit. Out: how many, an example.
SELECT count(*), min(id::text) FROM (
  SELECT s.id FROM pgtasks.scheduled s
  WHERE s.is_suspended AND s.due > now() + interval '100 years'
    AND NOT EXISTS (SELECT FROM pgtasks.awaited a WHERE a.run = s.id)
    AND NOT EXISTS (SELECT FROM pgtasks.step p WHERE p.run = s.id AND p.state = 'PENDING')
  LIMIT %(limit)s) s

-- name: fleet
-- Workers, and how many connections they may need. In: nothing. Out: alive, dead, slots of those alive, versions.
SELECT count(*) FILTER (WHERE is_alive), count(*) FILTER (WHERE NOT is_alive),
       coalesce(sum(concurrency) FILTER (WHERE is_alive), 0)::bigint,
       coalesce(string_agg(DISTINCT version, ', ') FILTER (WHERE is_alive), '')
FROM pgtasks.workers

-- name: names
-- Names of tasks that wait, of those that come next in each queue. It reads so many at most. In: limit. Out: name, how many.
SELECT m.name, count(*) FROM (SELECT id FROM pgtasks.ready LIMIT %(limit)s) r JOIN pgtasks.message m ON m.id = r.id
GROUP BY m.name

-- name: late
-- Periodic tasks whose turn has passed a minute ago: no scheduler runs. In: nothing. Out: name, seconds.
SELECT name, extract(epoch FROM pgtasks.clock() - next_run_at)::float8 FROM pgtasks.schedules
WHERE NOT is_paused AND next_run_at < pgtasks.clock() - interval '1 minute'

-- name: rights
-- What this role lacks to work, and what it has beyond it. In: nothing. Out: kind of right, objects.
SELECT 'lacks', string_agg(concat(p.privilege, ' ON ', c.relname), ', ' ORDER BY c.relname, p.privilege)
FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p(privilege)
WHERE c.relnamespace = to_regnamespace('pgtasks') AND c.relkind = 'r' AND c.relname <> 'migration'
  AND NOT has_table_privilege(c.oid, p.privilege)
UNION ALL
SELECT 'everybody', string_agg(DISTINCT c.relname, ', ')
FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace = to_regnamespace('pgtasks') AND a.grantee = 0 AND a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE')
