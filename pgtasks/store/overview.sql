-- Statements for people who look on: what waits, who works, what runs, what ended last.

-- name: look
-- One look at everything, as one row, so that what it shows belongs together. It counts what waits: with a backlog of
-- millions that takes its time. Relies on ready_pkey, scheduled_pkey, claim_pkey, result_done_at. In: limit of each list.
WITH waiting AS (
  SELECT queue, ready, scheduled, pgtasks.clock() - oldest AS waiting FROM pgtasks.queues
  ORDER BY ready DESC, queue LIMIT %(limit)s
),
working AS (
  SELECT hostname, pool, concurrency, claimed, pgtasks.clock() - started_at AS up, array_to_string(queues, ',') AS queues
  FROM pgtasks.workers WHERE is_alive ORDER BY hostname LIMIT %(limit)s
),
running AS (
  SELECT coalesce(m.task_id, c.id::text) AS id, m.name, w.hostname, pgtasks.clock() - c.claimed_at AS for
  FROM pgtasks.claim c JOIN pgtasks.message m ON m.id = c.id LEFT JOIN pgtasks.worker w ON w.id = c.worker
  ORDER BY c.claimed_at LIMIT %(limit)s
),
minute AS (
  SELECT id, state, done_at, done_at - claimed_at AS took FROM pgtasks.result
  WHERE done_at > pgtasks.clock() - interval '1 minute'
),
latest AS (
  SELECT coalesce(m.task_id, r.id::text) AS id, m.name, r.state, r.took
  FROM minute r JOIN pgtasks.message m ON m.id = r.id ORDER BY r.done_at DESC LIMIT %(limit)s
)
SELECT pgtasks.clock(),
       coalesce((SELECT sum(ready) FROM waiting), 0)::bigint, coalesce((SELECT sum(scheduled) FROM waiting), 0)::bigint,
       (SELECT count(*) FROM minute), (SELECT count(*) FROM minute WHERE state = 'FAILURE'),
       (SELECT json_agg(json_build_array(queue, ready, scheduled, extract(epoch FROM waiting))) FROM waiting),
       (SELECT json_agg(json_build_array(hostname, pool, concurrency, claimed, extract(epoch FROM up), queues)) FROM working),
       (SELECT json_agg(json_build_array(id, name, hostname, extract(epoch FROM "for"))) FROM running),
       (SELECT json_agg(json_build_array(id, name, state, extract(epoch FROM took))) FROM latest)

-- name: stand
-- Where one task stands, as the view shows it, with its payload as text. Relies on the keys by id. In: id.
SELECT name, state, queue, priority, due, claimed_at, done_at, retries, worker, payload, traceback
FROM pgtasks.tasks WHERE id = %(id)s

-- name: unended
-- The tasks that have not ended, in the order in which they were made: for tests, which have few. Reads all messages.
-- Out: id, the id their caller knows, name, queue, priority, due, state, group, payload with its type and encoding, options.
SELECT t.id, coalesce(t.task_id, t.id::text), t.name, t.queue, t.priority::int, t.due, t.state, t.group_id,
       m.payload, m.content_type, m.content_encoding, m.options
FROM pgtasks.tasks t JOIN pgtasks.message m ON m.id = t.id
WHERE t.done_at IS NULL ORDER BY t.created_at, t.id

-- name: traffic
-- What some queues have, and how many live workers consume each. It counts what waits. Relies on ready_pkey, scheduled_pkey,
-- message_pkey. In: queues. Out: queue, ready, scheduled, claimed, consumers.
WITH named AS (SELECT queue, place FROM unnest(%(queues)s::text[]) WITH ORDINALITY AS q(queue, place)),
claimed AS (
  SELECT m.queue, count(*) AS tasks FROM pgtasks.claim c JOIN pgtasks.message m ON m.id = c.id GROUP BY m.queue
)
SELECT n.queue, (SELECT count(*) FROM pgtasks.ready r WHERE r.queue = n.queue),
       (SELECT count(*) FROM pgtasks.scheduled s WHERE s.queue = n.queue), coalesce(c.tasks, 0),
       (SELECT count(*) FROM pgtasks.workers w WHERE w.is_alive AND n.queue = ANY (w.queues))
FROM named n LEFT JOIN claimed c ON c.queue = n.queue ORDER BY n.place
