-- Runs among transactions of every kind: no signal is passed over, none is handed out twice, none is waited for in vain.
--
-- Why: a signal knew the ordinal of the wait that took it, and not which wait that was; two waits with the same ordinal, of
-- several names or branches, made a fork lose signals and a rewind repeat them. A signal that is sent in a transaction with an
-- old snapshot (REPEATABLE READ) did not see that its run had been suspended since, and woke nobody. A run that was claimed
-- at the very moment of its revocation was suspended as if nothing had happened.
-- Locks: ACCESS EXCLUSIVE on signal for a moment, to add a column without a default. The previous release works on; what its
-- workers take, they do not put their wait's name to.
-- works with: 0010

-- taken_by: the name of the wait that took it. With `ordinal` it names the step.
ALTER TABLE pgtasks.signal ADD COLUMN taken_by text COLLATE "C";

-- Wake a run: move it from where it is suspended to the ready queue, and an idle worker with it. Nothing happens to one that
-- is not suspended. A transaction that does not see what was committed since it began would not see a run that was suspended
-- since; that is told by the key of the row which it cannot see, and whoever sends has to try again, as for every change that
-- such a transaction meets. The worker is told that something is ready: it claims, and need not look around before.
-- Locks: the message row, then scheduled.
CREATE OR REPLACE FUNCTION pgtasks.wake(run_id uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  place pgtasks.scheduled;
BEGIN
  PERFORM FROM pgtasks.message WHERE id = run_id FOR NO KEY UPDATE;
  DELETE FROM pgtasks.scheduled WHERE id = run_id AND is_suspended RETURNING * INTO place;
  IF NOT FOUND THEN
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable')
       AND NOT EXISTS (SELECT FROM pgtasks.scheduled WHERE id = run_id) THEN
      BEGIN
        INSERT INTO pgtasks.scheduled (id, due, rank, queue) VALUES (run_id, '9999-01-01 00:00Z', 0, '');
        DELETE FROM pgtasks.scheduled WHERE id = run_id;
      EXCEPTION WHEN unique_violation THEN
        RAISE serialization_failure USING
          MESSAGE = format('The run %s was suspended after this transaction began, and cannot be woken by it', run_id),
          HINT = 'Try the transaction again, or send in one that is READ COMMITTED.';
      END;
    END IF;
    RETURN;
  END IF;
  INSERT INTO pgtasks.ready (id, queue, rank, delivery, retries, losses)
  VALUES (place.id, place.queue, place.rank, place.delivery, place.retries, place.losses);
  PERFORM pg_notify('pgtasks_worker_' || i.worker, 'ready')
  FROM (SELECT worker FROM pgtasks.idle WHERE queue = place.queue ORDER BY random() LIMIT 1) i
  WHERE pg_notification_queue_usage() < 0.5;
END
$$;

-- Suspend a claimed run until one of the tasks or signals it waits for is there, all tasks of a set have ended, or the time
-- has come; with the waits that it must remember, as PENDING steps. The claim is the fence, and goes.
-- Gives 'suspended'; or, with nothing done, 'lost' (not its claim any more), 'cancelled', or 'ready' (it is there already).
-- Cancelled is also one whose revocation did not see the claim, nor the claim the revocation: it has a result.
-- Locks: claim, the message row, awaited by task.
CREATE OR REPLACE FUNCTION pgtasks.suspend(
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
  END IF;
  PERFORM FROM pgtasks.message WHERE id = run_id FOR NO KEY UPDATE;
  IF held.revoke_signal IS NOT NULL OR EXISTS (SELECT FROM pgtasks.result WHERE id = run_id) THEN
    RETURN 'cancelled';
  END IF;
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
