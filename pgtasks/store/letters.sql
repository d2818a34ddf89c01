-- Statements on letters: commands to workers and their replies. See migrations/0002_control.sql for the tables.

-- name: post
-- Leave a letter for every live worker, or for those of some names, and wake them. Workers of Celery have mailboxes.
-- Not to be sent again blindly: a worker that has read the first one would read a second.
-- In: hostnames or NULL for all, command, arguments with their types, ticket or NULL, clock, seconds until it is void or
-- NULL. Out: the names of the workers it is for.
WITH addressed AS (
  SELECT id, hostname FROM pgtasks.worker
  WHERE heartbeat_at + lease > pgtasks.clock() AND pool <> 'kombu'
    AND (%(hostnames)b::text[] IS NULL OR hostname = ANY (%(hostnames)b::text[]))
),
posted AS (
  INSERT INTO pgtasks.letter (worker, expires_at, ticket, clock, command, content_type, content_encoding, arguments,
                              reply_mailbox, reply_ticket)
  SELECT id, pgtasks.clock() + %(expires_in)s::float8 * interval '1 second', %(ticket)s::uuid, %(clock)s, %(command)s,
         %(content_type)s, %(content_encoding)s, %(arguments)s, %(reply_mailbox)s, %(reply_ticket)s
  FROM addressed
  ORDER BY id
)
SELECT hostname,
       CASE WHEN pg_notification_queue_usage() < 0.5 THEN pg_notify('pgtasks_worker_' || id, 'letter') END
FROM addressed ORDER BY hostname

-- name: take
-- Take the letters of a worker, in the order they were posted; those that are void by now are thrown away.
-- Relies on letter_pkey. In: worker. Out: ticket, clock, command, arguments with their types, where a
-- program of Celery wants its reply.
WITH taken AS (
  DELETE FROM pgtasks.letter WHERE worker = %(worker)s
  RETURNING seq, expires_at, ticket, clock, command, content_type, content_encoding, arguments, reply_mailbox, reply_ticket
)
SELECT ticket, clock, command, content_type, content_encoding, arguments, reply_mailbox, reply_ticket
FROM taken WHERE expires_at IS NULL OR expires_at > pgtasks.clock() ORDER BY seq

-- name: answer
-- Leave a reply for whoever holds the ticket, and tell them.
WITH left_behind AS (
  INSERT INTO pgtasks.reply (ticket, hostname, clock, content_type, content_encoding, body)
  VALUES (%(ticket)s::uuid, %(hostname)s, %(clock)s, %(content_type)s, %(content_encoding)s, %(body)s)
)
SELECT pg_notify('pgtasks_ticket_' || %(ticket)s::uuid, '') WHERE pg_notification_queue_usage() < 0.5

-- name: collect
-- Take the replies to a ticket that have come so far.
-- Relies on reply_pkey. In: ticket. Out: hostname, clock, body with its types.
WITH taken AS (
  DELETE FROM pgtasks.reply WHERE ticket = %(ticket)s
  RETURNING seq, hostname, clock, content_type, content_encoding, body
)
SELECT hostname, clock, content_type, content_encoding, body FROM taken ORDER BY seq

-- name: sweep
-- Throw away what nobody will read: replies that came too late, letters to workers that are gone.
WITH late AS (
  DELETE FROM pgtasks.reply WHERE at < pgtasks.clock() - interval '10 minutes'
)
DELETE FROM pgtasks.letter l WHERE NOT EXISTS (SELECT FROM pgtasks.worker w WHERE w.id = l.worker)
