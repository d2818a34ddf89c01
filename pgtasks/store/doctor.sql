-- Statements of `pgtasks doctor`: facts about an installation. They read catalogs and small tables, write nothing and take no
-- locks that anybody waits for; each is bounded, whatever the backlog. What the facts mean is said in doctor.py.

-- name: server
-- Settings and states of the server and of this role. In: nothing. Out: one row of name and value, as text, each.
SELECT name, setting FROM pg_settings
WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'synchronous_standby_names', 'server_version',
               'server_version_num', 'max_connections', 'superuser_reserved_connections', 'autovacuum', 'track_counts', 'jit',
               'listen_addresses', 'unix_socket_permissions')
UNION ALL SELECT 'is_standby', pg_is_in_recovery()::text
UNION ALL SELECT 'standbys', count(*)::text FROM pg_stat_replication
UNION ALL SELECT 'standbys_sync', count(*)::text FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')
UNION ALL SELECT 'connections', count(*)::text FROM pg_stat_activity WHERE backend_type = 'client backend'
UNION ALL SELECT 'notification_queue', pg_notification_queue_usage()::text
UNION ALL SELECT 'database_age', age(datfrozenxid)::text FROM pg_database WHERE datname = current_database()
UNION ALL SELECT 'is_superuser', rolsuper::text FROM pg_roles WHERE rolname = current_user
UNION ALL SELECT 'sees_all', pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')::text

-- name: way
-- How this session reaches the server, as the server sees it, and what time it is there. In: nothing. Out: whether it comes
-- from the server's own machine, whether it is encrypted, seconds since 1970.
SELECT inet_client_addr() IS NULL OR inet_client_addr() <<= '127.0.0.0/8'::inet OR inet_client_addr() = '::1'::inet
         OR inet_client_addr() = inet_server_addr(),
       coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false),
       extract(epoch FROM clock_timestamp())::float8

-- name: standing
-- Who works, and how much waits; what waits is counted up to a limit, in each table. Relies on message_pkey. In: limit.
-- Out: workers alive, their slots, tasks that are ready, the seconds since the oldest of them was made, scheduled, claimed.
WITH ready AS MATERIALIZED (SELECT id FROM pgtasks.ready LIMIT %(limit)s),
     fleet AS (SELECT count(*) AS alive, coalesce(sum(concurrency), 0)::bigint AS slots FROM pgtasks.workers WHERE is_alive)
SELECT f.alive, f.slots, (SELECT count(*) FROM ready),
       (SELECT extract(epoch FROM pgtasks.clock() - min(m.created_at))::float8
        FROM ready r JOIN pgtasks.message m ON m.id = r.id),
       (SELECT count(*) FROM (SELECT FROM pgtasks.scheduled LIMIT %(limit)s) s),
       (SELECT count(*) FROM (SELECT FROM pgtasks.claim LIMIT %(limit)s) c)
FROM fleet f

-- name: data_directory
-- Where the server keeps its data. In: nothing. Out: a path; no row for a role that may not know.
SELECT setting FROM pg_settings WHERE name = 'data_directory'

-- name: defaults
-- What sessions of this role begin with and pgtasks' own suffer from, as it is before a session changes it, and who has set it:
-- a role's setting for one database comes before the role's, and that before the database's. In: nothing.
-- Out: name, value (milliseconds, for timeouts), by whom.
SELECT s.name, s.reset_val, coalesce((
  SELECT CASE WHEN d.setrole = 0 THEN 'the database' ELSE 'the role' END
  FROM pg_db_role_setting d, unnest(d.setconfig) AS c(entry)
  WHERE split_part(c.entry, '=', 1) = s.name
    AND d.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    AND d.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
  ORDER BY d.setrole = 0, d.setdatabase = 0 LIMIT 1), 'the server')
FROM pg_settings s
WHERE s.name IN ('statement_timeout', 'transaction_timeout', 'idle_session_timeout', 'default_transaction_isolation',
                 'default_transaction_read_only')

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

-- name: idle_slots
-- Replication slots that nobody reads, and how many bytes of WAL are kept for each. In: nothing. Out: name, bytes.
SELECT slot_name, pg_wal_lsn_diff(
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn)::bigint
FROM pg_replication_slots WHERE NOT active AND restart_lsn IS NOT NULL

-- name: archiving
-- Whether archiving fails: its last attempt did. In: nothing. Out: the file, how often that has happened; or no row.
SELECT last_failed_wal, failed_count FROM pg_stat_archiver
WHERE last_failed_time > coalesce(last_archived_time, '-infinity')

-- name: tables
-- Our tables: rows and dead rows as the statistics have them, bytes, whether autovacuum is off for it, whether it is unlogged.
-- In: nothing. Out: one row per table.
SELECT c.relname, coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0), pg_table_size(c.oid),
       coalesce('autovacuum_enabled=off' = ANY (c.reloptions) OR 'autovacuum_enabled=false' = ANY (c.reloptions), false),
       c.relpersistence = 'u'
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
-- Workers, and how many connections there are for them. In: nothing. Out: alive, dead, slots of those alive, versions, connections.
SELECT count(*) FILTER (WHERE is_alive), count(*) FILTER (WHERE NOT is_alive),
       coalesce(sum(concurrency) FILTER (WHERE is_alive), 0)::bigint,
       coalesce(string_agg(DISTINCT version, ', ') FILTER (WHERE is_alive), ''),
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
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
