-- Flow control: how many tasks run at once, how many begin in a time, whose turn it is, and calls that are one task.
--
-- Why: see docs/decisions/0005-flow-control.md. What is limited waits in `held` and is let in to `ready`, so that claims
-- know nothing of limits. `begin_in_flow`, asked just before a limited task's code runs, is the gate that every delivery
-- passes, whatever path it came by; letting in ahead of it only saves futile trips. These are functions since each of their
-- statements must see what was committed while they waited for the lock of the flow.
-- Locks: creates only, and ACCESS EXCLUSIVE on two views for a moment. The previous release works on and knows no limits.
-- Lock order: claim, waiting, message, then flows by name (advisory, held to the end of the transaction), then held and slot.
-- works with: 0005

-- The limits of a flow. Without `is_set_by_hand` they are those of the program that declared them last.
-- The first three are of each key, the total ones of all keys together. `opens_at`: when the total rate lets the next one in.
CREATE TABLE pgtasks.flow (
  name text COLLATE "C" NOT NULL,
  opens_at timestamptz,
  swept_at timestamptz,
  period float8,
  total_period float8,
  concurrency int,
  rate int,
  total_concurrency int,
  total_rate int,
  bucket smallint NOT NULL DEFAULT 0,
  is_keyed boolean NOT NULL DEFAULT false,
  is_set_by_hand boolean NOT NULL DEFAULT false,
  CONSTRAINT flow_pkey PRIMARY KEY (name),
  CONSTRAINT flow_concurrency_positive CHECK (concurrency > 0 AND total_concurrency > 0),
  CONSTRAINT flow_rate_positive CHECK (rate > 0 AND period > 0 AND total_rate > 0 AND total_period > 0),
  CONSTRAINT flow_rate_whole CHECK ((rate IS NULL) = (period IS NULL) AND (total_rate IS NULL) = (total_period IS NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Limited tasks that may run but for the limits. Within a lane, which is a flow and a key, in the order of work.
CREATE TABLE pgtasks.held (
  id uuid NOT NULL,
  seq bigint NOT NULL DEFAULT nextval('pgtasks.ready_seq'),
  since timestamptz NOT NULL DEFAULT pgtasks.clock(),
  retries int NOT NULL DEFAULT 0,
  delivery int NOT NULL DEFAULT 0,
  bucket smallint NOT NULL DEFAULT 0,
  rank smallint NOT NULL,
  losses smallint NOT NULL DEFAULT 0,
  flow text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  queue text COLLATE "C" NOT NULL,
  CONSTRAINT held_pkey PRIMARY KEY (flow, key, rank, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
CREATE INDEX held_id ON pgtasks.held (id);

-- Lanes in which something has been held since nobody has looked. Whoever enqueues in a long transaction leaves a row here,
-- which nobody has to wait for.
CREATE TABLE pgtasks.knock (
  seq bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
  bucket smallint NOT NULL DEFAULT 0,
  flow text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  CONSTRAINT knock_pkey PRIMARY KEY (flow, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- The lanes that hold something, in the order of their turns. A closed one is at its limit; if that is its rate, until
-- `opens_at`. Written under the lock of the flow only.
CREATE SEQUENCE pgtasks.lane_turn;
CREATE TABLE pgtasks.lane (
  turn bigint NOT NULL DEFAULT nextval('pgtasks.lane_turn'),
  opens_at timestamptz,
  bucket smallint NOT NULL DEFAULT 0,
  is_open boolean NOT NULL DEFAULT true,
  flow text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  CONSTRAINT lane_pkey PRIMARY KEY (flow, key)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);
CREATE INDEX lane_open ON pgtasks.lane (flow, turn) WHERE is_open;
CREATE INDEX lane_opens_at ON pgtasks.lane (opens_at) WHERE opens_at IS NOT NULL;

-- Tasks that were let in and have not ended: a place is held by a task, so that it ends with the task, and stays while a dead
-- worker's task waits to be run again. has_begun: its start has been counted among `stamp`; only where there is a rate.
CREATE TABLE pgtasks.slot (
  id uuid NOT NULL,
  since timestamptz NOT NULL DEFAULT pgtasks.clock(),
  bucket smallint NOT NULL DEFAULT 0,
  has_begun boolean NOT NULL DEFAULT false,
  flow text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  CONSTRAINT slot_pkey PRIMARY KEY (id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX slot_place ON pgtasks.slot (flow, key);

-- When tasks of a flow with a rate have begun: every delivery of each. Kept for one period.
CREATE TABLE pgtasks.stamp (
  at timestamptz NOT NULL,
  bucket smallint NOT NULL DEFAULT 0,
  id uuid NOT NULL,
  flow text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX stamp_of_key ON pgtasks.stamp (flow, key, at);
CREATE INDEX stamp_of_flow ON pgtasks.stamp (flow, at);

-- What queues are limited to, whoever sends to them. A place in a queue is a claim, so there is nothing else to keep.
CREATE TABLE pgtasks.queue_limit (
  queue text COLLATE "C" NOT NULL,
  period float8,
  concurrency int,
  per_worker int,
  rate int,
  bucket smallint NOT NULL DEFAULT 0,
  CONSTRAINT queue_limit_pkey PRIMARY KEY (queue),
  CONSTRAINT queue_limit_not_negative CHECK (concurrency >= 0 AND per_worker >= 0 AND rate > 0 AND period > 0),
  CONSTRAINT queue_limit_rate_whole CHECK ((rate IS NULL) = (period IS NULL))
);

-- Which task stands for a unique or debounced call. Whether it still does is asked of the task, so nothing has to be done
-- when that ends. debounced_since: the first of the calls that became this one.
CREATE TABLE pgtasks.unique_key (
  id uuid NOT NULL,
  since timestamptz NOT NULL DEFAULT pgtasks.clock(),
  keep_until timestamptz,
  bucket smallint NOT NULL DEFAULT 0,
  key text COLLATE "C" NOT NULL,
  CONSTRAINT unique_key_pkey PRIMARY KEY (key)
) WITH (fillfactor = 70);

-- The lock of a flow, or of the limits of a queue: to let in, to count, to give up a place. Shared by those that only look.
CREATE FUNCTION pgtasks.flow_lock(name text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN hashtextextended(name, 7166465);

-- How many more may be let in for one key; NULL is without end.
CREATE FUNCTION pgtasks.room_of_key(f pgtasks.flow, of_key text) RETURNS bigint LANGUAGE sql STABLE
  RETURN least(
    f.concurrency - (SELECT count(*) FROM pgtasks.slot s WHERE s.flow = f.name AND s.key = of_key),
    f.rate - (SELECT count(*) FROM pgtasks.slot s WHERE s.flow = f.name AND s.key = of_key AND NOT s.has_begun)
           - (SELECT count(*) FROM pgtasks.stamp t
              WHERE t.flow = f.name AND t.key = of_key AND t.at > pgtasks.clock() - f.period * interval '1 second'));

-- How many more may be let in for all keys together; NULL is without end.
CREATE FUNCTION pgtasks.room_of_flow(f pgtasks.flow) RETURNS bigint LANGUAGE sql STABLE
  RETURN least(
    f.total_concurrency - (SELECT count(*) FROM pgtasks.slot s WHERE s.flow = f.name),
    f.total_rate - (SELECT count(*) FROM pgtasks.slot s WHERE s.flow = f.name AND NOT s.has_begun)
                 - (SELECT count(*) FROM pgtasks.stamp t
                    WHERE t.flow = f.name AND t.at > pgtasks.clock() - f.total_period * interval '1 second'));

-- When a rate that is used up lets the next one in: when the oldest start that counts leaves the period. If only tasks that
-- have not begun use it up, nobody can say: then in a second.
CREATE FUNCTION pgtasks.opening(oldest timestamptz, period float8) RETURNS timestamptz LANGUAGE sql STABLE
  RETURN coalesce(oldest + period * interval '1 second', pgtasks.clock() + interval '1 second');

-- Let in what the limits of a flow leave room for: one of each lane that is open, then the next round. With keys no more is
-- let in than the workers will claim soon: whoever comes later waits behind that much, and behind one task of every other key.
-- Relies on held_pkey, lane_open, slot_place. Locks: the flow. Gives how many were let in.
CREATE FUNCTION pgtasks.let_in(flow_name text) RETURNS bigint LANGUAGE plpgsql AS $$
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
    RETURN 0;
  END IF;
  WITH knocked AS (
    DELETE FROM pgtasks.knock WHERE flow = f.name RETURNING key, seq
  )
  INSERT INTO pgtasks.lane (flow, key) SELECT f.name, key FROM knocked GROUP BY key ORDER BY min(seq)
  -- One that is closed is full, whoever comes.
  ON CONFLICT (flow, key) DO NOTHING;
  UPDATE pgtasks.lane SET is_open = true, opens_at = NULL WHERE flow = f.name AND opens_at <= pgtasks.clock();
  FOR pass IN 1..1000 LOOP
    room := pgtasks.room_of_flow(f);
    IF f.is_keyed THEN
      room := least(room, greatest(16, 4 * (
          SELECT sum(concurrency) FROM pgtasks.worker WHERE heartbeat_at + lease > pgtasks.clock()))
        - (SELECT count(*) FROM pgtasks.slot s WHERE s.flow = f.name));
    END IF;
    room := coalesce(room, 500);
    EXIT WHEN room <= 0;
    keys := ARRAY(SELECT key FROM pgtasks.lane WHERE flow = f.name AND is_open ORDER BY turn LIMIT least(room, 100));
    lanes := cardinality(keys);
    EXIT WHEN lanes = 0;
    -- Fewer lanes than room: each may have more than one, in turns.
    share := CASE WHEN lanes < room THEN greatest(1, least(room / lanes, 500)) ELSE 1 END;
    WITH lane AS (
      SELECT k.key, k.place, least(share, coalesce(pgtasks.room_of_key(f, k.key), share)) AS room
      FROM unnest(keys) WITH ORDINALITY AS k(key, place)
    ),
    picked AS MATERIALIZED (
      SELECT h.at, h.id, lane.place, row_number() OVER (PARTITION BY lane.key ORDER BY h.rank, h.seq) AS round
      FROM lane CROSS JOIN LATERAL (
        SELECT ctid AS at, id, rank, seq FROM pgtasks.held WHERE flow = f.name AND key = lane.key
        ORDER BY rank, seq LIMIT greatest(lane.room, 0) FOR UPDATE SKIP LOCKED
      ) h
    ),
    freed AS (
      -- By ctid, as `claim` does: these rows are never updated, and a join would read all that is held.
      DELETE FROM pgtasks.held WHERE ctid = ANY (ARRAY(SELECT at FROM picked)) RETURNING *
    ),
    placed AS (
      INSERT INTO pgtasks.slot (id, flow, key) SELECT id, flow, key FROM freed
      ON CONFLICT (id) DO UPDATE SET flow = excluded.flow, key = excluded.key, has_begun = false
    ),
    entered AS (
      INSERT INTO pgtasks.ready (id, queue, rank, delivery, retries, losses)
      SELECT e.id, e.queue, e.rank, e.delivery, e.retries, e.losses
      FROM freed e JOIN picked p ON p.id = e.id ORDER BY p.round, p.place
      RETURNING queue
    )
    SELECT count(*), array_agg(DISTINCT queue) INTO got, these FROM entered;
    total := total + got;
    queues := queues || these;
    DELETE FROM pgtasks.lane l
    WHERE l.flow = f.name AND l.key = ANY (keys)
      -- OFFSET 0: looked up lane by lane, not joined with all that is held.
      AND NOT EXISTS (SELECT FROM pgtasks.held h WHERE h.flow = l.flow AND h.key = l.key OFFSET 0);
    UPDATE pgtasks.lane l
    SET turn = nextval('pgtasks.lane_turn'),
        is_open = k.room > 0,
        opens_at = CASE WHEN k.room <= 0 AND f.rate IS NOT NULL THEN pgtasks.opening((
          SELECT min(t.at) FROM pgtasks.stamp t
          WHERE t.flow = f.name AND t.key = l.key AND t.at > pgtasks.clock() - f.period * interval '1 second'), f.period) END
    FROM (
      SELECT key, coalesce(pgtasks.room_of_key(f, key), 1) AS room FROM unnest(keys) WITH ORDINALITY AS u(key, place)
      ORDER BY place
    ) k
    WHERE l.flow = f.name AND l.key = k.key;
    -- Rows that somebody has locked, to revoke them, are left where they are.
    EXIT WHEN got = 0 AND NOT EXISTS (
      SELECT FROM pgtasks.lane l WHERE l.flow = f.name AND l.is_open AND l.key <> ALL (keys));
  END LOOP;
  IF f.total_rate IS NOT NULL AND room <= 0 THEN
    UPDATE pgtasks.flow SET opens_at = pgtasks.opening((
      SELECT min(t.at) FROM pgtasks.stamp t
      WHERE t.flow = f.name AND t.at > pgtasks.clock() - f.total_period * interval '1 second'), f.total_period)
    WHERE name = f.name;
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

-- May a claimed task begin, by the limits of its flow? Asked just before its code runs, at every delivery. A task that was let
-- in has its place: 'go'. 'lost': the claim is gone. 'ask': it has no place, so `ask_flow`.
-- The flow is locked shared: nobody who takes places away does so between the look at the place and the end of this call.
-- Relies on claim_pkey, slot_pkey. Locks: the flow, shared.
CREATE FUNCTION pgtasks.begin_in_flow(task uuid, by_worker uuid, at_delivery int, flow_name text, flow_key text)
  RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  f pgtasks.flow;
  has_rate boolean;
BEGIN
  PERFORM pg_advisory_xact_lock_shared(pgtasks.flow_lock(flow_name));
  SELECT * INTO f FROM pgtasks.flow WHERE name = flow_name;
  has_rate := f.rate IS NOT NULL OR f.total_rate IS NOT NULL;
  IF NOT EXISTS (SELECT FROM pgtasks.claim WHERE id = task AND worker = by_worker AND delivery = at_delivery) THEN
    RETURN 'lost';
  ELSIF has_rate THEN
    UPDATE pgtasks.slot SET has_begun = true WHERE id = task AND flow = flow_name AND key = flow_key AND NOT has_begun;
    IF FOUND THEN
      INSERT INTO pgtasks.stamp (flow, key, id, at) VALUES (flow_name, flow_key, task, pgtasks.clock());
      RETURN 'go';
    END IF;
  ELSIF EXISTS (SELECT FROM pgtasks.slot WHERE id = task AND flow = flow_name AND key = flow_key) THEN
    RETURN 'go';
  END IF;
  RETURN 'ask';
END
$$;

-- May a claimed task begin that has no place: since it came by its due time, predecessors, a retry or a redrive, or since it
-- begins again where there is a rate? It takes a place if there is room and nobody waits in its lane. Gives 'go'; 'lost';
-- 'unknown' when nobody has declared the flow; or 'held', and then the claim is gone: the task waits for its turn.
-- Locks: the claim, then the flow.
CREATE FUNCTION pgtasks.ask_flow(task uuid, by_worker uuid, at_delivery int, flow_name text, flow_key text)
  RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  c pgtasks.claim;
  f pgtasks.flow;
  has_rate boolean;
  had pgtasks.slot;
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
    UPDATE pgtasks.lane SET opens_at = pgtasks.clock() WHERE flow = had.flow AND key = had.key AND NOT is_open;
  END IF;
  IF c.revoke_signal IS NULL
     AND coalesce(least(pgtasks.room_of_key(f, flow_key), pgtasks.room_of_flow(f)), 1) > 0
     AND ((had.flow, had.key) = (flow_name, flow_key)
          OR NOT EXISTS (SELECT FROM pgtasks.held h WHERE h.flow = flow_name AND h.key = flow_key)) THEN
    INSERT INTO pgtasks.slot (id, flow, key, has_begun) VALUES (task, flow_name, flow_key, has_rate);
    IF has_rate THEN
      INSERT INTO pgtasks.stamp (flow, key, id, at) VALUES (flow_name, flow_key, task, pgtasks.clock());
    END IF;
    RETURN 'go';
  END IF;
  DELETE FROM pgtasks.claim WHERE id = task;
  INSERT INTO pgtasks.revoked (id) SELECT task WHERE c.revoke_signal IS NOT NULL ON CONFLICT (id) DO NOTHING;
  INSERT INTO pgtasks.held (id, flow, key, queue, rank, retries, delivery, losses)
  SELECT id, flow_name, flow_key, queue, -priority, c.retries, c.delivery, c.losses FROM pgtasks.message WHERE id = task;
  INSERT INTO pgtasks.knock (flow, key) VALUES (flow_name, flow_key);
  PERFORM pgtasks.let_in(flow_name);
  RETURN 'held';
END
$$;

-- Give up the places of tasks that no worker runs any more, and let in who waits for them. One that is claimed anew keeps
-- its place. Locks: the flows, by name.
CREATE FUNCTION pgtasks.leave_flow(tasks uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  name text;
BEGIN
  FOR name IN SELECT DISTINCT flow FROM pgtasks.slot WHERE id = ANY (tasks) ORDER BY flow LOOP
    PERFORM pg_advisory_xact_lock(pgtasks.flow_lock(name));
    WITH gone AS (
      DELETE FROM pgtasks.slot s
      WHERE s.id = ANY (tasks) AND s.flow = name AND NOT EXISTS (SELECT FROM pgtasks.claim c WHERE c.id = s.id)
      RETURNING key
    )
    UPDATE pgtasks.lane SET is_open = true, opens_at = NULL
    WHERE flow = name AND key IN (SELECT key FROM gone) AND NOT is_open;
    PERFORM pgtasks.let_in(name);
  END LOOP;
END
$$;

-- Put right what no end of a task has put right, about once a second while anything is held: give up places of tasks that
-- ended elsewhere (revoked, stored from outside), that sleep or wait to be tried again; let in what a rate allows by now.
-- A flow that somebody else is at is left to them. Gives how many were let in, and the seconds until a rate lets in more.
CREATE FUNCTION pgtasks.sweep_flows(OUT total bigint, OUT opens_in float8) LANGUAGE plpgsql AS $$
DECLARE
  each_name text;
BEGIN
  total := 0;
  FOR each_name IN
    SELECT f.name FROM pgtasks.flow f
    WHERE EXISTS (SELECT FROM pgtasks.held h WHERE h.flow = f.name OFFSET 0)
      AND (coalesce(f.swept_at, '-infinity') < pgtasks.clock() - interval '0.5 seconds' OR f.opens_at <= pgtasks.clock()
           OR EXISTS (SELECT FROM pgtasks.lane l WHERE l.flow = f.name AND l.opens_at <= pgtasks.clock()))
    UNION
    SELECT flow FROM pgtasks.knock
    ORDER BY 1
  LOOP
    CONTINUE WHEN NOT pg_try_advisory_xact_lock(pgtasks.flow_lock(each_name));
    WITH gone AS (
      DELETE FROM pgtasks.slot s
      WHERE s.flow = each_name AND NOT EXISTS (SELECT FROM pgtasks.claim c WHERE c.id = s.id)
        AND (EXISTS (SELECT FROM pgtasks.result r WHERE r.id = s.id)
             OR EXISTS (SELECT FROM pgtasks.scheduled d WHERE d.id = s.id)
             OR EXISTS (SELECT FROM pgtasks.waiting w WHERE w.id = s.id AND w.pending > 0)
             OR NOT EXISTS (SELECT FROM pgtasks.message m WHERE m.id = s.id))
      RETURNING key
    )
    UPDATE pgtasks.lane SET is_open = true, opens_at = NULL
    WHERE flow = each_name AND key IN (SELECT key FROM gone) AND NOT is_open;
    DELETE FROM pgtasks.stamp t USING pgtasks.flow f
    WHERE f.name = each_name AND t.flow = f.name
      AND t.at < pgtasks.clock() - greatest(f.period, f.total_period, 0) * interval '1 second';
    UPDATE pgtasks.flow SET swept_at = pgtasks.clock(), opens_at = NULL WHERE name = each_name;
    total := total + pgtasks.let_in(each_name);
  END LOOP;
  SELECT extract(epoch FROM least(
    (SELECT min(opens_at) FROM pgtasks.lane WHERE opens_at > pgtasks.clock()),
    (SELECT min(opens_at) FROM pgtasks.flow WHERE opens_at > pgtasks.clock())) - pgtasks.clock()) INTO opens_in;
END
$$;

-- Set the limits of a flow: as a program declares them, unless somebody has set others by hand; or by hand. What they leave
-- room for is let in. Gives whether anything changed. Locks: the flow, if so.
CREATE FUNCTION pgtasks.set_flow(
  flow_name text, keyed boolean, most int, rate int, period float8, total_most int, total_rate int, total_period float8,
  by_hand boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
  IF EXISTS (
    SELECT FROM pgtasks.flow f
    WHERE f.name = flow_name
      AND (f.is_set_by_hand AND NOT by_hand
           OR (f.is_keyed, f.concurrency, f.rate, f.period, f.total_concurrency, f.total_rate, f.total_period, f.is_set_by_hand)
              IS NOT DISTINCT FROM (keyed, most, rate, period, total_most, total_rate, total_period, by_hand))) THEN
    RETURN false;
  END IF;
  PERFORM pg_advisory_xact_lock(pgtasks.flow_lock(flow_name));
  INSERT INTO pgtasks.flow AS f (name, is_keyed, concurrency, rate, period, total_concurrency, total_rate, total_period,
                                 is_set_by_hand)
  VALUES (flow_name, keyed, most, rate, period, total_most, total_rate, total_period, by_hand)
  ON CONFLICT ON CONSTRAINT flow_pkey DO UPDATE
  SET is_keyed = excluded.is_keyed, concurrency = excluded.concurrency, rate = excluded.rate, period = excluded.period,
      total_concurrency = excluded.total_concurrency, total_rate = excluded.total_rate,
      total_period = excluded.total_period, is_set_by_hand = excluded.is_set_by_hand, opens_at = NULL;
  UPDATE pgtasks.lane l SET is_open = true, opens_at = NULL WHERE l.flow = flow_name AND NOT l.is_open;
  PERFORM pgtasks.let_in(flow_name);
  RETURN true;
END
$$;

-- How many tasks a worker may claim from a limited queue now, of those that it has room for. Whoever asks claims them in the
-- same transaction. Locks: the queue's limit. Relies on claim_pkey.
CREATE FUNCTION pgtasks.reserve(queue_name text, by_worker uuid, wanted int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  l pgtasks.queue_limit;
  taken bigint;
  mine bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(pgtasks.flow_lock('queue:' || queue_name));
  SELECT * INTO l FROM pgtasks.queue_limit WHERE queue = queue_name;
  IF NOT FOUND THEN
    RETURN wanted;
  END IF;
  SELECT count(*), count(*) FILTER (WHERE c.worker = by_worker) INTO taken, mine
  FROM pgtasks.claim c JOIN pgtasks.message m ON m.id = c.id WHERE m.queue = queue_name;
  RETURN greatest(0, least(wanted, l.concurrency - taken, l.per_worker - mine, l.rate - (
    SELECT count(*) FROM pgtasks.stamp t
    WHERE t.flow = 'queue:' || queue_name AND t.key = '' AND t.at > pgtasks.clock() - l.period * interval '1 second')));
END
$$;

-- Which task stands for some key: the given one, or one that is there already and still counts. It counts until it has ended;
-- until = 'begun': while no worker has it; with a period: so long, whatever becomes of it. Of two at once one waits for the
-- other's transaction. Locks: the key's row.
CREATE FUNCTION pgtasks.take_key(wanted_key text, task uuid, until text, period float8) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  k pgtasks.unique_key;
  counts boolean;
BEGIN
  LOOP
    INSERT INTO pgtasks.unique_key (key, id, keep_until)
    VALUES (wanted_key, task, pgtasks.clock() + period * interval '1 second')
    ON CONFLICT (key) DO NOTHING;
    IF FOUND THEN
      RETURN task;
    END IF;
    SELECT * INTO k FROM pgtasks.unique_key WHERE key = wanted_key FOR UPDATE;
    EXIT WHEN FOUND;
  END LOOP;
  counts := CASE
    WHEN k.id = task THEN true
    WHEN until = 'period' THEN k.since > pgtasks.clock() - period * interval '1 second'
    WHEN EXISTS (SELECT FROM pgtasks.result WHERE id = k.id) THEN false
    WHEN until = 'begun' AND EXISTS (SELECT FROM pgtasks.claim WHERE id = k.id) THEN false
    ELSE EXISTS (SELECT FROM pgtasks.message WHERE id = k.id)
  END;
  IF counts THEN
    RETURN k.id;
  END IF;
  UPDATE pgtasks.unique_key
  SET id = task, since = pgtasks.clock(), keep_until = pgtasks.clock() + period * interval '1 second'
  WHERE key = wanted_key;
  RETURN task;
END
$$;

-- Take some keys, all or none. Gives the tasks that stand for them, in the order of the arguments.
CREATE FUNCTION pgtasks.take_keys(keys text[], tasks uuid[], untils text[], periods float8[]) RETURNS uuid[]
  LANGUAGE plpgsql AS $$
DECLARE
  holders uuid[] := array_fill(NULL::uuid, ARRAY[cardinality(keys)]);
  place int;
  before int;
BEGIN
  -- In the order of the keys: two that take the same ones do not wait for each other.
  FOR place IN SELECT p.place FROM unnest(keys) WITH ORDINALITY AS p(key, place) ORDER BY p.key, p.place LOOP
    -- Of two here with one key the first stands for both: it is not a message yet, by which it could be known.
    holders[place] := CASE WHEN keys[place] = keys[before] THEN holders[before]
      ELSE pgtasks.take_key(keys[place], tasks[place], untils[place], periods[place]) END;
    before := place;
  END LOOP;
  IF holders <> tasks THEN
    DELETE FROM pgtasks.unique_key k USING unnest(tasks) AS t(id) WHERE k.id = t.id AND k.key = ANY (keys)
      AND NOT EXISTS (SELECT FROM pgtasks.message m WHERE m.id = t.id);
  END IF;
  RETURN holders;
END
$$;

-- Which task a debounced call becomes: the given one; or one that is there already and still waits for its time, which then has
-- the words of this call, and waits anew, but not beyond `longest` seconds after the first call.
-- Locks: the key's row, scheduled, message.
CREATE FUNCTION pgtasks.debounce(
  wanted_key text, task uuid, wait float8, longest float8, new_payload bytea, new_content_type text, new_content_encoding text,
  new_options bytea, new_queue text, new_priority smallint, new_expires timestamptz
) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  k pgtasks.unique_key;
BEGIN
  LOOP
    INSERT INTO pgtasks.unique_key (key, id) VALUES (wanted_key, task) ON CONFLICT (key) DO NOTHING;
    IF FOUND THEN
      RETURN task;
    END IF;
    SELECT * INTO k FROM pgtasks.unique_key WHERE key = wanted_key FOR UPDATE;
    EXIT WHEN FOUND;
  END LOOP;
  IF k.id = task THEN
    RETURN task;
  END IF;
  UPDATE pgtasks.scheduled
  SET due = least(pgtasks.clock() + wait * interval '1 second', k.since + longest * interval '1 second'),
      queue = new_queue, rank = -new_priority
  WHERE id = k.id AND delivery = 0 AND NOT is_suspended;
  IF FOUND THEN
    UPDATE pgtasks.message
    SET payload = new_payload, content_type = new_content_type, content_encoding = new_content_encoding,
        options = new_options, queue = new_queue, priority = new_priority, expires = new_expires
    WHERE id = k.id;
    RETURN k.id;
  END IF;
  UPDATE pgtasks.unique_key SET id = task, since = pgtasks.clock() WHERE key = wanted_key;
  RETURN task;
END
$$;

-- One row per task, wherever it stands: HELD is what waits for its turn under a limit.
CREATE OR REPLACE VIEW pgtasks.tasks AS
SELECT m.id, m.task_id, m.name, m.queue, m.priority,
       CASE
         WHEN r.id IS NOT NULL THEN r.state
         WHEN c.id IS NOT NULL THEN coalesce(p.state, 'STARTED')
         WHEN s.id IS NOT NULL THEN coalesce(p.state, 'SCHEDULED')
         WHEN w.pending > 0 THEN 'WAITING'
         WHEN h.id IS NOT NULL THEN coalesce(p.state, 'HELD')
         ELSE coalesce(p.state, 'READY')
       END AS state,
       m.created_at, coalesce(s.due, m.due) AS due, m.expires,
       coalesce(r.claimed_at, c.claimed_at) AS claimed_at, r.done_at,
       coalesce(r.retries, c.retries, s.retries, h.retries, 0) AS retries,
       coalesce(r.delivery, c.delivery, s.delivery, h.delivery, 0) AS delivery,
       coalesce(r.worker, k.hostname) AS worker,
       w.pending, m.root, m.parent, m.group_id,
       pgtasks.readable(m.payload, m.content_type, m.content_encoding) AS payload,
       pgtasks.readable(r.value, r.content_type, r.content_encoding) AS result,
       pgtasks.readable(r.traceback, NULL, NULL) AS traceback
FROM pgtasks.message m
LEFT JOIN pgtasks.result r ON r.id = m.id
LEFT JOIN pgtasks.claim c ON c.id = m.id
LEFT JOIN pgtasks.worker k ON k.id = c.worker
LEFT JOIN pgtasks.scheduled s ON s.id = m.id
LEFT JOIN pgtasks.waiting w ON w.id = m.id
LEFT JOIN pgtasks.held h ON h.id = m.id
LEFT JOIN pgtasks.progress p ON p.id = m.id;

-- How much waits in each queue, and for how long.
CREATE OR REPLACE VIEW pgtasks.queues AS
SELECT queue, sum(ready)::bigint AS ready, sum(scheduled)::bigint AS scheduled, min(oldest) AS oldest,
       sum(held)::bigint AS held
FROM (
  SELECT r.queue, count(*) AS ready, 0 AS scheduled, 0 AS held, min(m.created_at) AS oldest
  FROM pgtasks.ready r JOIN pgtasks.message m ON m.id = r.id GROUP BY r.queue
  UNION ALL
  SELECT queue, 0, count(*), 0, NULL FROM pgtasks.scheduled GROUP BY queue
  UNION ALL
  SELECT queue, 0, 0, count(*), min(since) FROM pgtasks.held GROUP BY queue
) q
GROUP BY queue;

-- What should move and does not: no worker consumes the queue, the worker is gone, the due time passed, or nobody knows the
-- limits.
CREATE OR REPLACE VIEW pgtasks.stuck AS
SELECT m.id, m.name, m.queue, 'no live worker consumes this queue' AS why, m.created_at AS since
FROM pgtasks.ready r JOIN pgtasks.message m ON m.id = r.id
WHERE NOT EXISTS (
  SELECT FROM pgtasks.worker w WHERE r.queue = ANY (w.queues) AND w.heartbeat_at + w.lease > pgtasks.clock())
UNION ALL
SELECT m.id, m.name, m.queue, 'its worker is gone; a live worker will take it over', c.claimed_at
FROM pgtasks.claim c JOIN pgtasks.message m ON m.id = c.id
WHERE NOT EXISTS (
  SELECT FROM pgtasks.worker w WHERE w.id = c.worker AND w.heartbeat_at + w.lease > pgtasks.clock())
UNION ALL
SELECT m.id, m.name, m.queue, 'its due time passed and no worker moved it', s.due
FROM pgtasks.scheduled s JOIN pgtasks.message m ON m.id = s.id
WHERE s.due < pgtasks.clock() - interval '1 minute'
UNION ALL
SELECT m.id, m.name, h.queue, 'no worker has started that knows its flow', h.since
FROM pgtasks.held h JOIN pgtasks.message m ON m.id = h.id
WHERE NOT EXISTS (SELECT FROM pgtasks.flow f WHERE f.name = h.flow);

-- What is held, and what it waits for.
CREATE VIEW pgtasks.held_tasks AS
SELECT m.id, m.task_id, m.name, h.queue, h.flow, h.key, h.since, m.priority,
       CASE
         WHEN f.name IS NULL THEN 'no worker has started that knows its flow'
         WHEN l.key IS NULL THEN 'it has just come'
         WHEN f.concurrency <= (SELECT count(*) FROM pgtasks.slot s WHERE s.flow = h.flow AND s.key = h.key)
           THEN format('%s of its key are let in: concurrency', f.concurrency)
         WHEN l.opens_at IS NOT NULL THEN format('%s of its key have begun in %s s: rate', f.rate, f.period)
         WHEN f.total_concurrency <= (SELECT count(*) FROM pgtasks.slot s WHERE s.flow = h.flow)
           THEN format('%s of its flow are let in: total_concurrency', f.total_concurrency)
         WHEN f.opens_at IS NOT NULL THEN format('%s of its flow have begun in %s s: total_rate', f.total_rate, f.total_period)
         ELSE 'others have their turn before it'
       END AS why,
       coalesce(l.opens_at, f.opens_at) AS opens_at
FROM pgtasks.held h
JOIN pgtasks.message m ON m.id = h.id
LEFT JOIN pgtasks.flow f ON f.name = h.flow
LEFT JOIN pgtasks.lane l ON l.flow = h.flow AND l.key = h.key;

-- The limits there are, and how far they are used.
CREATE VIEW pgtasks.flows AS
SELECT f.name, f.is_keyed, f.concurrency, f.rate, f.period, f.total_concurrency, f.total_rate, f.total_period, f.is_set_by_hand,
       (SELECT count(*) FROM pgtasks.slot s WHERE s.flow = f.name) AS let_in,
       (SELECT count(*) FROM pgtasks.held h WHERE h.flow = f.name) AS held,
       (SELECT min(h.since) FROM pgtasks.held h WHERE h.flow = f.name) AS oldest
FROM pgtasks.flow f;
