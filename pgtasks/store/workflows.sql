-- Statements on workflow runs: what they remember and wait for. See migrations/0005_workflows.sql for the tables.

-- name: recall
-- Everything that a run remembers, in the order in which the program came by: one read per replay, none on a first attempt.
-- Relies on step_pkey. In: run. Out: `Recorded`.
SELECT name, ordinal, seq, kind, state, attempts, due, due <= pgtasks.clock(), source, content_type, content_encoding, value
FROM pgtasks.step WHERE run = %(run)s
ORDER BY seq, name, ordinal

-- name: held
-- Does this worker still hold the run? In: run, worker, delivery. Out: one row if so: has it been cancelled.
SELECT revoke_signal IS NOT NULL FROM pgtasks.claim
WHERE id = %(run)s AND worker = %(worker)s AND delivery = %(delivery)s

-- name: remember
-- Record what came of a step: the one statement that a step costs. The claim is the fence; whoever was told that it is gone
-- has recorded nothing. It is not locked: of a step recorded at the very moment of a takeover the next worker may not know,
-- runs it again, and finds here that the first outcome stands, by the primary key. So there is no ON CONFLICT, which would
-- write a second record to the WAL. Relies on claim_pkey, step_pkey.
-- Out: one row if the claim holds: has the run been cancelled.
WITH fence AS (
  SELECT revoke_signal IS NOT NULL AS is_cancelled FROM pgtasks.claim
  WHERE id = %(run)s AND worker = %(worker)s AND delivery = %(delivery)s
),
noted AS (
  INSERT INTO pgtasks.step (run, took, ordinal, seq, delivery, attempts, kind, name, state, source,
                            content_type, content_encoding, value)
  SELECT %(run)s, %(took)s, %(ordinal)s, %(seq)s, %(delivery)s, %(attempts)s, %(kind)s, %(name)s, %(state)s, %(source)s,
         %(content_type)s, %(content_encoding)s, %(value)s
  FROM fence
)
SELECT is_cancelled FROM fence

-- name: remember_all
-- `remember` for steps of several runs that one worker holds, in one statement and one commit. One of them that is there
-- already makes all fail: then each is sent by itself. Relies on claim_pkey, step_pkey.
-- In: the worker, and arrays of what differs; a first try each, that gave a value in JSON. Out: per run whose claim holds, its
-- id and whether it has been cancelled.
WITH held AS MATERIALIZED (
  SELECT g.*, c.revoke_signal IS NOT NULL AS is_cancelled
  FROM unnest(%(runs)b::uuid[], %(deliveries)b::int[], %(ordinals)b::int[], %(seqs)b::int[], %(tooks)b::real[],
              %(kinds)b::text[], %(names)b::text[], %(values)b::bytea[])
       AS g(run, delivery, ordinal, seq, took, kind, name, value)
  JOIN pgtasks.claim c ON c.id = g.run AND c.worker = %(worker)s AND c.delivery = g.delivery
),
noted AS (
  INSERT INTO pgtasks.step (run, took, ordinal, seq, delivery, kind, name, state, value)
  SELECT run, took, ordinal, seq, delivery, kind, name, 'SUCCESS', value FROM held
)
SELECT run, is_cancelled FROM held

-- name: remember_within
-- As `remember`, in the transaction in which the step has written: the claim is locked until that commits, so a takeover
-- comes before all of it or after. Locks: claim.
WITH fence AS MATERIALIZED (
  SELECT revoke_signal IS NOT NULL AS is_cancelled FROM pgtasks.claim
  WHERE id = %(run)s AND worker = %(worker)s AND delivery = %(delivery)s FOR KEY SHARE
),
noted AS (
  INSERT INTO pgtasks.step (run, took, ordinal, seq, delivery, attempts, kind, name, state, source,
                            content_type, content_encoding, value)
  SELECT %(run)s, %(took)s, %(ordinal)s, %(seq)s, %(delivery)s, %(attempts)s, %(kind)s, %(name)s, %(state)s, %(source)s,
         %(content_type)s, %(content_encoding)s, %(value)s
  FROM fence
)
SELECT is_cancelled FROM fence

-- name: amend
-- Record what came of a step that has a PENDING row, or may have: a failure that is to be tried again after some seconds, and
-- what came of such a step, or of a wait, in the end. A row that is not PENDING stays. The claim is locked, so that the next
-- holder finds all of it: what this changes is not only added, and the key does not settle who was first. Locks: claim.
-- Out: one row if the claim holds: has the run been cancelled, was it recorded.
WITH fence AS MATERIALIZED (
  SELECT revoke_signal IS NOT NULL AS is_cancelled FROM pgtasks.claim
  WHERE id = %(run)s AND worker = %(worker)s AND delivery = %(delivery)s FOR KEY SHARE
),
noted AS (
  INSERT INTO pgtasks.step AS s (run, took, ordinal, seq, delivery, attempts, kind, name, state, source, due,
                                 content_type, content_encoding, value)
  SELECT %(run)s, %(took)s, %(ordinal)s, %(seq)s, %(delivery)s, %(attempts)s, %(kind)s, %(name)s, %(state)s, %(source)s,
         pgtasks.clock() + %(seconds)s::float8 * interval '1 second', %(content_type)s, %(content_encoding)s, %(value)s
  FROM fence
  ON CONFLICT (run, name, ordinal) DO UPDATE
  SET at = excluded.at, took = excluded.took, delivery = excluded.delivery, attempts = excluded.attempts,
      state = excluded.state, source = coalesce(excluded.source, s.source), due = coalesce(excluded.due, s.due),
      content_type = excluded.content_type, content_encoding = excluded.content_encoding, value = excluded.value
  WHERE s.state = 'PENDING'
  RETURNING 1
)
SELECT is_cancelled, EXISTS (SELECT FROM noted) FROM fence

-- name: adopt
-- Record that a run makes tasks, which are enqueued in the same transaction and round trip. The claim is the fence, locked
-- until that commits; if it is gone, this fails, and undoes the rest. Locks: claim. In: a step as for `remember`, the ids of
-- the tasks. Out: 1.
WITH fence AS MATERIALIZED (
  SELECT id FROM pgtasks.claim
  WHERE id = %(run)s AND worker = %(worker)s AND delivery = %(delivery)s FOR KEY SHARE
),
noted AS (
  INSERT INTO pgtasks.step (run, ordinal, seq, delivery, kind, name, state, source, value)
  SELECT %(run)s, %(ordinal)s, %(seq)s, %(delivery)s, 'child', %(name)s, 'SUCCESS', %(source)s, %(value)s FROM fence
),
listed AS (
  INSERT INTO pgtasks.awaited (run, task) SELECT %(run)s, t FROM fence CROSS JOIN unnest(%(tasks)b::uuid[]) AS t
  ON CONFLICT (run, task) DO NOTHING
)
SELECT CASE WHEN EXISTS (SELECT FROM fence) THEN 1 ELSE pgtasks.refuse_lost(%(run)s) END

-- name: collect
-- Record the results of those of some tasks that have ended, each as a step of its own. Locks: claim, awaited; none when no
-- task has ended, so that such a look writes nothing and waits for no disk.
-- In: arrays of steps and of their tasks. Out: cancelled, and per task that has ended: its step's ordinal and name, and what
-- came of it; one row of NULLs when none has; no row when the claim is gone.
WITH held AS (
  SELECT revoke_signal IS NOT NULL AS is_cancelled FROM pgtasks.claim
  WHERE id = %(run)s AND worker = %(worker)s AND delivery = %(delivery)s
),
found AS MATERIALIZED (
  SELECT s.name, s.ordinal, s.seq, r.id, r.state, r.content_type, r.content_encoding, r.value
  FROM unnest(%(names)b::text[], %(ordinals)b::int[], %(seqs)b::int[], %(tasks)b::uuid[]) AS s(name, ordinal, seq, task)
  JOIN pgtasks.result r ON r.id = s.task
  WHERE EXISTS (SELECT FROM held)
),
fence AS MATERIALIZED (
  SELECT id FROM pgtasks.claim
  WHERE id = %(run)s AND worker = %(worker)s AND delivery = %(delivery)s AND EXISTS (SELECT FROM found) FOR KEY SHARE
),
ended AS MATERIALIZED (
  SELECT found.* FROM found, fence
),
let_go AS (
  DELETE FROM pgtasks.awaited WHERE run = %(run)s AND task IN (SELECT id FROM ended)
),
noted AS (
  INSERT INTO pgtasks.step AS s (run, ordinal, seq, delivery, kind, name, state, source, content_type, content_encoding, value)
  SELECT %(run)s, e.ordinal, e.seq, %(delivery)s, 'get', e.name, CASE WHEN e.state = 'SUCCESS' THEN 'SUCCESS' ELSE 'FAILURE' END,
         e.id::text, e.content_type, e.content_encoding, e.value
  FROM ended e
  ON CONFLICT (run, name, ordinal) DO UPDATE
  SET at = excluded.at, delivery = excluded.delivery, state = excluded.state, source = excluded.source,
      content_type = excluded.content_type, content_encoding = excluded.content_encoding, value = excluded.value
  WHERE s.state = 'PENDING'
)
SELECT h.is_cancelled, e.name, e.ordinal, e.state, e.content_type, e.content_encoding, e.value
FROM held h LEFT JOIN ended e ON true
WHERE EXISTS (SELECT FROM fence) OR NOT EXISTS (SELECT FROM found)

-- name: receive
-- Take the first that is there of some signals and of the results of some tasks, and record it as what came of a wait. The
-- signal is used with it, so exactly once. When there is none and the wait's time is over, that is recorded instead, and
-- stands, whatever comes later. What is recorded already is given again, for whoever has lost the answer to its COMMIT, and
-- no second signal is used. The claim is locked: a signal that a worker takes in the moment of a takeover is known to the next
-- one, or was not taken. Locks: claim, signal; none when there is nothing to take, so that such a look writes nothing and
-- waits for no disk. Relies on signal_open.
-- In: a step as for `remember`, tasks, names. Out: no row when the claim is gone, else: has the run been cancelled, and what
-- was recorded: state, source, content type, encoding, value; NULL for nothing yet.
WITH held AS (
  SELECT revoke_signal IS NOT NULL AS is_cancelled FROM pgtasks.claim
  WHERE id = %(run)s AND worker = %(worker)s AND delivery = %(delivery)s
),
known AS MATERIALIZED (
  SELECT state, source, content_type, content_encoding, value FROM pgtasks.step
  WHERE run = %(run)s AND name = %(name)s AND ordinal = %(ordinal)s AND state <> 'PENDING'
),
found AS MATERIALIZED (
  SELECT * FROM (
    SELECT g.at, g.seq, g.name AS source, 'SUCCESS' AS state, g.content_type, g.content_encoding, g.value
    FROM unnest(%(names)b::text[]) AS n(name) CROSS JOIN LATERAL (
      SELECT * FROM pgtasks.signal WHERE run = %(run)s AND name = n.name AND ordinal IS NULL ORDER BY seq LIMIT 1
    ) g
    UNION ALL
    SELECT r.done_at, NULL, r.id::text, CASE WHEN r.state = 'SUCCESS' THEN 'SUCCESS' ELSE 'FAILURE' END,
           r.content_type, r.content_encoding, r.value
    FROM pgtasks.result r
    WHERE r.id = ANY (%(tasks)b::uuid[])
    UNION ALL
    SELECT 'infinity', NULL, NULL, 'TIMEOUT', NULL, NULL, NULL
    FROM pgtasks.step
    WHERE run = %(run)s AND name = %(name)s AND ordinal = %(ordinal)s AND state = 'PENDING' AND due <= pgtasks.clock()
  ) a
  WHERE EXISTS (SELECT FROM held) AND NOT EXISTS (SELECT FROM known)
  ORDER BY at, seq LIMIT 1
),
fence AS MATERIALIZED (
  SELECT id FROM pgtasks.claim
  WHERE id = %(run)s AND worker = %(worker)s AND delivery = %(delivery)s AND EXISTS (SELECT FROM found) FOR KEY SHARE
),
first AS MATERIALIZED (
  SELECT found.* FROM found, fence
),
used AS (
  UPDATE pgtasks.signal SET ordinal = %(ordinal)s, taken_by = %(name)s
  WHERE run = %(run)s AND seq = (SELECT seq FROM first) AND ordinal IS NULL
  RETURNING seq
),
noted AS (
  INSERT INTO pgtasks.step AS s (run, ordinal, seq, delivery, kind, name, state, source, content_type, content_encoding, value)
  SELECT %(run)s, %(ordinal)s, %(seq)s, %(delivery)s, %(kind)s, %(name)s, state, source, content_type, content_encoding, value
  FROM first
  -- Of two waits at once for one signal, one gets it.
  WHERE first.seq IS NULL OR first.seq IN (SELECT seq FROM used)
  ON CONFLICT (run, name, ordinal) DO UPDATE
  SET at = excluded.at, delivery = excluded.delivery, state = excluded.state, source = excluded.source,
      content_type = excluded.content_type, content_encoding = excluded.content_encoding, value = excluded.value
  WHERE s.state = 'PENDING'
  RETURNING state, source, content_type, content_encoding, value
)
SELECT h.is_cancelled, n.state, n.source, n.content_type, n.content_encoding, n.value
FROM held h LEFT JOIN (SELECT * FROM noted UNION ALL SELECT * FROM known) n ON true
WHERE EXISTS (SELECT FROM fence) OR NOT EXISTS (SELECT FROM found)

-- name: suspend
-- Suspend a run; `pgtasks.suspend` in the migration says how. Out: suspended, lost, cancelled or ready.
SELECT pgtasks.suspend(%(run)s, %(worker)s, %(delivery)s, %(steps)s::text::jsonb, %(tasks)b::uuid[], %(wanting)s::smallint,
                       %(names)b::text[], %(until)s::timestamptz, %(recheck)s::float8)

-- name: postpone
-- Give a run up for some seconds, without anything to wait for: no worker can go on with it now.
-- The claim is the fence, and goes. Out: 1 if it was ours.
WITH freed AS (
  DELETE FROM pgtasks.claim WHERE id = %(run)s AND worker = %(worker)s AND delivery = %(delivery)s
  RETURNING id, retries, delivery
),
held AS (
  INSERT INTO pgtasks.scheduled (id, due, retries, delivery, rank, queue, is_suspended)
  SELECT m.id, pgtasks.clock() + %(seconds)s::float8 * interval '1 second', f.retries, f.delivery, -m.priority, m.queue, true
  FROM freed f JOIN pgtasks.message m ON m.id = f.id
)
SELECT count(*) FROM freed

-- name: restart
-- Begin a run anew under its id: what it remembers goes, but for one step that says how often that was done, and signals it
-- has not used; tasks that it made are its own no more. The claim is the fence, and goes. Locks: claim, then step, awaited.
-- In: the generation. Out: 1 if it was ours.
WITH freed AS (
  DELETE FROM pgtasks.claim WHERE id = %(run)s AND worker = %(worker)s AND delivery = %(delivery)s
  RETURNING id, retries, delivery
),
forgotten AS (
  DELETE FROM pgtasks.step s USING freed f
  WHERE s.run = f.id AND NOT (s.name = 'wf.restart' AND s.ordinal = %(generation)s)
),
used AS (
  DELETE FROM pgtasks.signal g USING freed f WHERE g.run = f.id AND g.ordinal IS NOT NULL
),
let_go AS (
  DELETE FROM pgtasks.awaited a USING freed f WHERE a.run = f.id
),
noted AS (
  INSERT INTO pgtasks.step (run, ordinal, seq, delivery, kind, name, state)
  SELECT id, %(generation)s, 0, delivery, 'restart', 'wf.restart', 'SUCCESS' FROM freed
  ON CONFLICT (run, name, ordinal) DO NOTHING
),
returned AS (
  INSERT INTO pgtasks.ready (id, queue, rank, delivery, retries)
  SELECT m.id, m.queue, -m.priority, f.delivery, f.retries FROM freed f JOIN pgtasks.message m ON m.id = f.id
)
SELECT count(*) FROM freed

-- name: committed
-- Did a task end in this delivery? For whoever has lost the answer to its COMMIT. In: id, delivery. Out: true or false.
SELECT EXISTS (SELECT FROM pgtasks.result WHERE id = %(run)s AND delivery = %(delivery)s)

-- name: diverge
-- Log that a run's code came to something else than what the run remembers.
INSERT INTO pgtasks.divergence (run, seq, mode, found, recorded)
VALUES (%(run)s, %(seq)s, %(mode)s, %(found)s, %(recorded)s)
ON CONFLICT (run, seq, found) DO UPDATE SET at = pgtasks.clock(), mode = excluded.mode

-- name: forget_failure
-- Forget a failed step, so that it is run again when the run is. The claim is the fence. Out: 1 if it was forgotten.
WITH gone AS (
  DELETE FROM pgtasks.step s USING pgtasks.claim c
  WHERE c.id = %(run)s AND c.worker = %(worker)s AND c.delivery = %(delivery)s
    AND s.run = c.id AND s.name = %(name)s AND s.ordinal = %(ordinal)s AND s.state = 'FAILURE'
  RETURNING 1
)
SELECT count(*) FROM gone

-- name: blame
-- Note that a failed step is what ends its run, for a redrive. The claim is the fence. Out: 1 if it was noted.
WITH noted AS (
  UPDATE pgtasks.step s SET is_fatal = true FROM pgtasks.claim c
  WHERE c.id = %(run)s AND c.worker = %(worker)s AND c.delivery = %(delivery)s
    AND s.run = c.id AND s.name = %(name)s AND s.ordinal = %(ordinal)s AND s.state = 'FAILURE'
  RETURNING 1
)
SELECT count(*) FROM noted

-- name: signal
-- Send a signal to a run. Out: true if it was not sent before under this key; raises for a run unknown or ended.
SELECT pgtasks.signal(%(run)s::text, %(name)s::text, %(value)s::bytea, %(content_type)s::text, %(content_encoding)s::text,
                      %(key)s::text)

-- name: emitted
-- What a run has emitted to a stream from one place on, and whether it has ended by then: the end is looked at first.
-- In: run, name of the step, ordinal, limit. Out: ended, ordinal, content type, encoding, value; one row of NULLs for none.
SELECT e.is_over, s.ordinal, s.content_type, s.content_encoding, s.value
FROM (SELECT EXISTS (SELECT FROM pgtasks.result WHERE id = %(run)s)
          OR NOT EXISTS (SELECT FROM pgtasks.message WHERE id = %(run)s) AS is_over) e
LEFT JOIN LATERAL (
  SELECT ordinal, content_type, content_encoding, value FROM pgtasks.step
  WHERE run = %(run)s AND name = %(name)s AND ordinal >= %(after)s
  ORDER BY ordinal LIMIT %(limit)s
) s ON true
ORDER BY s.ordinal

-- name: latest
-- The newest value that a run has set under a name. In: run, name of the step. Out: content type, encoding, value.
SELECT content_type, content_encoding, value FROM pgtasks.step
WHERE run = %(run)s AND name = %(name)s ORDER BY ordinal DESC LIMIT 1
