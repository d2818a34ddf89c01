-- Limits under an old snapshot: what is let in does not walk over what was let in before.
--
-- Why: while somebody holds an old snapshot (pg_dump, a replica that reports its own) no vacuum removes what is dead, and each
-- look from the start of a lane, of its places or of what knocks met all of it: 3,000 tasks after such a snapshot was taken a
-- task was let in by 11,000 pages, and the price grew with each one. Three things keep a look to what is alive:
--   * a lane knows its fronts: by rank, the first `seq` that may still be held. Whoever holds a task says which; the front
--     goes back to it if it came late. So a front is never behind a held task, but for one that nobody has told of yet.
--   * lanes and places belong to a generation of their flow, which is in front in their indexes. A new one begins every few
--     hundred turns, and takes along what is alive.
--   * only a transaction that may not wait for the lock of the flow leaves a knock. The last thousand are looked at each time.
-- A sweep looks from the beginning as well, for a fiftieth of the time at most: it finds whatever nobody told of.
-- Locks: ACCESS EXCLUSIVE on flow, lane, slot and knock while it runs: columns without rewriting, three small indexes built.
-- The previous release works on; what its senders hold is looked for from the start of its lane.
-- works with: 0011
-- same as: 6f8808046fca40ff

-- renew_at: the value of lane_turn at which a new generation begins. looked_at, look_took: the last look from the beginning.
-- Defaults come afterwards: since 17.12, Postgres adds no column that has one while the body of a function uses rows of the table.
ALTER TABLE pgtasks.flow
  ADD COLUMN generation int,
  ADD COLUMN renew_at bigint,
  ADD COLUMN looked_at timestamptz,
  ADD COLUMN look_took interval;
UPDATE pgtasks.flow SET generation = 0, renew_at = 0;
ALTER TABLE pgtasks.flow
  ALTER COLUMN generation SET DEFAULT 0, ALTER COLUMN generation SET NOT NULL,
  ALTER COLUMN renew_at SET DEFAULT 0, ALTER COLUMN renew_at SET NOT NULL;

-- The first task that knocks, in the order of `held`. Without: any, and a closed lane may have room again.
ALTER TABLE pgtasks.knock ADD COLUMN rank smallint, ADD COLUMN front bigint;

-- What is held knocks once more, so that each lane learns its fronts.
INSERT INTO pgtasks.knock (flow, key) SELECT flow, key FROM pgtasks.lane ORDER BY turn;
DELETE FROM pgtasks.lane;
ALTER TABLE pgtasks.lane
  ADD COLUMN generation int NOT NULL DEFAULT 0,
  ADD COLUMN ranks smallint[] NOT NULL DEFAULT '{}',
  ADD COLUMN fronts bigint[] NOT NULL DEFAULT '{}',
  DROP CONSTRAINT lane_pkey,
  ADD CONSTRAINT lane_pkey PRIMARY KEY (flow, generation, key);
DROP INDEX pgtasks.lane_open, pgtasks.lane_opens_at;
CREATE INDEX lane_open ON pgtasks.lane (flow, generation, turn) WHERE is_open;
CREATE INDEX lane_opens_at ON pgtasks.lane (flow, generation, opens_at) WHERE opens_at IS NOT NULL;

ALTER TABLE pgtasks.slot ADD COLUMN generation int NOT NULL DEFAULT 0;
DROP INDEX pgtasks.slot_place;
CREATE INDEX slot_place ON pgtasks.slot (flow, generation, key);

CREATE OR REPLACE FUNCTION pgtasks.room_of_key(f pgtasks.flow, of_key text) RETURNS bigint LANGUAGE sql STABLE
  RETURN least(
    f.concurrency - (SELECT count(*) FROM pgtasks.slot s
                     WHERE s.flow = f.name AND s.generation = f.generation AND s.key = of_key),
    f.rate - (SELECT count(*) FROM pgtasks.slot s
              WHERE s.flow = f.name AND s.generation = f.generation AND s.key = of_key AND NOT s.has_begun)
           - (SELECT count(*) FROM pgtasks.stamp t
              WHERE t.flow = f.name AND t.key = of_key AND t.at > pgtasks.clock() - f.period * interval '1 second'));

CREATE OR REPLACE FUNCTION pgtasks.room_of_flow(f pgtasks.flow) RETURNS bigint LANGUAGE sql STABLE
  RETURN least(
    f.total_concurrency - (SELECT count(*) FROM pgtasks.slot s WHERE s.flow = f.name AND s.generation = f.generation),
    f.total_rate - (SELECT count(*) FROM pgtasks.slot s
                    WHERE s.flow = f.name AND s.generation = f.generation AND NOT s.has_begun)
                 - (SELECT count(*) FROM pgtasks.stamp t
                    WHERE t.flow = f.name AND t.at > pgtasks.clock() - f.total_period * interval '1 second'));

-- The fronts of a lane as its held tasks say, from its start. One step per rank: nobody reads a backlog. Relies on held_pkey.
CREATE FUNCTION pgtasks.fronts_of(flow_name text, of_key text) RETURNS TABLE (rank smallint, front bigint)
  LANGUAGE sql STABLE ROWS 2 AS $$
  WITH RECURSIVE found AS (
    (SELECT h.rank, h.seq FROM pgtasks.held h WHERE h.flow = flow_name AND h.key = of_key ORDER BY h.rank, h.seq LIMIT 1)
    UNION ALL
    SELECT n.rank, n.seq FROM found p CROSS JOIN LATERAL (
      SELECT h.rank, h.seq FROM pgtasks.held h
      WHERE h.flow = flow_name AND h.key = of_key AND h.rank > p.rank ORDER BY h.rank, h.seq LIMIT 1) n
  )
  SELECT rank, seq FROM found
$$;

-- The keys of which a flow holds tasks, from the start. One step per key. Relies on held_pkey.
CREATE FUNCTION pgtasks.keys_of(flow_name text) RETURNS SETOF text LANGUAGE sql STABLE AS $$
  WITH RECURSIVE found AS (
    (SELECT h.key FROM pgtasks.held h WHERE h.flow = flow_name ORDER BY h.key LIMIT 1)
    UNION ALL
    SELECT n.key FROM found p CROSS JOIN LATERAL (
      SELECT h.key FROM pgtasks.held h WHERE h.flow = flow_name AND h.key > p.key ORDER BY h.key LIMIT 1) n
  )
  SELECT key FROM found
$$;

-- Begin a new generation of a flow: its lanes and places get new entries in their indexes, ahead of all that are dead. So
-- often that a look meets a few hundred dead ones at most, and so rarely that it moves one row per four turns at most.
-- Locks: the flow, which the caller holds. Gives the flow as it is then.
CREATE FUNCTION pgtasks.renew_flow(f pgtasks.flow) RETURNS pgtasks.flow LANGUAGE plpgsql AS $$
DECLARE
  renewed pgtasks.flow;
  lanes bigint;
  places bigint;
BEGIN
  UPDATE pgtasks.lane SET generation = f.generation + 1 WHERE flow = f.name AND generation = f.generation;
  GET DIAGNOSTICS lanes = ROW_COUNT;
  UPDATE pgtasks.slot SET generation = f.generation + 1 WHERE flow = f.name AND generation = f.generation;
  GET DIAGNOSTICS places = ROW_COUNT;
  UPDATE pgtasks.flow
  SET generation = f.generation + 1,
      renew_at = (SELECT pg_sequence_last_value('pgtasks.lane_turn')) + greatest(256, 4 * (lanes + places))
  WHERE name = f.name RETURNING * INTO renewed;
  RETURN renewed;
END
$$;

-- Note that tasks are held, given by key, rank and seq: their lanes are there, and have no front behind them. Without a rank
-- the lane is looked at from its start, and opened.
-- Locks: the flow, which the caller holds.
CREATE FUNCTION pgtasks.note_held(f pgtasks.flow, came_keys text[], came_ranks smallint[], came_fronts bigint[]) RETURNS void
  LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO pgtasks.lane AS l (flow, generation, key, ranks, fronts)
  SELECT f.name, f.generation, c.key, array_agg(c.rank ORDER BY c.rank), array_agg(c.front ORDER BY c.rank)
  FROM (
    SELECT u.key, w.rank, min(w.front) AS front
    FROM unnest(came_keys, came_ranks, came_fronts) AS u(key, rank, front) CROSS JOIN LATERAL (
      SELECT u.rank, u.front WHERE u.rank IS NOT NULL
      UNION ALL
      SELECT o.rank, o.front FROM pgtasks.fronts_of(f.name, u.key) o WHERE u.rank IS NULL
    ) w
    GROUP BY u.key, w.rank
  ) c
  GROUP BY c.key ORDER BY min(c.front)
  ON CONFLICT (flow, generation, key) DO UPDATE
  SET (ranks, fronts) = (
    SELECT array_agg(b.rank ORDER BY b.rank), array_agg(b.front ORDER BY b.rank)
    FROM (
      SELECT a.rank, min(a.front) AS front
      FROM (SELECT * FROM unnest(l.ranks, l.fronts) UNION ALL SELECT * FROM unnest(excluded.ranks, excluded.fronts))
           AS a(rank, front)
      GROUP BY a.rank
    ) b)
  -- In a backlog this is not so, and nothing is written.
  WHERE EXISTS (
    SELECT FROM unnest(excluded.ranks, excluded.fronts) AS c(rank, front)
    WHERE (c.front < l.fronts[array_position(l.ranks, c.rank)]) IS NOT FALSE);
  IF array_position(came_ranks, NULL) IS NOT NULL THEN
    UPDATE pgtasks.lane SET is_open = true, opens_at = NULL
    WHERE flow = f.name AND generation = f.generation AND NOT is_open
      AND key IN (SELECT u.key FROM unnest(came_keys, came_ranks) AS u(key, rank) WHERE u.rank IS NULL);
  END IF;
END
$$;

-- Let in what the limits of a flow leave room for, with tasks that are held since just now, given by key, rank and seq: one of
-- each lane that is open, then the next round. With keys no more is let in than the workers will claim soon: whoever comes
-- later waits behind that much, and behind one task of every other key. Relies on held_pkey, lane_open, slot_place, knock_pkey.
-- Locks: the flow. Gives how many were let in.
CREATE FUNCTION pgtasks.let_in(flow_name text, came_keys text[], came_ranks smallint[], came_fronts bigint[]) RETURNS bigint
  LANGUAGE plpgsql AS $$
DECLARE
  f pgtasks.flow;
  room bigint;
  share bigint;
  lanes bigint;
  got bigint;
  keys text[];
  total bigint := 0;
  queues text[] := '{}';
  these text[];
BEGIN
  PERFORM pg_advisory_xact_lock(pgtasks.flow_lock(flow_name));
  SELECT * INTO f FROM pgtasks.flow WHERE name = flow_name;
  IF NOT FOUND THEN
    -- Nobody has said what the limits are. A worker that knows such tasks does when it starts.
    INSERT INTO pgtasks.knock (flow, key, rank, front)
    SELECT flow_name, u.key, u.rank, u.front FROM unnest(came_keys, came_ranks, came_fronts) AS u(key, rank, front);
    RETURN 0;
  END IF;
  IF (SELECT pg_sequence_last_value('pgtasks.lane_turn')) >= f.renew_at THEN
    f := pgtasks.renew_flow(f);
  END IF;
  WITH knocked AS (
    -- The sequence says which are new: it has no dead rows.
    DELETE FROM pgtasks.knock
    WHERE flow = f.name AND seq > (SELECT pg_sequence_last_value('pgtasks.knock_seq_seq') - 1000) RETURNING key, rank, front
  )
  SELECT came_keys || array_agg(key), came_ranks || array_agg(rank), came_fronts || array_agg(front)
  INTO came_keys, came_ranks, came_fronts FROM knocked;
  IF cardinality(came_keys) > 0 THEN
    PERFORM pgtasks.note_held(f, came_keys, came_ranks, came_fronts);
  END IF;
  UPDATE pgtasks.lane SET is_open = true, opens_at = NULL
  WHERE flow = f.name AND generation = f.generation AND opens_at <= pgtasks.clock();
  FOR pass IN 1..1000 LOOP
    room := pgtasks.room_of_flow(f);
    IF f.is_keyed THEN
      room := least(room, greatest(16, 4 * (
          SELECT sum(concurrency) FROM pgtasks.worker WHERE heartbeat_at + lease > pgtasks.clock()))
        - (SELECT count(*) FROM pgtasks.slot s WHERE s.flow = f.name AND s.generation = f.generation));
    END IF;
    room := coalesce(room, 500);
    EXIT WHEN room <= 0;
    keys := ARRAY(
      SELECT key FROM pgtasks.lane
      WHERE flow = f.name AND generation = f.generation AND is_open ORDER BY turn LIMIT least(room, 100));
    lanes := cardinality(keys);
    EXIT WHEN lanes = 0;
    -- Fewer lanes than room: each may have more than one, in turns.
    share := CASE WHEN lanes < room THEN greatest(1, least(room / lanes, 500)) ELSE 1 END;
    WITH lane AS (
      SELECT k.key, k.place, l.ranks, l.fronts,
             greatest(0, least(share, coalesce(pgtasks.room_of_key(f, k.key), share))) AS room
      FROM unnest(keys) WITH ORDINALITY AS k(key, place) CROSS JOIN LATERAL (
        SELECT * FROM pgtasks.lane WHERE flow = f.name AND generation = f.generation AND key = k.key OFFSET 0
      ) l
    ),
    picked AS MATERIALIZED (
      SELECT h.at, h.id, lane.place, row_number() OVER (PARTITION BY lane.key ORDER BY h.rank, h.seq) AS round
      FROM lane CROSS JOIN LATERAL (
        -- Rank by rank, each from its front; it ends where the room does.
        SELECT r.* FROM unnest(lane.ranks, lane.fronts) AS c(rank, front) CROSS JOIN LATERAL (
          SELECT ctid AS at, id, rank, seq FROM pgtasks.held
          WHERE flow = f.name AND key = lane.key AND rank = c.rank AND seq >= c.front
          ORDER BY seq LIMIT lane.room FOR UPDATE SKIP LOCKED
        ) r
        LIMIT lane.room
      ) h
    ),
    freed AS (
      -- By ctid, as `claim` does: these rows are never updated, and a join would read all that is held.
      DELETE FROM pgtasks.held WHERE ctid = ANY (ARRAY(SELECT at FROM picked)) RETURNING *
    ),
    placed AS (
      INSERT INTO pgtasks.slot (id, flow, key, generation) SELECT id, flow, key, f.generation FROM freed
      ON CONFLICT (id) DO UPDATE
      SET flow = excluded.flow, key = excluded.key, generation = excluded.generation, has_begun = false
    ),
    entered AS (
      INSERT INTO pgtasks.ready (id, queue, rank, delivery, retries, losses)
      SELECT e.id, e.queue, e.rank, e.delivery, e.retries, e.losses
      FROM freed e JOIN picked p ON p.id = e.id ORDER BY p.round, p.place
      RETURNING queue
    )
    -- Each place counts as a turn towards the next generation.
    SELECT count(nextval('pgtasks.lane_turn')), array_agg(DISTINCT queue) INTO got, these FROM entered;
    total := total + got;
    queues := queues || these;
    -- The new front is what is held now, even if somebody has it locked: it may be let go.
    WITH still AS MATERIALIZED (
      SELECT k.key, k.place, n.ranks, n.fronts, coalesce(pgtasks.room_of_key(f, k.key), 1) AS room
      FROM unnest(keys) WITH ORDINALITY AS k(key, place) CROSS JOIN LATERAL (
        SELECT * FROM pgtasks.lane WHERE flow = f.name AND generation = f.generation AND key = k.key OFFSET 0
      ) l CROSS JOIN LATERAL (
        SELECT array_agg(h.rank ORDER BY h.rank) AS ranks, array_agg(h.seq ORDER BY h.rank) AS fronts
        FROM unnest(l.ranks, l.fronts) AS c(rank, front) CROSS JOIN LATERAL (
          SELECT rank, seq FROM pgtasks.held
          WHERE flow = f.name AND key = k.key AND rank = c.rank AND seq >= c.front ORDER BY seq LIMIT 1
        ) h
      ) n
      ORDER BY k.place
    ),
    emptied AS (
      DELETE FROM pgtasks.lane
      WHERE flow = f.name AND generation = f.generation AND key = ANY (ARRAY(SELECT key FROM still WHERE ranks IS NULL))
    )
    UPDATE pgtasks.lane l
    SET turn = nextval('pgtasks.lane_turn'),
        ranks = s.ranks,
        fronts = s.fronts,
        is_open = s.room > 0,
        opens_at = CASE WHEN s.room <= 0 AND f.rate IS NOT NULL THEN pgtasks.opening((
          SELECT min(t.at) FROM pgtasks.stamp t
          WHERE t.flow = f.name AND t.key = l.key AND t.at > pgtasks.clock() - f.period * interval '1 second'), f.period) END
    FROM still s
    WHERE l.flow = f.name AND l.generation = f.generation AND l.key = s.key AND s.ranks IS NOT NULL;
    -- Rows that somebody has locked, to revoke them, are left where they are.
    EXIT WHEN got = 0 AND NOT EXISTS (
      SELECT FROM pgtasks.lane l
      WHERE l.flow = f.name AND l.generation = f.generation AND l.is_open AND l.key <> ALL (keys));
  END LOOP;
  IF f.total_rate IS NOT NULL AND room <= 0 THEN
    UPDATE pgtasks.flow SET opens_at = pgtasks.opening((
      SELECT min(t.at) FROM pgtasks.stamp t
      WHERE t.flow = f.name AND t.at > pgtasks.clock() - f.total_period * interval '1 second'), f.total_period)
    -- Not anew for each that comes while the rate is used up.
    WHERE name = f.name AND (opens_at > pgtasks.clock()) IS NOT TRUE;
  END IF;
  PERFORM pg_notify('pgtasks_worker_' || i.worker, 'ready')
  FROM (
    SELECT worker FROM pgtasks.idle WHERE queue = ANY (queues)
    GROUP BY worker ORDER BY random() LIMIT total
  ) i
  WHERE pg_notification_queue_usage() < 0.5;
  RETURN total;
END
$$;

-- Let in what knocks, whenever it did, and what the limits of a flow leave room for.
-- Locks: the flow. Gives how many were let in.
CREATE OR REPLACE FUNCTION pgtasks.let_in(flow_name text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  came_keys text[];
  came_ranks smallint[];
  came_fronts bigint[];
BEGIN
  PERFORM pg_advisory_xact_lock(pgtasks.flow_lock(flow_name));
  WITH knocked AS (
    DELETE FROM pgtasks.knock
    WHERE flow = flow_name AND EXISTS (SELECT FROM pgtasks.flow WHERE name = flow_name) RETURNING key, rank, front
  )
  SELECT array_agg(key), array_agg(rank), array_agg(front) INTO came_keys, came_ranks, came_fronts FROM knocked;
  RETURN pgtasks.let_in(flow_name, came_keys, came_ranks, came_fronts);
END
$$;

-- As before, in the generations of flows.
CREATE OR REPLACE FUNCTION pgtasks.ask_flow(task uuid, by_worker uuid, at_delivery int, flow_name text, flow_key text)
  RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  c pgtasks.claim;
  f pgtasks.flow;
  has_rate boolean;
  had pgtasks.slot;
  came pgtasks.held;
BEGIN
  SELECT * INTO c FROM pgtasks.claim WHERE id = task AND worker = by_worker AND delivery = at_delivery FOR UPDATE;
  IF NOT FOUND THEN
    RETURN 'lost';
  END IF;
  PERFORM pg_advisory_xact_lock(pgtasks.flow_lock(flow_name));
  SELECT * INTO f FROM pgtasks.flow WHERE name = flow_name;
  IF NOT FOUND THEN
    RETURN 'unknown';
  END IF;
  has_rate := f.rate IS NOT NULL OR f.total_rate IS NOT NULL;
  DELETE FROM pgtasks.slot WHERE id = task RETURNING * INTO had;
  IF (had.flow, had.key) <> (flow_name, flow_key) THEN
    -- A retry with other arguments: whoever sweeps next lets in who waits for its old place, whose flow is not locked here.
    INSERT INTO pgtasks.knock (flow, key) VALUES (had.flow, had.key);
  END IF;
  IF c.revoke_signal IS NULL
     AND coalesce(least(pgtasks.room_of_key(f, flow_key), pgtasks.room_of_flow(f)), 1) > 0
     AND ((had.flow, had.key) = (flow_name, flow_key)
          OR NOT EXISTS (
            SELECT FROM pgtasks.lane l CROSS JOIN LATERAL unnest(l.ranks, l.fronts) AS o(rank, front)
            WHERE l.flow = f.name AND l.generation = f.generation AND l.key = flow_key
              AND EXISTS (
                SELECT FROM pgtasks.held h
                WHERE h.flow = f.name AND h.key = flow_key AND h.rank = o.rank AND h.seq >= o.front OFFSET 0))) THEN
    INSERT INTO pgtasks.slot (id, flow, key, generation, has_begun)
    VALUES (task, flow_name, flow_key, f.generation, has_rate);
    PERFORM nextval('pgtasks.lane_turn');
    IF has_rate THEN
      INSERT INTO pgtasks.stamp (flow, key, id, at) VALUES (flow_name, flow_key, task, pgtasks.clock());
    END IF;
    RETURN 'go';
  END IF;
  DELETE FROM pgtasks.claim WHERE id = task;
  INSERT INTO pgtasks.revoked (id) SELECT task WHERE c.revoke_signal IS NOT NULL ON CONFLICT (id) DO NOTHING;
  INSERT INTO pgtasks.held (id, flow, key, queue, rank, retries, delivery, losses)
  SELECT id, flow_name, flow_key, queue, -priority, c.retries, c.delivery, c.losses FROM pgtasks.message WHERE id = task
  RETURNING * INTO came;
  PERFORM pgtasks.let_in(flow_name, ARRAY[came.key], ARRAY[came.rank], ARRAY[came.seq]);
  RETURN 'held';
END
$$;

-- As before, in the generations of flows.
CREATE OR REPLACE FUNCTION pgtasks.leave_flow(tasks uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  each_name text;
BEGIN
  FOR each_name IN SELECT DISTINCT flow FROM pgtasks.slot WHERE id = ANY (tasks) ORDER BY flow LOOP
    PERFORM pg_advisory_xact_lock(pgtasks.flow_lock(each_name));
    WITH gone AS (
      -- IS TRUE: found by id. By the flow, all that were dead would be read.
      DELETE FROM pgtasks.slot s
      WHERE s.id = ANY (tasks) AND (s.flow = each_name) IS TRUE
        AND NOT EXISTS (SELECT FROM pgtasks.claim c WHERE c.id = s.id)
      RETURNING key
    )
    UPDATE pgtasks.lane SET is_open = true, opens_at = NULL
    WHERE flow = each_name AND generation = (SELECT generation FROM pgtasks.flow WHERE name = each_name)
      AND key = ANY (ARRAY(SELECT key FROM gone)) AND NOT is_open;
    PERFORM pgtasks.let_in(each_name, '{}', '{}', '{}');
  END LOOP;
END
$$;

-- Must a sweep look at a flow from the beginning? Such looks take a fiftieth of the time at most, however long one takes.
CREATE FUNCTION pgtasks.must_look(f pgtasks.flow) RETURNS boolean LANGUAGE sql STABLE
  RETURN coalesce(f.looked_at + 50 * f.look_took <= pgtasks.clock(), true);

-- Put right what no end of a task has put right, about once a second while anything is held: give up places of tasks that
-- ended elsewhere (revoked, stored from outside), that sleep or wait to be tried again; let in what a rate allows by now, and
-- what was put where nobody looks. A flow that somebody else is at is left to them.
-- Gives how many were let in, and the seconds until a rate lets in more.
CREATE OR REPLACE FUNCTION pgtasks.sweep_flows(OUT total bigint, OUT opens_in float8) LANGUAGE plpgsql AS $$
DECLARE
  each_name text;
  f pgtasks.flow;
  everywhere boolean;
  began_at timestamptz;
  longest interval;
  came_keys text[];
  came_ranks smallint[];
  came_fronts bigint[];
BEGIN
  total := 0;
  FOR each_name IN
    SELECT w.name FROM pgtasks.flow w
    WHERE (coalesce(w.swept_at, '-infinity') < pgtasks.clock() - interval '0.5 seconds'
           AND (pgtasks.must_look(w)
                OR EXISTS (SELECT FROM pgtasks.lane l WHERE l.flow = w.name AND l.generation = w.generation OFFSET 0)))
       OR w.opens_at <= pgtasks.clock()
       OR EXISTS (SELECT FROM pgtasks.lane l
                  WHERE l.flow = w.name AND l.generation = w.generation AND l.opens_at <= pgtasks.clock() OFFSET 0)
       OR EXISTS (SELECT FROM pgtasks.knock k
                  WHERE k.flow = w.name AND k.seq > (SELECT pg_sequence_last_value('pgtasks.knock_seq_seq') - 1000) OFFSET 0)
    ORDER BY w.name
  LOOP
    CONTINUE WHEN NOT pg_try_advisory_xact_lock(pgtasks.flow_lock(each_name));
    began_at := clock_timestamp();
    SELECT * INTO f FROM pgtasks.flow WHERE name = each_name;
    everywhere := pgtasks.must_look(f);
    WITH gone AS (
      DELETE FROM pgtasks.slot s
      WHERE s.flow = f.name AND s.generation = f.generation AND NOT EXISTS (SELECT FROM pgtasks.claim c WHERE c.id = s.id)
        AND (EXISTS (SELECT FROM pgtasks.result r WHERE r.id = s.id)
             OR EXISTS (SELECT FROM pgtasks.scheduled d WHERE d.id = s.id)
             OR EXISTS (SELECT FROM pgtasks.waiting w WHERE w.id = s.id AND w.pending > 0)
             OR NOT EXISTS (SELECT FROM pgtasks.message m WHERE m.id = s.id))
      RETURNING key
    )
    UPDATE pgtasks.lane SET is_open = true, opens_at = NULL
    WHERE flow = f.name AND generation = f.generation AND key = ANY (ARRAY(SELECT key FROM gone)) AND NOT is_open;
    longest := greatest(f.period, f.total_period, 0) * interval '1 second';
    -- Those that were too old at the last sweep are gone since.
    DELETE FROM pgtasks.stamp t
    WHERE t.flow = f.name AND t.at < pgtasks.clock() - longest
      AND t.at >= CASE WHEN everywhere THEN '-infinity' ELSE f.swept_at - longest - interval '1 minute' END;
    WITH knocked AS (
      DELETE FROM pgtasks.knock
      WHERE flow = f.name AND seq > CASE WHEN everywhere THEN 0 ELSE (SELECT pg_sequence_last_value('pgtasks.knock_seq_seq') - 1000) END
      RETURNING key, rank, front
    ),
    found AS (
      SELECT k.key, o.rank, o.front FROM pgtasks.keys_of(f.name) AS k(key), pgtasks.fronts_of(f.name, k.key) o WHERE everywhere
    )
    SELECT array_agg(key), array_agg(rank), array_agg(front) INTO came_keys, came_ranks, came_fronts
    FROM (SELECT * FROM knocked UNION ALL SELECT * FROM found) come;
    UPDATE pgtasks.flow
    SET swept_at = pgtasks.clock(), opens_at = NULL,
        looked_at = CASE WHEN everywhere THEN pgtasks.clock() ELSE looked_at END,
        look_took = CASE WHEN everywhere THEN clock_timestamp() - began_at ELSE look_took END
    WHERE name = f.name;
    total := total + pgtasks.let_in(f.name, came_keys, came_ranks, came_fronts);
  END LOOP;
  SELECT extract(epoch FROM min(least(CASE WHEN w.opens_at > pgtasks.clock() THEN w.opens_at END, l.opens_at)) - pgtasks.clock())
  INTO opens_in
  FROM pgtasks.flow w CROSS JOIN LATERAL (
    SELECT min(opens_at) AS opens_at FROM pgtasks.lane
    WHERE flow = w.name AND generation = w.generation AND opens_at > pgtasks.clock()
  ) l;
END
$$;
