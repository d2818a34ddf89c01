-- Moving from a Celery installation: what could not be taken over, and whose callers still ask the old result store.
--
-- Why: the bridge takes messages out of Redis and RabbitMQ. One that it cannot read must block no other and must not vanish.
-- Locks: creates only. The previous release works on without noticing.
-- works with: 0005

-- Messages of another broker that could not be read, with the reason. `message` is the whole of it, in kombu's JSON
-- form, so that it can be tried again. The id is made of the message: one that is delivered twice is one row.
CREATE TABLE pgtasks.set_aside (
  id uuid NOT NULL,
  at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  bucket smallint NOT NULL DEFAULT 0,
  priority smallint NOT NULL,
  source text NOT NULL,
  queue text NOT NULL,
  reason text NOT NULL,
  message bytea NOT NULL,
  CONSTRAINT set_aside_pkey PRIMARY KEY (id)
);

-- Tasks that were taken over and whose results go back to the old result store as well.
CREATE TABLE pgtasks.owed (
  id uuid NOT NULL,
  since timestamptz NOT NULL DEFAULT pgtasks.clock(),
  bucket smallint NOT NULL DEFAULT 0,
  CONSTRAINT owed_pkey PRIMARY KEY (id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
