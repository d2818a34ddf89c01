-- Statements on flow control. See migrations/0006_flow.sql for the tables, and for the functions that do the work.

-- name: declare
-- Set the limits of a flow: as a program declares them, unless somebody has set others by hand; or by hand. What they leave
-- room for is let in. Nothing is written where nothing differs. Out: whether anything changed.
SELECT pgtasks.set_flow(%(name)s::text, %(is_keyed)s::boolean, %(concurrency)s::int, %(rate)s::int, %(period)s::float8,
                        %(total_concurrency)s::int, %(total_rate)s::int, %(total_period)s::float8, %(by_hand)s::boolean)

-- name: undo_by_hand
-- Let the limits that programs declare count again for a flow. They do when one declares them next. In: name. Out: 1 if it
-- was limited by hand.
WITH undone AS (
  UPDATE pgtasks.flow SET is_set_by_hand = false WHERE name = %(name)s AND is_set_by_hand RETURNING 1
)
SELECT count(*) FROM undone

-- name: flows
-- The flows there are, with how far their limits are used. Relies on slot_place, held_pkey. Out: `FlowRow`.
SELECT name, is_keyed, concurrency, rate, period, total_concurrency, total_rate, total_period, is_set_by_hand, let_in, held,
       extract(epoch FROM pgtasks.clock() - oldest)::float8
FROM pgtasks.flows ORDER BY name

-- name: begin
-- May a claimed task of a flow begin? Asked at every delivery, just before its code runs. In: task, worker, delivery, flow,
-- key. Out: go, lost, or ask.
SELECT pgtasks.begin_in_flow(%(task)s::uuid, %(worker)s::uuid, %(delivery)s::int, %(flow)s::text, %(key)s::text)

-- name: ask
-- May a claimed task begin that has no place in its flow? Out: go, lost, unknown, or held: then it is not
-- claimed any more.
SELECT pgtasks.ask_flow(%(task)s::uuid, %(worker)s::uuid, %(delivery)s::int, %(flow)s::text, %(key)s::text)

-- name: leave
-- Give up the places of tasks that are not run any more, when no `settle` does. In: tasks. Out: nothing.
SELECT pgtasks.leave_flow(%(tasks)b::uuid[])::text

-- name: sweep
-- Give up places whose tasks are over, and let in what waits: for whoever looks once a second. Out: how many were let in, and
-- the seconds until a rate lets in more, or NULL.
SELECT total, opens_in FROM pgtasks.sweep_flows()

-- name: take_keys
-- Take the keys of unique calls, all or none. Of two at once one waits for the other's transaction.
-- In: keys, tasks, how long each counts. Out: the tasks that stand for the keys.
SELECT pgtasks.take_keys(%(keys)b::text[], %(tasks)b::uuid[], %(untils)b::text[], %(periods)b::float8[])

-- name: take_each
-- Take those keys of unique calls that are free, each for itself, and leave the others: what many calls of one task do. No key
-- is there twice. In the order of the keys: two that take the same ones do not wait for each other. In: keys, tasks, how long
-- each counts. Out: per key the task that stands for it.
SELECT k.key, pgtasks.take_key(k.key, k.task, k.until, k.period)
FROM (
  SELECT * FROM unnest(%(keys)b::text[], %(tasks)b::uuid[], %(untils)b::text[], %(periods)b::float8[])
                AS k(key, task, until, period)
  ORDER BY key OFFSET 0
) k

-- name: debounce
-- Have a call become the one that waits under its key, or take the key. Out: the task that stands for it.
SELECT pgtasks.debounce(%(key)s::text, %(task)s::uuid, %(wait)s::float8, %(longest)s::float8, %(payload)s::bytea,
                        %(content_type)s::text, %(content_encoding)s::text, %(options)s::bytea, %(queue)s::text,
                        %(priority)s::smallint,
                        coalesce(%(expires)s::timestamptz, pgtasks.clock() + %(expires_in)s::float8 * interval '1 second'))

-- name: sweep_keys
-- Forget keys whose tasks have ended, an hour after they were taken, a thousand at a time.
DELETE FROM pgtasks.unique_key
WHERE key IN (
  SELECT k.key FROM pgtasks.unique_key k
  WHERE k.since < pgtasks.clock() - interval '1 hour' AND coalesce(k.keep_until, '-infinity') < pgtasks.clock()
    AND NOT EXISTS (
      SELECT FROM pgtasks.message m
      WHERE m.id = k.id AND NOT EXISTS (SELECT FROM pgtasks.result r WHERE r.id = m.id))
  LIMIT 1000)

-- name: limit_queue
-- Limit a queue, whoever sends to it. In: queue; concurrency, per_worker, rate with its period, or NULL for no limit.
INSERT INTO pgtasks.queue_limit (queue, concurrency, per_worker, rate, period)
VALUES (%(queue)s, %(concurrency)s, %(per_worker)s, %(rate)s, %(period)s)
ON CONFLICT (queue) DO UPDATE
SET concurrency = excluded.concurrency, per_worker = excluded.per_worker, rate = excluded.rate, period = excluded.period

-- name: unlimit_queue
-- Take a queue's limits away. In: queue. Out: 1 if it had any.
WITH gone AS (
  DELETE FROM pgtasks.queue_limit WHERE queue = %(queue)s RETURNING queue
),
forgotten AS (
  DELETE FROM pgtasks.stamp WHERE flow IN (SELECT 'queue:' || queue FROM gone)
)
SELECT count(*) FROM gone

-- name: queue_limits
-- The queues that are limited. In: queues, or NULL for all. Out: `QueueLimit`.
SELECT queue, concurrency, per_worker, rate, period,
       (SELECT count(*) FROM pgtasks.claim c JOIN pgtasks.message m ON m.id = c.id WHERE m.queue = l.queue)
FROM pgtasks.queue_limit l
WHERE %(queues)s::text[] IS NULL OR queue = ANY (%(queues)s::text[])
ORDER BY queue

-- name: reserve
-- How many tasks of a limited queue may a worker claim now? It claims them in the same transaction: until that ends the
-- limits are locked. In: queue, worker, how many it has room for. Out: how many.
SELECT pgtasks.reserve(%(queue)s::text, %(worker)s::uuid, %(wanted)s::int)

-- name: count_claims
-- Count claims against the rate of a queue, in the transaction that made them; forget those that count no more.
-- That transaction waits for the disk, which a `claim` by itself does not: a crash of the server must not undo a claim of
-- a limited queue while its task runs. In: queue, ids. Out: nothing.
WITH limited AS (
  SELECT 'queue:' || queue AS flow, period FROM pgtasks.queue_limit WHERE queue = %(queue)s AND rate IS NOT NULL
),
old AS (
  DELETE FROM pgtasks.stamp s USING limited l
  WHERE s.flow = l.flow AND s.key = '' AND s.at < pgtasks.clock() - l.period * interval '1 second'
),
counted AS (
  INSERT INTO pgtasks.stamp (flow, key, id, at)
  SELECT l.flow, '', i.id, pgtasks.clock() FROM limited l CROSS JOIN unnest(%(ids)b::uuid[]) AS i(id)
)
SELECT set_config('synchronous_commit', 'on', true)
