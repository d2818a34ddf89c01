-- Two things about the lock of a flow: in which order it is taken, and how long a sweep keeps it.
--
-- Why: a retry may have other arguments, and so belong to another flow. `ask_flow` deleted its old place while it had the lock
-- of the new flow alone. So three sessions could wait for each other: one that gives up places of both, one that settles tasks
-- of several flows, and the one that asks; the server ended one of them after a second. Now both flows are locked, by name.
-- A sweep that looks from the beginning read all that is held under the lock: 100,000 keys took 3 s of the server's processor,
-- in which no task of the flow began or ended. Now it reads before, and under the lock notes what no lane has told of.
-- Locks: none but those on catalogs. The previous release works on.
-- works with: 0012

-- As before, but for the locks: the claim, then the flows by name.
CREATE OR REPLACE FUNCTION pgtasks.ask_flow(task uuid, by_worker uuid, at_delivery int, flow_name text, flow_key text)
  RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  c pgtasks.claim;
  f pgtasks.flow;
  has_rate boolean;
  had pgtasks.slot;
  came pgtasks.held;
  each_name text;
BEGIN
  SELECT * INTO c FROM pgtasks.claim WHERE id = task AND worker = by_worker AND delivery = at_delivery FOR UPDATE;
  IF NOT FOUND THEN
    RETURN 'lost';
  END IF;
  -- Nobody gives a claimed task a place, so the one that it has may be gone when its flow is locked, but is in no other.
  FOR each_name IN
    SELECT flow_name COLLATE "C" UNION SELECT flow FROM pgtasks.slot WHERE id = task ORDER BY 1
  LOOP
    PERFORM pg_advisory_xact_lock(pgtasks.flow_lock(each_name));
  END LOOP;
  SELECT * INTO f FROM pgtasks.flow WHERE name = flow_name;
  IF NOT FOUND THEN
    RETURN 'unknown';
  END IF;
  has_rate := f.rate IS NOT NULL OR f.total_rate IS NOT NULL;
  DELETE FROM pgtasks.slot WHERE id = task RETURNING * INTO had;
  IF (had.flow, had.key) <> (flow_name, flow_key) THEN
    -- A retry with other arguments: whoever sweeps next lets in who waits for its old place.
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

-- The first task that is held in a lane at a rank.
CREATE TYPE pgtasks.front AS (flow text COLLATE "C", key text COLLATE "C", rank smallint, front bigint);

-- What is held in a flow and its lanes have not told of: no lane, no front of that rank, or one that is behind it. One step per
-- key and rank: nobody reads a backlog. Nothing is locked: somebody may be telling, or letting it in. Relies on held_pkey, lane_pkey.
CREATE FUNCTION pgtasks.untold(flow_name text) RETURNS SETOF pgtasks.front LANGUAGE sql STABLE AS $$
  WITH RECURSIVE found AS (
    (SELECT h.key, h.rank, h.seq FROM pgtasks.held h WHERE h.flow = flow_name ORDER BY h.key, h.rank, h.seq LIMIT 1)
    UNION ALL
    SELECT n.* FROM found p CROSS JOIN LATERAL (
      SELECT h.key, h.rank, h.seq FROM pgtasks.held h
      WHERE h.flow = flow_name AND (h.key, h.rank) > (p.key, p.rank) ORDER BY h.key, h.rank, h.seq LIMIT 1) n
  )
  SELECT flow_name, o.key, o.rank, o.seq FROM found o
  WHERE NOT EXISTS (
    SELECT FROM pgtasks.lane l
    WHERE l.flow = flow_name AND l.generation = (SELECT f.generation FROM pgtasks.flow f WHERE f.name = flow_name)
      AND l.key = o.key AND l.fronts[array_position(l.ranks, o.rank)] <= o.seq OFFSET 0)
$$;

DROP FUNCTION pgtasks.keys_of(text);

-- Put right what no end of a task has put right, about once a second while anything is held: as before, but that looks from the
-- beginning are made before any flow is locked, by one session at a time, which then waits for its turn.
CREATE OR REPLACE FUNCTION pgtasks.sweep_flows(OUT total bigint, OUT opens_in float8) LANGUAGE plpgsql AS $$
DECLARE
  each_name text;
  f pgtasks.flow;
  everywhere boolean;
  looked text[] := '{}';
  took interval[] := '{}';
  untold pgtasks.front[] := '{}';
  began_at timestamptz;
  longest interval;
  came_keys text[];
  came_ranks smallint[];
  came_fronts bigint[];
BEGIN
  total := 0;
  FOR each_name IN
    SELECT w.name FROM pgtasks.flow w
    WHERE coalesce(w.swept_at, '-infinity') < pgtasks.clock() - interval '0.5 seconds' AND pgtasks.must_look(w)
  LOOP
    CONTINUE WHEN NOT pg_try_advisory_xact_lock(pgtasks.flow_lock('look:' || each_name));
    began_at := clock_timestamp();
    untold := untold || ARRAY(SELECT o FROM pgtasks.untold(each_name) o);
    looked := looked || each_name;
    took := took || (clock_timestamp() - began_at);
  END LOOP;
  FOR each_name IN
    SELECT w.name FROM pgtasks.flow w
    WHERE (coalesce(w.swept_at, '-infinity') < pgtasks.clock() - interval '0.5 seconds'
           AND EXISTS (SELECT FROM pgtasks.lane l WHERE l.flow = w.name AND l.generation = w.generation OFFSET 0))
       OR w.name = ANY (looked)
       OR w.opens_at <= pgtasks.clock()
       OR EXISTS (SELECT FROM pgtasks.lane l
                  WHERE l.flow = w.name AND l.generation = w.generation AND l.opens_at <= pgtasks.clock() OFFSET 0)
       OR EXISTS (SELECT FROM pgtasks.knock k
                  WHERE k.flow = w.name AND k.seq > (SELECT pg_sequence_last_value('pgtasks.knock_seq_seq') - 1000) OFFSET 0)
    ORDER BY w.name
  LOOP
    everywhere := each_name = ANY (looked);
    IF everywhere THEN
      PERFORM pg_advisory_xact_lock(pgtasks.flow_lock(each_name));
    ELSE
      CONTINUE WHEN NOT pg_try_advisory_xact_lock(pgtasks.flow_lock(each_name));
    END IF;
    began_at := clock_timestamp();
    SELECT * INTO f FROM pgtasks.flow WHERE name = each_name;
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
    come AS (
      SELECT key, rank, front FROM knocked UNION ALL SELECT key, rank, front FROM unnest(untold) WHERE flow = each_name
    )
    SELECT array_agg(key), array_agg(rank), array_agg(front) INTO came_keys, came_ranks, came_fronts FROM come;
    UPDATE pgtasks.flow
    SET swept_at = pgtasks.clock(), opens_at = NULL,
        looked_at = CASE WHEN everywhere THEN pgtasks.clock() ELSE looked_at END,
        look_took = CASE WHEN everywhere THEN took[array_position(looked, each_name)] + (clock_timestamp() - began_at)
                         ELSE look_took END
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
