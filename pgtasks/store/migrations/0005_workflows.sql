-- Durable workflows: what a run remembers, what it waits for, and how it is woken.
--
-- Why: a workflow is a task that remembers. A step is a row; a run that waits is a row in `scheduled` and nothing else.
-- Locks: ACCESS EXCLUSIVE on scheduled for a moment, to add a column with a constant default. The previous release works on,
-- and leaves workflows alone.
-- How a wake-up is never lost: whoever suspends a run and whoever wakes it take the lock of the run's message row first, and
-- look with a new snapshot then. So these two are functions: each of their statements sees what was committed before it.
-- works with: 0003

-- Suspended runs, among what is scheduled: only these are woken before they are due. One that waits for nothing but an event
-- is due when the calendar ends.
ALTER TABLE pgtasks.scheduled ADD COLUMN is_suspended boolean NOT NULL DEFAULT false;

-- What a run remembers. A step is its name and its ordinal among those of that name in the run; seq is its place among all,
-- as the program came by. PENDING steps are waits that have a due time, and steps that failed and are to be tried again.
-- is_fatal: its failure ended the run, so that a redrive runs it again.
-- source: the child, or the name of the signal, that the value came from.
CREATE TABLE pgtasks.step (
  run uuid NOT NULL,
  at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  due timestamptz,
  took real,
  ordinal int NOT NULL,
  seq int NOT NULL,
  delivery int NOT NULL,
  attempts smallint NOT NULL DEFAULT 1,
  bucket smallint NOT NULL DEFAULT 0,
  is_fatal boolean NOT NULL DEFAULT false,
  kind text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  state text COLLATE "C" NOT NULL,
  source text COLLATE "C",
  content_type text COLLATE "C",
  content_encoding text COLLATE "C",
  value bytea,
  CONSTRAINT step_pkey PRIMARY KEY (run, name, ordinal),
  CONSTRAINT step_state_known CHECK (state IN ('SUCCESS', 'FAILURE', 'TIMEOUT', 'PENDING'))
) WITH (autovacuum_vacuum_insert_scale_factor = 0.2);

-- Signals to runs, used in their order. ordinal is that of the wait which took it, NULL until then. A key makes a sender's
-- repetition harmless.
CREATE TABLE pgtasks.signal (
  run uuid NOT NULL,
  seq bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
  at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  ordinal int,
  bucket smallint NOT NULL DEFAULT 0,
  name text COLLATE "C" NOT NULL,
  key text,
  content_type text COLLATE "C",
  content_encoding text COLLATE "C",
  value bytea NOT NULL,
  CONSTRAINT signal_pkey PRIMARY KEY (run, seq)
);
CREATE INDEX signal_open ON pgtasks.signal (run, name, seq) WHERE ordinal IS NULL;
CREATE UNIQUE INDEX signal_key ON pgtasks.signal (run, name, key) WHERE key IS NOT NULL;

-- Tasks that a run made or waits for, until it has their results. wanted says what their end means to the run as it is
-- suspended: 0 nothing, 1 it wakes, 2 it wakes when the last of them has ended; -1 once they have.
CREATE TABLE pgtasks.awaited (
  run uuid NOT NULL,
  task uuid NOT NULL,
  wanted smallint NOT NULL DEFAULT 0,
  bucket smallint NOT NULL DEFAULT 0,
  CONSTRAINT awaited_pkey PRIMARY KEY (run, task)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
CREATE INDEX awaited_task ON pgtasks.awaited (task);

-- Where the code of a workflow no longer does what the run remembers. found is what the code came to, recorded what the run
-- has at this place.
CREATE TABLE pgtasks.divergence (
  run uuid NOT NULL,
  seq int NOT NULL,
  at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  bucket smallint NOT NULL DEFAULT 0,
  mode text COLLATE "C" NOT NULL,
  found text COLLATE "C" NOT NULL,
  recorded text COLLATE "C" NOT NULL,
  CONSTRAINT divergence_pkey PRIMARY KEY (run, seq, found)
);

-- Wake a run: move it from where it is suspended to the ready queue, and an idle worker with it. Nothing happens to one that
-- is not suspended. Locks: the message row, then scheduled.
CREATE FUNCTION pgtasks.wake(run_id uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  place pgtasks.scheduled;
BEGIN
  PERFORM FROM pgtasks.message WHERE id = run_id FOR NO KEY UPDATE;
  DELETE FROM pgtasks.scheduled WHERE id = run_id AND is_suspended RETURNING * INTO place;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  INSERT INTO pgtasks.ready (id, queue, rank, delivery, retries, losses)
  VALUES (place.id, place.queue, place.rank, place.delivery, place.retries, place.losses);
  PERFORM pg_notify('pgtasks_worker_' || i.worker, '')
  FROM (SELECT worker FROM pgtasks.idle WHERE queue = place.queue ORDER BY random() LIMIT 1) i
  WHERE pg_notification_queue_usage() < 0.5;
END
$$;

-- Note that some tasks which a run awaits have ended, and wake it if that is what it waits for.
-- Locks: the message row, awaited, then scheduled.
CREATE FUNCTION pgtasks.wake_for_tasks(run_id uuid, tasks uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  is_one boolean;
  is_of_set boolean;
BEGIN
  PERFORM FROM pgtasks.message WHERE id = run_id FOR NO KEY UPDATE;
  WITH gone AS (
    SELECT task, wanted FROM pgtasks.awaited WHERE run = run_id AND task = ANY (tasks) FOR UPDATE
  ),
  noted AS (
    UPDATE pgtasks.awaited SET wanted = -1 WHERE run = run_id AND task IN (SELECT task FROM gone)
  )
  SELECT bool_or(wanted = 1), bool_or(wanted = 2) INTO is_one, is_of_set FROM gone;
  IF is_one OR (is_of_set AND NOT EXISTS (SELECT FROM pgtasks.awaited WHERE run = run_id AND wanted = 2)) THEN
    PERFORM pgtasks.wake(run_id);
  END IF;
END
$$;

-- Suspend a claimed run until one of the tasks or signals it waits for is there, all tasks of a set have ended, or the time
-- has come; with the waits that it must remember, as PENDING steps. The claim is the fence, and goes.
-- Gives 'suspended'; or, with nothing done, 'lost' (not its claim any more), 'cancelled', or 'ready' (it is there already).
-- Locks: claim, the message row, awaited by task.
CREATE FUNCTION pgtasks.suspend(
  run_id uuid, by_worker uuid, at_delivery int, steps jsonb, tasks uuid[], wanting smallint, names text[], until timestamptz,
  recheck float8
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  held pgtasks.claim;
  ended bigint;
BEGIN
  SELECT * INTO held FROM pgtasks.claim
  WHERE id = run_id AND worker = by_worker AND delivery = at_delivery FOR UPDATE;
  IF NOT FOUND THEN
    RETURN 'lost';
  ELSIF held.revoke_signal IS NOT NULL THEN
    RETURN 'cancelled';
  END IF;
  PERFORM FROM pgtasks.message WHERE id = run_id FOR NO KEY UPDATE;
  UPDATE pgtasks.awaited SET wanted = 0 WHERE run = run_id AND wanted > 0 AND task <> ALL (tasks);
  INSERT INTO pgtasks.awaited (run, task, wanted)
  SELECT run_id, t, CASE WHEN EXISTS (SELECT FROM pgtasks.result WHERE id = t) THEN -1 ELSE wanting END
  FROM unnest(tasks) t ORDER BY t
  ON CONFLICT (run, task) DO UPDATE SET wanted = excluded.wanted;
  SELECT count(*) INTO ended FROM pgtasks.result WHERE id = ANY (tasks);
  IF (wanting = 1 AND ended > 0) OR (cardinality(tasks) > 0 AND ended = cardinality(tasks))
     OR until <= pgtasks.clock()
     OR EXISTS (SELECT FROM pgtasks.signal WHERE run = run_id AND name = ANY (names) AND ordinal IS NULL) THEN
    UPDATE pgtasks.awaited SET wanted = 0 WHERE run = run_id AND wanted > 0;
    RETURN 'ready';
  END IF;
  INSERT INTO pgtasks.step (run, name, ordinal, seq, kind, state, delivery, attempts, source, due)
  SELECT run_id, s.name, s.ordinal, s.seq, s.kind, 'PENDING', at_delivery, 0, s.source,
         coalesce(s.due, pgtasks.clock() + s.seconds * interval '1 second')
  FROM jsonb_to_recordset(steps)
       AS s(name text, ordinal int, seq int, kind text, source text, due timestamptz, seconds float8)
  ON CONFLICT (run, name, ordinal) DO NOTHING;
  SELECT least(until, min(s.due), pgtasks.clock() + recheck * interval '1 second') INTO until
  FROM pgtasks.step s JOIN jsonb_to_recordset(steps) AS p(name text, ordinal int) USING (name, ordinal)
  WHERE s.run = run_id AND s.state = 'PENDING';
  DELETE FROM pgtasks.claim WHERE id = run_id;
  INSERT INTO pgtasks.scheduled (id, due, retries, delivery, rank, queue, is_suspended)
  SELECT id, coalesce(until, '9999-01-01 00:00Z'), held.retries, held.delivery, -priority, queue, true
  FROM pgtasks.message WHERE id = run_id;
  RETURN 'suspended';
END
$$;

-- A signal wakes its run when the transaction that sends it commits: before that nobody could see it, and a lock that a
-- sender's long transaction held on the run would hold up workers.
CREATE FUNCTION pgtasks.wake_for_signal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pgtasks.wake(NEW.run);
  RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER signal_wakes AFTER INSERT ON pgtasks.signal
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pgtasks.wake_for_signal();

-- Send a signal to a run, in the sender's own transaction; true if it was not sent before under this key.
-- Raises for a run that is not known (no_data_found) or that has ended (object_not_in_prerequisite_state).
CREATE FUNCTION pgtasks.signal(
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
  ELSIF EXISTS (SELECT FROM pgtasks.result WHERE id = found_id) THEN
    RAISE object_not_in_prerequisite_state USING MESSAGE = format('The run %s has ended and takes no signals', run_id);
  END IF;
  INSERT INTO pgtasks.signal (run, name, value, content_type, content_encoding, key)
  VALUES (found_id, signal_name, value, content_type, content_encoding, key)
  ON CONFLICT (run, name, key) WHERE key IS NOT NULL DO NOTHING;
  RETURN FOUND;
END
$$;

-- The same for whoever writes SQL: SELECT pgtasks.signal('<id>', 'packed', '{"by": "ann"}').
CREATE FUNCTION pgtasks.signal(run_id text, signal_name text, value jsonb DEFAULT 'null', key text DEFAULT NULL)
  RETURNS boolean LANGUAGE sql
  AS $$ SELECT pgtasks.signal(run_id, signal_name, convert_to(value::text, 'UTF8'), NULL, NULL, key) $$;

-- What runs remember, with values that are JSON as text.
CREATE VIEW pgtasks.steps AS
SELECT run, seq, name, ordinal, kind,
       CASE WHEN kind = 'sleep' AND due <= pgtasks.clock() THEN 'SUCCESS' ELSE state END AS state, at, due, took, attempts, delivery, source,
       pgtasks.readable(value, content_type, content_encoding) AS value
FROM pgtasks.step;

-- One row per task that remembers anything, or is suspended. waits_for: what a suspended run waits for, as far as it is a wait
-- with a name or a time; open tasks are counted.
CREATE VIEW pgtasks.runs AS
SELECT m.id, m.task_id, m.name, m.queue,
       CASE
         WHEN r.id IS NOT NULL THEN r.state
         WHEN c.id IS NOT NULL THEN 'STARTED'
         WHEN s.is_suspended THEN 'SUSPENDED'
         WHEN s.id IS NOT NULL THEN 'SCHEDULED'
         ELSE 'READY'
       END AS state,
       m.created_at, r.done_at, coalesce(r.delivery, c.delivery, s.delivery, 0) AS delivery,
       CASE WHEN s.due < '9999-01-01' THEN s.due END AS wakes_at,
       (SELECT count(*) FROM pgtasks.step p WHERE p.run = m.id AND p.state <> 'PENDING') AS steps,
       ARRAY(SELECT coalesce(p.source, p.name) FROM pgtasks.step p
             WHERE p.run = m.id AND p.state = 'PENDING' AND (p.due IS NULL OR p.due > pgtasks.clock())
             ORDER BY p.seq) AS waits_for,
       (SELECT count(*) FROM pgtasks.awaited a WHERE a.run = m.id AND a.wanted > 0) AS open_tasks,
       m.root, m.parent
FROM pgtasks.message m
LEFT JOIN pgtasks.result r ON r.id = m.id
LEFT JOIN pgtasks.claim c ON c.id = m.id
LEFT JOIN pgtasks.scheduled s ON s.id = m.id
WHERE s.is_suspended OR EXISTS (SELECT FROM pgtasks.step p WHERE p.run = m.id);

-- Signals, and whether a wait has taken them.
CREATE VIEW pgtasks.signals AS
SELECT run, seq, name, at, key, ordinal IS NOT NULL AS is_taken,
       pgtasks.readable(value, content_type, content_encoding) AS value
FROM pgtasks.signal;

-- Where code and history differ.
CREATE VIEW pgtasks.divergences AS
SELECT d.run, m.name, d.seq, d.at, d.mode, d.found, d.recorded
FROM pgtasks.divergence d JOIN pgtasks.message m ON m.id = d.run;
