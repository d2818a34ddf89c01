-- Remote control: letters to workers, and their replies.
--
-- Why: commands and questions to workers that are running. A letter is a row per worker it is for, deleted when it is
-- read; whoever posts knows whom it reached, and so when every reply is there.
-- Locks: creates only. The previous release works on without noticing.
-- works with: 0001

-- Letters that a worker has not read. A ticket says that a reply is wanted, and under which name.
-- Unlogged: a letter is of no use to a worker that has lived through the loss of its database.
CREATE UNLOGGED TABLE pgtasks.letter (
  worker uuid NOT NULL,
  seq bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
  posted_at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  expires_at timestamptz,
  ticket uuid,
  clock bigint NOT NULL,
  bucket smallint NOT NULL DEFAULT 0,
  command text NOT NULL,
  content_type text COLLATE "C",
  content_encoding text COLLATE "C",
  arguments bytea NOT NULL,
  CONSTRAINT letter_pkey PRIMARY KEY (worker, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Replies that nobody has collected.
CREATE UNLOGGED TABLE pgtasks.reply (
  ticket uuid NOT NULL,
  seq bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
  at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  clock bigint NOT NULL,
  bucket smallint NOT NULL DEFAULT 0,
  hostname text NOT NULL,
  content_type text COLLATE "C",
  content_encoding text COLLATE "C",
  body bytea NOT NULL,
  CONSTRAINT reply_pkey PRIMARY KEY (ticket, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Who listens to monitoring events. Events are sent only while somebody does, and for seconds after it was last seen.
CREATE UNLOGGED TABLE pgtasks.listener (
  id uuid NOT NULL,
  seen_at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  bucket smallint NOT NULL DEFAULT 0,
  CONSTRAINT listener_pkey PRIMARY KEY (id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Events that a listener has not read, many to a row.
CREATE UNLOGGED TABLE pgtasks.event (
  listener uuid NOT NULL,
  seq bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
  bucket smallint NOT NULL DEFAULT 0,
  content_type text COLLATE "C",
  content_encoding text COLLATE "C",
  body bytea NOT NULL,
  CONSTRAINT event_pkey PRIMARY KEY (listener, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
