-- Statements on periodic tasks. See migrations/0004_schedules.sql for the table.

-- name: register
-- Make sure that there is a row for every periodic task of an app, and say what is known of each. A row that is there
-- keeps its memory, but for when it is due next if its schedule is another one now. Of those that are not given, since they
-- were taken out of the code, nobody knows that any more. Rows that no scheduler has known for 30 days are forgotten.
-- Locks: schedule by name; those not given only where they are free. In: app; names, tasks, schedules, and first moments,
-- as arrays. Out: as `recall`.
WITH given AS (
  SELECT * FROM unnest(%(names)b::text[], %(tasks)b::text[], %(schedules)b::text[], %(moments)b::timestamptz[])
    AS g(name, task, schedule, moment)
),
kept AS (
  INSERT INTO pgtasks.schedule AS s (app, name, task, schedule, last_run_at)
  SELECT %(app)s, name, task, schedule, moment FROM given ORDER BY name
  ON CONFLICT (app, name) DO UPDATE
  SET task = excluded.task, schedule = excluded.schedule, seen_at = pgtasks.clock(),
      next_run_at = CASE WHEN s.schedule = excluded.schedule THEN s.next_run_at END
  RETURNING s.name, s.last_run_at, s.next_run_at, s.runs, s.is_paused
),
dropped AS (
  UPDATE pgtasks.schedule SET next_run_at = NULL
  WHERE app = %(app)s AND name IN (
    SELECT name FROM pgtasks.schedule
    WHERE app = %(app)s AND next_run_at IS NOT NULL AND seen_at >= pgtasks.clock() - interval '30 days'
      AND NOT name IN (SELECT name FROM given)
    FOR UPDATE SKIP LOCKED)
),
forgotten AS (
  DELETE FROM pgtasks.schedule
  WHERE app = %(app)s AND seen_at < pgtasks.clock() - interval '30 days' AND NOT name IN (SELECT name FROM given)
)
SELECT name, last_run_at, next_run_at, runs, is_paused FROM kept

-- name: recall
-- What is known of the periodic tasks of an app: another scheduler may have moved them on, somebody paused them.
-- Relies on schedule_pkey. In: app. Out: name, last_run_at, next_run_at, runs, is_paused.
SELECT name, last_run_at, next_run_at, runs, is_paused FROM pgtasks.schedule WHERE app = %(app)s

-- name: expect
-- Write down when periodic tasks are due next, where nobody has: before their first turn, and after a change of their
-- schedule or a pause. So monitors see that a turn is missed, also if no scheduler has lived to see one.
-- Locks: schedule by name. In: app; names, last moments as they were seen, and next ones, as arrays.
WITH known AS MATERIALIZED (
  SELECT s.name, g.next
  FROM unnest(%(names)b::text[], %(seen)b::timestamptz[], %(nexts)b::timestamptz[]) AS g(name, seen, next)
  JOIN pgtasks.schedule s ON s.name = g.name AND s.last_run_at = g.seen
  WHERE s.app = %(app)s AND s.next_run_at IS NULL
  ORDER BY s.name
  FOR UPDATE OF s
)
UPDATE pgtasks.schedule s SET next_run_at = k.next FROM known k WHERE s.app = %(app)s AND s.name = k.name

-- name: advance
-- Take one turn of a periodic task, unless somebody else has: the row must still be as it was seen. Of two schedulers at
-- once one waits for the other's transaction, which enqueues the task as well, and then finds that it has moved.
-- With overlap 'skip' a turn passes while the task of an earlier one has not ended; with 'wait' it is put off.
-- Locks: the row. In: app, name, seen, moment (the new last_run_at), next, task (the id it will have), overlap,
-- is_missed (it is too late for this turn). Out: nothing when the turn was not there to take; else what becomes of it:
-- 'send', 'pass' or 'wait'.
WITH turn AS MATERIALIZED (
  SELECT s.app, s.name,
         CASE
           WHEN %(is_missed)s THEN 'pass'
           WHEN %(overlap)s = 'allow' OR s.last_task IS NULL THEN 'send'
           WHEN NOT EXISTS (SELECT FROM pgtasks.message m WHERE m.id = s.last_task) THEN 'send'
           WHEN EXISTS (SELECT FROM pgtasks.result r WHERE r.id = s.last_task) THEN 'send'
           WHEN %(overlap)s = 'skip' THEN 'pass'
           ELSE 'wait'
         END AS verdict
  FROM pgtasks.schedule s
  WHERE s.app = %(app)s AND s.name = %(name)s AND s.last_run_at = %(seen)s::timestamptz AND NOT s.is_paused
  FOR UPDATE
),
moved AS (
  UPDATE pgtasks.schedule s
  SET last_run_at = %(moment)s::timestamptz,
      next_run_at = %(next)s::timestamptz,
      seen_at = pgtasks.clock(),
      runs = s.runs + (t.verdict = 'send')::int,
      skips = s.skips + (t.verdict = 'pass')::int,
      last_task = CASE t.verdict WHEN 'send' THEN %(task)s::uuid ELSE s.last_task END
  FROM turn t
  WHERE s.app = t.app AND s.name = t.name AND t.verdict <> 'wait'
)
SELECT verdict FROM turn

-- name: pause
-- Have periodic tasks of an app take no turns until they are resumed. In: app, names. Out: the names there are.
UPDATE pgtasks.schedule SET is_paused = true WHERE app = %(app)s AND name = ANY (%(names)b::text[]) RETURNING name

-- name: resume
-- Have periodic tasks of an app take turns again, from now on: those that were due meanwhile are not made up for.
-- In: app, names. Out: the names there are.
UPDATE pgtasks.schedule
SET is_paused = false,
    last_run_at = CASE WHEN is_paused THEN pgtasks.clock() ELSE last_run_at END,
    next_run_at = CASE WHEN NOT is_paused THEN next_run_at END
WHERE app = %(app)s AND name = ANY (%(names)b::text[]) RETURNING name

-- name: listing
-- The periodic tasks of an app, with what came of the last turn of each. In: app.
SELECT name, task, schedule, is_paused, last_run_at, next_run_at, runs, skips, last_task, last_state
FROM pgtasks.schedules WHERE app = %(app)s ORDER BY name
