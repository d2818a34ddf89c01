-- Mail: what programs of Celery itself send and receive here beside tasks.
--
-- Why: through the kombu transport `pgtasks+postgresql://` unmodified Celery programs use this database as their broker.
-- Tasks become tasks. Letters to workers, their replies and events need exchanges, bindings and short-lived queues, which
-- are these tables. They stay empty where nobody uses the transport.
-- Locks: creates, and adds columns without a default to `letter`, which is an instant. The previous release works on
-- without noticing.
-- works with: 0001

-- How an exchange sends its messages on: to the queues bound by the routing key, by a pattern that fits it, or to all.
CREATE TABLE pgtasks.exchange (
  name text COLLATE "C" NOT NULL,
  bucket smallint NOT NULL DEFAULT 0,
  type text COLLATE "C" NOT NULL,
  CONSTRAINT exchange_pkey PRIMARY KEY (name),
  CONSTRAINT exchange_type_known CHECK (type IN ('direct', 'topic', 'fanout'))
);

-- Which queues an exchange sends to. A queue is a mailbox, or else a task queue. pattern is the regular expression of a
-- topic's routing key.
CREATE TABLE pgtasks.binding (
  exchange text COLLATE "C" NOT NULL,
  queue text COLLATE "C" NOT NULL,
  routing_key text COLLATE "C" NOT NULL,
  bucket smallint NOT NULL DEFAULT 0,
  is_mailbox boolean NOT NULL,
  pattern text COLLATE "C" NOT NULL,
  CONSTRAINT binding_pkey PRIMARY KEY (exchange, queue, routing_key)
);
CREATE INDEX binding_queue ON pgtasks.binding (queue);

-- Queues of messages that are not tasks: a worker's letters, a caller's replies, a monitor's events. One that its reader
-- has not been seen at for longer than `expires` gets no more, and is thrown away. listener: it gets the events of our own
-- workers as well, under this id.
-- Unlogged, as what is in them: programs declare theirs anew when the database has lost it.
CREATE UNLOGGED TABLE pgtasks.mailbox (
  name text COLLATE "C" NOT NULL,
  seen_at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  expires interval NOT NULL,
  keeps interval,
  reader uuid,
  listener uuid,
  bucket smallint NOT NULL DEFAULT 0,
  CONSTRAINT mailbox_pkey PRIMARY KEY (name)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Messages that nobody has taken. properties is JSON: headers, content type, where it was sent to.
CREATE UNLOGGED TABLE pgtasks.mail (
  mailbox text COLLATE "C" NOT NULL,
  seq bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
  expires_at timestamptz,
  bucket smallint NOT NULL DEFAULT 0,
  properties bytea NOT NULL,
  body bytea NOT NULL,
  CONSTRAINT mail_pkey PRIMARY KEY (mailbox, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Tasks that a worker of Celery has acknowledged before they ended, as it does by default: out of its queue, with no lease
-- on them, and perhaps never heard of again. What is here may be sent once more under its id, as a retry.
CREATE TABLE pgtasks.away (
  id uuid NOT NULL,
  since timestamptz NOT NULL DEFAULT pgtasks.clock(),
  delivery int NOT NULL,
  bucket smallint NOT NULL DEFAULT 0,
  CONSTRAINT away_pkey PRIMARY KEY (id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Where the reply to a letter goes that came from a program of Celery: a mailbox, and its sender's name for the reply.
ALTER TABLE pgtasks.letter ADD COLUMN reply_mailbox text COLLATE "C", ADD COLUMN reply_ticket text;
