-- Statements on monitoring events. See migrations/0002_control.sql for the tables.

-- name: listen
-- Say that somebody listens: from now on, and for as long as it is seen, events are kept for it.
-- In: listener.
INSERT INTO pgtasks.listener AS l (id) VALUES (%(listener)s)
ON CONFLICT (id) DO UPDATE SET seen_at = pgtasks.clock()

-- name: unlisten
-- Say that somebody listens no longer, and throw away what it has not read.
WITH gone AS (
  DELETE FROM pgtasks.listener WHERE id = %(listener)s
)
DELETE FROM pgtasks.event WHERE listener = %(listener)s

-- name: publish
-- Keep a batch of events for everybody who listens, and wake them. A listener that has not been seen for 15 seconds gets no
-- more, which bounds what is kept for one that died or is too slow.
-- In: body with its types. Out: how many listen.
WITH audience AS (
  SELECT id FROM pgtasks.listener WHERE seen_at > pgtasks.clock() - interval '15 seconds'
),
kept AS (
  INSERT INTO pgtasks.event (listener, content_type, content_encoding, body)
  SELECT id, %(content_type)s, %(content_encoding)s, %(body)s FROM audience ORDER BY id
)
SELECT count(*),
       count(CASE WHEN pg_notification_queue_usage() < 0.5 THEN pg_notify('pgtasks_listener_' || id, '') END)
FROM audience

-- name: hear
-- Take the events that have come for a listener, in the order they were published, a bounded number of batches at a time.
-- Relies on event_pkey. In: listener, limit. Out: body with its types.
WITH next AS MATERIALIZED (
  SELECT seq FROM pgtasks.event WHERE listener = %(listener)s ORDER BY seq LIMIT %(limit)s
),
taken AS (
  DELETE FROM pgtasks.event WHERE listener = %(listener)s AND seq IN (SELECT seq FROM next)
  RETURNING seq, content_type, content_encoding, body
)
SELECT content_type, content_encoding, body FROM taken ORDER BY seq

-- name: sweep
-- Throw away listeners that have not been seen for a minute, and what was kept for them.
WITH gone AS (
  DELETE FROM pgtasks.listener WHERE seen_at < pgtasks.clock() - interval '1 minute' RETURNING id
)
DELETE FROM pgtasks.event e
WHERE NOT EXISTS (SELECT FROM pgtasks.listener l WHERE l.id = e.listener) OR e.listener IN (SELECT id FROM gone)
