-- The SQL door - enqueue, cancel - and views that answer "what failed" and "what waits, and for what" among millions of rows.
--
-- Why: programs in other languages, and transactions of any driver, need only SQL. The views that were there read every message;
-- questions that are asked every minute need an index, and a view that leads to it.
-- Locks: SHARE on result and scheduled while an index is built on each, so that nothing is settled meanwhile: about ten seconds
-- with ten million results. Whoever cannot wait makes them before, by CREATE INDEX CONCURRENTLY with these names.
-- works with: 0006

-- Refuse what a worker wants to do under a claim that is gone. A statement that must undo others of its transaction ends so.
CREATE FUNCTION pgtasks.refuse_lost(run_id uuid) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
  RAISE object_not_in_prerequisite_state
    USING MESSAGE = format('The claim of run %s is gone: another worker has it, or it has ended', run_id);
END
$$;

-- -- the door: enqueue

-- A time-ordered UUID (version 7): 48 bits of milliseconds, the rest by chance.
CREATE FUNCTION pgtasks.new_id() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
  RETURN encode(
    set_bit(set_bit(
      overlay(uuid_send(gen_random_uuid())
              PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
      52, 1), 53, 1), 'hex')::uuid;

-- Send a task, in the sender's own transaction: SELECT pgtasks.enqueue('shop.charge', '[7, 100]'). Gives its id. An id that was
-- given and is known changes nothing, so that it may be sent twice. Limits that tasks declare in Python are not known here.
CREATE FUNCTION pgtasks.enqueue(
  name text, args jsonb DEFAULT '[]', kwargs jsonb DEFAULT '{}', queue text DEFAULT 'celery', priority int DEFAULT 0,
  due timestamptz DEFAULT NULL, expires timestamptz DEFAULT NULL, id uuid DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  task uuid := coalesce(enqueue.id, pgtasks.new_id());
BEGIN
  IF jsonb_typeof(args) <> 'array' OR jsonb_typeof(kwargs) <> 'object' THEN
    RAISE invalid_parameter_value USING
      MESSAGE = format('The arguments of task %s are %s and %s', enqueue.name, jsonb_typeof(args), jsonb_typeof(kwargs)),
      HINT = 'Pass an array of positional arguments, and an object of keyword arguments.';
  END IF;
  INSERT INTO pgtasks.message (id, priority, due, expires, name, queue, payload)
  VALUES (task, enqueue.priority, enqueue.due, enqueue.expires, enqueue.name, enqueue.queue,
          convert_to('[' || args::text || ',' || kwargs::text || ',{}]', 'UTF8'))
  ON CONFLICT (id) DO NOTHING;
  IF NOT FOUND THEN
    RETURN task;
  ELSIF enqueue.due > pgtasks.clock() THEN
    INSERT INTO pgtasks.scheduled (id, due, rank, queue) VALUES (task, enqueue.due, -enqueue.priority, enqueue.queue);
  ELSE
    INSERT INTO pgtasks.ready (id, queue, rank) VALUES (task, enqueue.queue, -enqueue.priority);
  END IF;
  PERFORM pg_notify('pgtasks_worker_' || i.worker, CASE WHEN enqueue.due > pgtasks.clock() THEN '' ELSE 'ready' END)
  FROM (SELECT worker FROM pgtasks.idle i WHERE i.queue = enqueue.queue
        ORDER BY hashtextextended(worker::text, pg_current_xact_id()::text::bigint) LIMIT 1) i
  WHERE pg_notification_queue_usage() < 0.5;
  RETURN task;
END
$$;

-- -- the door: cancel

-- Revoke tasks, and give the workers to tell. What nobody runs ends REVOKED now; its ready row stays, marked, for a worker to
-- drop and to settle what waits for it. A claimed task is marked for its worker, which drops it if unstarted and kills it if a
-- signal is named. Of an id that nobody has seen yet, the mark waits for its task; one that somebody stored a state for is left
-- to them. Suspended runs are woken, for a worker to undo them; one that is suspended at this very moment is seen in `wake`.
-- Locks: claim by id, then scheduled, waiting, held. Relies on held_id.
CREATE FUNCTION pgtasks.revoke(tasks uuid[], error bytea, signal_name text) RETURNS SETOF uuid LANGUAGE sql AS $$
WITH open AS MATERIALIZED (
  SELECT m.id, m.queue, m.priority FROM pgtasks.message m
  WHERE m.id = ANY (tasks) AND NOT EXISTS (SELECT FROM pgtasks.result r WHERE r.id = m.id)
),
told AS (
  UPDATE pgtasks.claim SET revoke_signal = signal_name WHERE id = ANY (tasks) RETURNING id, worker
),
unseen AS (
  SELECT i.id FROM unnest(tasks) AS i(id)
  WHERE NOT EXISTS (SELECT FROM pgtasks.message m WHERE m.id = i.id)
    AND NOT EXISTS (SELECT FROM pgtasks.progress p WHERE p.id = i.id)
),
ended AS (
  INSERT INTO pgtasks.result (id, state, value)
  SELECT id, 'REVOKED', error FROM open WHERE id NOT IN (SELECT id FROM told)
  UNION
  SELECT id, 'REVOKED', error FROM unseen
  ON CONFLICT (id) DO NOTHING
  RETURNING id
),
marked AS (
  INSERT INTO pgtasks.revoked (id) SELECT id FROM ended ON CONFLICT (id) DO NOTHING
),
unscheduled AS (
  DELETE FROM pgtasks.scheduled WHERE id = ANY (ARRAY(SELECT id FROM ended)) AND NOT is_suspended
  RETURNING id, delivery, retries, losses
),
unheld AS (
  DELETE FROM pgtasks.waiting WHERE id = ANY (ARRAY(SELECT id FROM ended)) AND pending > 0 RETURNING id, delivery
),
unlimited AS (
  DELETE FROM pgtasks.held WHERE id = ANY (ARRAY(SELECT id FROM ended)) RETURNING id, delivery, retries, losses
),
moved AS (
  INSERT INTO pgtasks.ready (id, queue, rank, delivery, retries, losses)
  SELECT o.id, o.queue, -o.priority, u.delivery, u.retries, u.losses
  FROM open o JOIN (
    SELECT * FROM unscheduled UNION ALL SELECT id, delivery, 0, 0 FROM unheld UNION ALL SELECT * FROM unlimited
  ) u ON u.id = o.id
),
roused AS (
  SELECT pgtasks.wake(id) FROM ended
)
SELECT DISTINCT worker
FROM (SELECT worker FROM told UNION ALL SELECT CASE WHEN count(*) < 0 THEN gen_random_uuid() END FROM roused) t
WHERE worker IS NOT NULL
$$;

-- Tasks that a transaction under way cancels. They are when it commits: before that nobody could see it, and the locks that a
-- cancellation takes, on claims and runs, would hold up workers for as long as the transaction lasts. The row goes with it.
CREATE TABLE pgtasks.cancelling (
  id uuid NOT NULL,
  bucket smallint NOT NULL DEFAULT 0,
  signal text NOT NULL,
  CONSTRAINT cancelling_pkey PRIMARY KEY (id)
);
CREATE FUNCTION pgtasks.cancel_now() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('pgtasks_worker_' || w, '')
  FROM pgtasks.revoke(
    ARRAY[NEW.id],
    convert_to('{"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "pgtasks.exceptions"}', 'UTF8'),
    NEW.signal) w
  WHERE pg_notification_queue_usage() < 0.5;
  PERFORM pg_notify('pgtasks_waiter_' || process, '') FROM pgtasks.waiter
  WHERE id = NEW.id AND pg_notification_queue_usage() < 0.5 GROUP BY process;
  DELETE FROM pgtasks.cancelling WHERE id = NEW.id;
  RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER cancelling_at_commit AFTER INSERT ON pgtasks.cancelling
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pgtasks.cancel_now();

-- Cancel a task or a run when this transaction commits: SELECT pgtasks.cancel('<id>'). What has not begun does not; a run is left
-- at its next step, and what it did is undone; of other tasks one that runs goes on, unless it is to be killed (`terminate`).
-- True if it had not ended; raises for one that is not known (no_data_found).
CREATE FUNCTION pgtasks.cancel(task_id text, terminate boolean DEFAULT false) RETURNS boolean LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  found_id uuid;
BEGIN
  SELECT id INTO found_id FROM pgtasks.message
  WHERE id = CASE WHEN cancel.task_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN cancel.task_id::uuid END;
  IF found_id IS NULL THEN
    RAISE no_data_found USING MESSAGE = format('No task %s is known here', cancel.task_id),
      HINT = 'Its rows may have been removed after result_expires. A task_id of your own is not a UUID: cancel by AsyncResult.';
  ELSIF EXISTS (SELECT FROM pgtasks.result WHERE id = found_id) THEN
    RETURN false;
  END IF;
  INSERT INTO pgtasks.cancelling (id, signal) VALUES (found_id, CASE WHEN terminate THEN 'SIGTERM' ELSE '' END)
  ON CONFLICT (id) DO NOTHING;
  RETURN true;
END
$$;

-- -- the door: signal

-- As before, but for a signal that is sent again under its key: it is known also when its run has ended since.
CREATE OR REPLACE FUNCTION pgtasks.signal(
  run_id text, signal_name text, value bytea, content_type text, content_encoding text, key text
) RETURNS boolean LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  found_id uuid;
BEGIN
  SELECT id INTO found_id FROM pgtasks.message
  WHERE id = CASE WHEN run_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN run_id::uuid END;
  IF found_id IS NULL THEN
    RAISE no_data_found USING MESSAGE = format('No run %s is known here', run_id),
      HINT = 'Its rows may have been removed after result_expires. A task_id of your own is not a UUID: send by AsyncResult.';
  ELSIF signal.key IS NOT NULL
        AND EXISTS (SELECT FROM pgtasks.signal g WHERE g.run = found_id AND g.name = signal_name AND g.key = signal.key) THEN
    RETURN false;
  ELSIF EXISTS (SELECT FROM pgtasks.result WHERE id = found_id) THEN
    RAISE object_not_in_prerequisite_state USING MESSAGE = format('The run %s has ended and takes no signals', run_id);
  END IF;
  INSERT INTO pgtasks.signal (run, name, value, content_type, content_encoding, key)
  VALUES (found_id, signal_name, value, content_type, content_encoding, key)
  ON CONFLICT (run, name, key) WHERE key IS NOT NULL DO NOTHING;
  RETURN FOUND;
END
$$;

-- -- what failed, and what waits

CREATE INDEX result_failed ON pgtasks.result (done_at) WHERE state = 'FAILURE';
CREATE INDEX scheduled_suspended ON pgtasks.scheduled (id) WHERE is_suspended;

-- Tasks that failed, runs among them, and why. Ask for a span of done_at: that is what the index is on.
CREATE VIEW pgtasks.failures AS
SELECT m.id, m.task_id, m.name, m.queue, r.done_at, m.created_at, r.retries, r.delivery, r.worker,
       pgtasks.readable(r.value, r.content_type, r.content_encoding) AS error,
       pgtasks.readable(r.traceback, NULL, NULL) AS traceback,
       m.root, m.parent
FROM pgtasks.result r JOIN pgtasks.message m ON m.id = r.id
WHERE r.state = 'FAILURE';

-- Runs that wait, and for what: signals and times by the steps that wait for them, tasks by where those stand. since: when the
-- run came by the step that it waits at, as far as one is recorded. Ordered by id it is ordered by when runs were sent.
CREATE VIEW pgtasks.suspended AS
SELECT m.id, m.task_id, m.name, m.queue, m.created_at,
       (SELECT max(p.at) FROM pgtasks.step p WHERE p.run = m.id) AS since,
       CASE WHEN s.due < '9999-01-01' THEN s.due END AS wakes_at,
       ARRAY(SELECT coalesce(p.source, p.name) FROM pgtasks.step p
             WHERE p.run = m.id AND p.state = 'PENDING' AND (p.due IS NULL OR p.due > pgtasks.clock())
             ORDER BY p.seq) AS waits_for,
       ARRAY(SELECT format('%s %s: %s', t.name, t.id,
                           CASE WHEN c.id IS NOT NULL THEN 'STARTED' WHEN d.is_suspended THEN 'SUSPENDED'
                                WHEN d.id IS NOT NULL THEN 'SCHEDULED' WHEN w.pending > 0 THEN 'WAITING' ELSE 'READY' END)
             FROM pgtasks.awaited a
             JOIN pgtasks.message t ON t.id = a.task
             LEFT JOIN pgtasks.claim c ON c.id = t.id
             LEFT JOIN pgtasks.scheduled d ON d.id = t.id
             LEFT JOIN pgtasks.waiting w ON w.id = t.id
             WHERE a.run = m.id AND a.wanted > 0 ORDER BY t.id) AS waits_for_tasks,
       m.root, m.parent
FROM pgtasks.scheduled s JOIN pgtasks.message m ON m.id = s.id
WHERE s.is_suspended;
